"""
An adversary of one's own: which sensors it may touch, in which ball, how it searches, how strong it is and when.

Any objective, solver and ball can be paired, in training as in evaluation. Needs the extra ``mujoco``.
"""

import argparse

import numpy as np
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_barpo import BARPO
from sb3_barpo.adversary import KL, PGD, Adversary, L2Ball
from sb3_barpo.attacks import GradientAttack
from sb3_barpo.evaluation import evaluate_robustness

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--timesteps", type=int, default=40_000, help="environment steps of training")
parser.add_argument("--episodes", type=int, default=8, help="episodes per attack")
args = parser.parse_args()

EPSILON = 0.3

# InvertedPendulum observes the cart's position, the pole's angle, and the velocities of both. Here the position sensor
# is trusted (0), the angle sensor as good as epsilon says (1), and velocities are twice as uncertain (2). In an L2 ball
# the features share one budget; in a LinfBall each has its own.
ball = L2Ball(scale=[0.0, 1.0, 2.0, 2.0])


# A schedule is any function of the progress remaining, 1 at the start and 0 at the end. Those of
# `sb3_barpo.schedules` are too, and can be written as strings, such as "ramp_0.3 > 0.8 > constant_0.2".
def strength(progress_remaining: float) -> float:
    return EPSILON if progress_remaining < 0.5 else 0.0  # PPO for the first half of training


env = VecNormalize(make_vec_env("InvertedPendulum-v5", n_envs=8, seed=0))
model = BARPO(
    "MlpPolicy",
    env,
    n_steps=128,
    seed=0,
    device="cpu",
    epsilon=strength,
    adversary=Adversary(KL(), PGD(n_steps=5), ball),
)
model.learn(args.timesteps)

# In evaluation the same parts, more of them: more steps, and the best of three starts.
strong = GradientAttack(model, EPSILON, Adversary(KL(), PGD(n_steps=10, restarts=3), ball), seed=0)

clean = env.reset()
moved = np.abs(strong.perturb(clean) - clean).max(axis=0)
print("largest move per sensor:", " ".join(f"{move:.3f}" for move in moved))

report = evaluate_robustness(model, env, attacks=["random", strong], epsilon=EPSILON, n_eval_episodes=args.episodes)
print(report.to_markdown())
