"""
Strength that listens: the adversary comes when the agent is competent, and κ is as large as a bound allows.

`Competence` reads the return of recent episodes. `DualKappa` reads the gap between PPO's objective at clean and at
perturbed observations: it gives natural return all the weight that keeps the gap at the bound. Needs the extra
``mujoco``.
"""

import argparse

from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_barpo import BARPO
from sb3_barpo.controllers import Competence, DualKappa
from sb3_barpo.evaluation import evaluate_robustness

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--timesteps", type=int, default=100_000, help="environment steps of training")
parser.add_argument("--episodes", type=int, default=10, help="episodes per attack")
args = parser.parse_args()

env = VecNormalize(make_vec_env("InvertedDoublePendulum-v5", n_envs=8, seed=0))
model = BARPO(
    "MlpPolicy",
    env,
    n_steps=256,
    batch_size=256,
    learning_rate=1e-3,
    epsilon=Competence(low=100, high=5000, value=0.05),  # untrained agents have a return of about 60, good ones 9000
    margin=1.5,  # shall withstand 0.05, is trained at up to 0.075
    kappa=DualKappa(bound=0.05),  # in units of the normalised advantage
    seed=0,
    device="cpu",
)
model.learn(args.timesteps)
# What the controllers have come to. The strings are the same settings for YAML: epsilon: competence_100_5000_0.05
print(f"epsilon={model.epsilon!r}, kappa={model.kappa!r}")
print({name: round(state, 3) for name, state in model.controls.items()})

env.training, env.norm_reward = False, False
report = evaluate_robustness(model, env, n_eval_episodes=args.episodes)  # at the epsilon to be withstood
print(report.to_markdown())
