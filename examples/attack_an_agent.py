"""
Attack an agent that was trained without this package, by each attack and through each of the three wrappers.

An attack changes what the policy sees and nothing else. Needs the extra ``mujoco``.
"""

import argparse

import gymnasium as gym
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_barpo.attacks import MAD, AttackObservation, Critic, Random, UnderAttack, VecAttackObservation

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--timesteps", type=int, default=40_000, help="environment steps of training")
parser.add_argument("--episodes", type=int, default=5, help="episodes per attack")
parser.add_argument("--epsilon", type=float, default=0.5, help="strength of the attacks")
args = parser.parse_args()

ENV = "InvertedPendulum-v5"

# The victim: a PPO as anyone would train it.
env = VecNormalize(make_vec_env(ENV, n_envs=8, seed=0))
model = PPO("MlpPolicy", env, n_steps=128, seed=0, device="cpu").learn(args.timesteps)
env.save("vecnormalize.pkl")


def frozen(venv):
    """The environment with the victim's statistics, which evaluation must not move."""
    normalized = VecNormalize.load("vecnormalize.pkl", venv)
    normalized.training = False
    normalized.norm_reward = False
    return normalized


def mean_return(agent, venv, episodes):
    venv.seed(0)
    return evaluate_policy(agent, venv, n_eval_episodes=episodes)[0]


# The attacks, on five environments at a time. `UnderAttack` fits wherever SB3 asks for something that has `predict`.
envs = frozen(make_vec_env(ENV, n_envs=5))
print(f"clean   {mean_return(model, envs, args.episodes):8.2f}")
for attack in (Random(model, args.epsilon), Critic(model, args.epsilon), MAD(model, args.epsilon)):
    attack.seed(0)
    print(f"{attack.name:<7} {mean_return(UnderAttack(model, attack), envs, args.episodes):8.2f}")

# One attack through its three wrappers, for one episode. As above, around the model:
single = frozen(make_vec_env(ENV))
around_model = mean_return(UnderAttack(model, MAD(model, args.epsilon, seed=0)), single, episodes=1)

# Around SB3's environments: outside VecNormalize, whose statistics stay clean. Its `seed` seeds the attack too.
around_venv = mean_return(model, VecAttackObservation(single, MAD(model, args.epsilon)), episodes=1)

# Around one Gymnasium environment: given the statistics, it perturbs raw observations by normalised amounts.
attacked = AttackObservation(Monitor(gym.make(ENV)), MAD(model, args.epsilon), vec_normalize=single)
around_env = mean_return(model, frozen(DummyVecEnv([lambda: attacked])), episodes=1)

# The same seeds give the same episode, whatever the wrapper.
print(f"MAD through its three wrappers: {around_model:.2f} {around_venv:.2f} {around_env:.2f}")
