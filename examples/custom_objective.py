"""An objective of one's own: an adversary that makes the agent do the opposite. Needs the extra ``mujoco``."""

import argparse

import torch as th
from stable_baselines3.common.env_util import make_vec_env

from sb3_barpo import BARPO
from sb3_barpo.adversary import PGD, Adversary, Objective, WarmStart
from sb3_barpo.attacks import GradientAttack
from sb3_barpo.evaluation import evaluate_robustness
from sb3_barpo.testing import check_objective


class Opposite(Objective):
    """``-⟨μ(s'), μ(s)⟩``, one value per row, with μ the mean of the actions."""

    def prepare(self, policy, observations, samples=None):
        with th.no_grad():
            clean = policy.get_distribution(observations).mode()
        return lambda perturbed: -(policy.get_distribution(perturbed).mode() * clean).sum(1)


class OppositeAttack(GradientAttack):
    name = "opposite"


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--timesteps", type=int, default=40_000, help="environment steps of training")
parser.add_argument("--episodes", type=int, default=8, help="episodes per attack")
args = parser.parse_args()
check_objective(Opposite())  # one finite value per row, of that row alone, with a gradient, ...
env = make_vec_env("InvertedPendulum-v5", n_envs=8, seed=0)
model = BARPO("MlpPolicy", env, n_steps=128, seed=0, epsilon=0.05, adversary=Adversary(Opposite(), WarmStart()))
model.learn(args.timesteps).save("opposite")
model = BARPO.load("opposite", env=env)  # its adversary comes with it
attack = OppositeAttack(model, 0.05, Adversary(Opposite(), PGD()), seed=0)
print(evaluate_robustness(model, env, ["random", attack], epsilon=0.05, n_eval_episodes=args.episodes))
