"""
BARPO's rivals in one table: each is an import and a line.

Trains for a few minutes at the default length; for figures that mean something, train longer and take several seeds.
Needs the extra ``mujoco``.
"""

import argparse

import pandas as pd
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_barpo import ATLA, BARPO, CARPPO, RADIALPPO, SAPPO, SPPO, WocaRPPO
from sb3_barpo.evaluation import evaluate_robustness

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--timesteps", type=int, default=40_000, help="environment steps of each training")
parser.add_argument("--episodes", type=int, default=5, help="episodes of evaluation, per attack")
parser.add_argument("--epsilon", type=float, default=0.3, help="strength, in training and in evaluation")
args = parser.parse_args()

# What each optimises: docs/defences.md. Weights are those of the published code for Hopper.
ramp = f"ramp_{args.epsilon}"
defences = {
    PPO: {},
    BARPO: {"epsilon": ramp},
    SAPPO: {"epsilon": ramp, "weight": 2.0},
    SPPO: {"epsilon": ramp, "weight": 2.0, "policy_kwargs": {"noise_std": 0.3}},
    CARPPO: {"epsilon": ramp, "weight": 1.0, "temperature": 100.0},
    RADIALPPO: {"epsilon": ramp, "weight": 0.5},
    WocaRPPO: {"epsilon": ramp, "weight": "linear_0_0.8", "penalty": 0.2},
    ATLA: {"epsilon": ramp, "attacker": "sarl"},
}

rows = {}
for algorithm, own in defences.items():
    env = VecNormalize(make_vec_env("InvertedPendulum-v5", n_envs=8, seed=0))
    model = algorithm("MlpPolicy", env, n_steps=128, seed=0, device="cpu", **own)
    model.learn(args.timesteps)
    env.training = env.norm_reward = False
    report = evaluate_robustness(model, env, epsilon=args.epsilon, n_eval_episodes=args.episodes)
    rows[algorithm.__name__] = {"natural": report.natural, "worst case": report.worst_case}
print(pd.DataFrame(rows).T.round(1).to_markdown())
