"""An outer loss of one's own, and the algorithm that descends on it. Needs the extra ``mujoco``."""

import argparse
from dataclasses import dataclass

import torch as th
from stable_baselines3.common.env_util import make_vec_env

from sb3_barpo.adversary import KL, clipped_surrogate
from sb3_barpo.evaluation import evaluate_robustness
from sb3_barpo.losses import Defence, OuterLoss, Terms
from sb3_barpo.testing import check_loss
from sb3_barpo.training.presets import RobustPPO


@dataclass(frozen=True)
class WorseOfTwo(OuterLoss):
    """In each row the lower of the surrogates at ``s`` and at ``s'``, by a share; the one at ``s`` for the rest."""

    share: float = 0.5  # or a schedule; the algorithm takes it by this name

    def __call__(self, rows, samples):
        clean, perturbed = clipped_surrogate(rows.log_prob, samples)
        worse = samples.mean(th.minimum(clean, perturbed))
        return Terms(-(self.share * worse + (1 - self.share) * samples.mean(clean)), {"worse": worse.detach()})


class Careful(RobustPPO):
    defence = Defence(KL(), WorseOfTwo())


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--timesteps", type=int, default=40_000, help="environment steps of training")
parser.add_argument("--episodes", type=int, default=8, help="episodes per attack")
args = parser.parse_args()
check_loss(WorseOfTwo())  # a finite scalar with a gradient, settings that survive JSON, ...
env = make_vec_env("InvertedPendulum-v5", n_envs=8, seed=0)
Careful("MlpPolicy", env, n_steps=128, seed=0, epsilon=0.05, share="ramp_1").learn(args.timesteps).save("careful")
print(evaluate_robustness(Careful.load("careful", env=env), env, epsilon=0.05, n_eval_episodes=args.episodes))
