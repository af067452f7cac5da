"""
What can nobody do to an agent? Bounds of its actions within ε, beside what a search achieves; lower bounds of its
return when it adds noise to what it sees. Needs the extra ``mujoco``.
"""

import argparse

import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_barpo import BARPO
from sb3_barpo.attacks import MaxKL
from sb3_barpo.certify import certify_actions, certify_return

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--timesteps", type=int, default=40_000, help="environment steps of training for each agent")
parser.add_argument("--episodes", type=int, default=1_000, help="episodes from which returns are certified")
args = parser.parse_args()

ENV, EPSILON, SIGMA = "InvertedPendulum-v5", 0.1, 0.2


def train(algorithm, **kwargs):
    env = VecNormalize(make_vec_env(ENV, n_envs=8, seed=0))
    model = algorithm("MlpPolicy", env, n_steps=128, seed=0, device="cpu", **kwargs).learn(args.timesteps)
    env.training = env.norm_reward = False
    return model, env


agents = {"PPO": train(PPO), "BARPO": train(BARPO, epsilon=f"ramp_{EPSILON}", kappa=1.0)}

print(f"ε = {EPSILON}: how far the force can move, of -3 to 3")
for name, (model, env) in agents.items():
    # States that the agent visits, as its policy sees them.
    env.seed(1)
    states = [env.reset()]
    for _ in range(20):
        states.append(env.step(model.predict(states[-1], deterministic=True)[0])[0])
    states = np.concatenate(states)
    certified = certify_actions(model, states, EPSILON)
    attacked = model.predict(MaxKL(model, EPSILON, seed=0).perturb(states), deterministic=True)[0]
    moved = np.abs(attacked - certified.actions)
    print(f"{name:<6} attacked {moved.mean():.3f}, certified {certified.shift.mean():.3f}")
    assert (moved <= certified.shift).all()

print(f"returns with noise of σ = {SIGMA}, and what is certain under every attack of an L2 norm an episode")
for name, (model, env) in agents.items():
    found = certify_return(model, env, SIGMA, args.episodes, seed=10_000)
    bounds = [f"{radius}: {found.quantile(0.5, radius):.0f}" for radius in (0.0, 0.1, 0.2)]
    mean = found.mean(0.1, lowest=0.0)  # all rewards are positive
    print(f"{name:<6} median {np.median(found.returns):.0f}, certified at {', '.join(bounds)}; mean at 0.1: {mean:.0f}")
