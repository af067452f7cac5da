"""
Harden a PPO agent, and keep the model that is best in the worst case.

Training starts from an agent that PPO has trained already; while it goes on, the agent is attacked at intervals. Needs
the extra ``mujoco``.
"""

import argparse

from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_barpo import BARPO
from sb3_barpo.evaluation import RobustEvalCallback, evaluate_robustness

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--timesteps", type=int, default=40_000, help="environment steps of training, half of them by PPO")
parser.add_argument("--episodes", type=int, default=5, help="episodes per attack")
args = parser.parse_args()

EPSILON = 0.3

env = VecNormalize(make_vec_env("InvertedPendulum-v5", n_envs=8, seed=0))
PPO("MlpPolicy", env, n_steps=128, seed=0, device="cpu").learn(args.timesteps // 2).save("ppo")

# A warm start is one line: PPO's file is BARPO's file. The statistics stay as PPO left them from here on, so that they
# fit whichever model turns out best.
env.training = False
model = BARPO.load("ppo", env=env, device="cpu", epsilon=f"ramp_{EPSILON}")

# The callback takes EvalCallback's arguments, and copies the training environment's statistics before it evaluates.
eval_env = VecNormalize(make_vec_env("InvertedPendulum-v5", n_envs=5, seed=1), training=False, norm_reward=False)
callback = RobustEvalCallback(
    eval_env,
    attacks=("random", "mad"),
    epsilon=EPSILON,
    n_eval_episodes=args.episodes,
    eval_freq=max(args.timesteps // 2 // 5 // env.num_envs, 1),  # in steps of each environment: five evaluations
    best_model_save_path="best",
    verbose=0,
)
model.learn(args.timesteps // 2, callback=callback)

best = BARPO.load("best/best_model", device="cpu")
report = evaluate_robustness(best, eval_env, epsilon=EPSILON, n_eval_episodes=args.episodes, name="best in worst case")
print(report.to_markdown())
