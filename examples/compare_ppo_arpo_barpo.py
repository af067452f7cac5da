"""
PPO, ARPO and BARPO side by side: same environment, same settings, same attacks.

One seed each: enough to see how a comparison is made, too few to conclude anything from it. Takes a few minutes. Needs
the extras ``mujoco`` and ``plots``.
"""

import argparse

from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_barpo import ARPO, BARPO
from sb3_barpo.evaluation import RobustnessReport, evaluate_robustness

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--timesteps", type=int, default=40_000, help="environment steps of training, per algorithm")
parser.add_argument("--episodes", type=int, default=8, help="episodes per agent and attack")
parser.add_argument("--epsilon", type=float, default=0.5, help="strength, in training and in evaluation")
args = parser.parse_args()

robust = {"epsilon": f"ramp_{args.epsilon}"}
candidates = {
    "PPO": (PPO, {}),
    "ARPO": (ARPO, robust),
    "ARPO, guided": (ARPO, {**robust, "kappa": 1.0}),
    "BARPO": (BARPO, robust),
}

reports = []
for name, (algorithm, kwargs) in candidates.items():
    env = VecNormalize(make_vec_env("InvertedPendulum-v5", n_envs=8, seed=0))
    model = algorithm("MlpPolicy", env, n_steps=128, seed=0, device="cpu", **kwargs)
    model.learn(args.timesteps)
    reports.append(evaluate_robustness(model, env, epsilon=args.epsilon, n_eval_episodes=args.episodes, name=name))

report = RobustnessReport.merge(reports)
print(report.to_markdown())
report.to_csv("comparison.csv")
report.plot("comparison.png")
