"""
Fit adversaries to an agent, keep the strongest of a small grid, and use a stored one again.

SA-RL and PA-AD are agents of SB3 themselves, trained against the victim; Robust Sarsa learns the victim's action value.
Needs the extras ``mujoco`` and ``plots``.
"""

import argparse

from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_barpo.attacks import SARL
from sb3_barpo.evaluation import evaluate_robustness
from sb3_barpo.evaluation.budgets import Budget, Member

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--timesteps", type=int, default=40_000, help="environment steps of training, and of each fit")
parser.add_argument("--episodes", type=int, default=10, help="episodes per attack")
parser.add_argument("--epsilon", type=float, default=0.3, help="strength of the attacks")
parser.add_argument("--jobs", type=int, default=1, help="number of processes")
args = parser.parse_args()

# The victim: a PPO as anyone would train it.
env = VecNormalize(make_vec_env("InvertedPendulum-v5", n_envs=8, seed=0))
model = PPO("MlpPolicy", env, n_steps=128, seed=0, device="cpu").learn(args.timesteps)

# One adversary by hand. All arguments that are not the attack's go to PPO. The victim stays as it is.
attack = SARL(model, args.epsilon, learning_rate=1e-3, n_steps=128, seed=0).fit(env, args.timesteps)
attack.save("sarl.zip")

# The six attacks of the field's tables, the learned ones each the strongest of a grid: here of one's own, otherwise
# budget="quick", "standard" or "paper". What is fitted lies in the folder and is found again.
adversary = {"n_steps": 128, "batch_size": 256}
grid = {
    "robust_sarsa": [Member("robust_sarsa", args.timesteps, {"regularization": weight}) for weight in (0.1, 1.0)],
    "sarl": [Member("sarl", args.timesteps, {"learning_rate": rate, **adversary}) for rate in (3e-4, 1e-3)],
    "paad": [Member("paad", args.timesteps, {"learning_rate": 1e-3, **adversary})],
}
report = evaluate_robustness(
    model,
    env,
    "all",
    args.epsilon,
    args.episodes,
    budget=Budget(grid, n_episodes=args.episodes),
    n_jobs=args.jobs,
    folder="attackers",
)
print(report.to_markdown())
report.plot("six-attacks.png")

# A stored attack serves again, and knows whom it was fitted on.
again = SARL.load("sarl.zip", model)
print(evaluate_robustness(model, env, again, n_eval_episodes=args.episodes).to_markdown())
