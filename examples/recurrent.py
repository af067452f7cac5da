"""
An agent with a memory, for a task that hides something: CartPole without its velocities.

Takes a few minutes. Needs the extra ``recurrent``.
"""

import argparse
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_barpo import RecurrentBARPO  # was: from sb3_contrib import RecurrentPPO
from sb3_barpo.attacks import MAD, UnderAttack
from sb3_barpo.evaluation import evaluate_robustness

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--timesteps", type=int, default=60_000, help="environment steps of training")
parser.add_argument("--episodes", type=int, default=5, help="episodes of evaluation, per attack")
args = parser.parse_args()


class NoVelocities(gym.ObservationWrapper[Any, Any, Any]):
    """Place of the cart and angle of the pole alone: how fast they move has to be remembered."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,))

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation[[0, 2]]


env = VecNormalize(make_vec_env("CartPole-v1", n_envs=8, seed=0, wrapper_class=NoVelocities))

# The adversary perturbs whole sequences of observations, and the memory sees what it did.
model = RecurrentBARPO(
    "MlpLstmPolicy",
    env,
    n_steps=128,
    batch_size=256,
    learning_rate=1e-3,
    gamma=0.98,
    policy_kwargs={"lstm_hidden_size": 32, "enable_critic_lstm": True},
    epsilon="ramp_0.1",
    seed=0,
    device="cpu",
)
model.learn(args.timesteps)

env.training = env.norm_reward = False
report = evaluate_robustness(model, env, epsilon=0.1, n_eval_episodes=args.episodes)
print(report.to_markdown())

# By hand: the state that is passed on holds the agent's memory, and what the attack knows of it.
face, state, starts = UnderAttack(model, MAD(model, epsilon=0.1, seed=0)), None, np.ones(8, dtype=bool)
observations, total = env.reset(), 0.0
for _ in range(50):
    actions, state = face.predict(observations, state, starts, deterministic=True)
    observations, rewards, starts, _ = env.step(actions)
    total += float(rewards.mean())
print(f"50 steps under attack: mean reward {total / 50:.2f}")
