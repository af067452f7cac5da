"""
Train a robust agent: the script that trains a PPO with Stable-Baselines3, one import changed.

Takes a minute or two. Needs the extra ``mujoco``.
"""

import argparse

from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_barpo import BARPO  # was: from stable_baselines3 import PPO
from sb3_barpo.evaluation import evaluate_robustness

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--timesteps", type=int, default=40_000, help="environment steps of training")
parser.add_argument("--episodes", type=int, default=5, help="episodes of evaluation, per attack")
args = parser.parse_args()

# Epsilon is in units of what the policy sees. With VecNormalize one unit is one standard deviation of a feature.
env = VecNormalize(make_vec_env("InvertedPendulum-v5", n_envs=8, seed=0))

# Every argument of PPO is there. Two of BARPO's own: the adversary's strength over training, and the weight of the
# clean objective.
model = BARPO("MlpPolicy", env, n_steps=128, seed=0, device="cpu", epsilon="ramp_0.3", kappa=1.0)
model.learn(args.timesteps)

# An agent that was trained on normalised observations is two files.
model.save("barpo")
env.save("barpo-vecnormalize.pkl")

# Later, perhaps elsewhere: load both, evaluate clean and under attack. The evaluation leaves the statistics alone.
eval_env = VecNormalize.load("barpo-vecnormalize.pkl", make_vec_env("InvertedPendulum-v5", n_envs=5))
agent = BARPO.load("barpo", device="cpu")
report = evaluate_robustness(agent, eval_env, epsilon=0.3, n_eval_episodes=args.episodes)
print(report.to_markdown())
print(f"natural {report.natural:.1f}, worst case {report.worst_case:.1f}, robustness {report.robustness:+.3f}")
