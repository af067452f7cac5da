"""The loss of SA-PPO."""

from dataclasses import dataclass

import torch as th

from sb3_barpo.adversary import Samples, clipped_surrogate
from sb3_barpo.losses.base import OuterLoss, Rows, Terms, named
from sb3_barpo.losses.surrogate import surrogate_and_slope
from sb3_barpo.policies.by_hand import Slopes
from sb3_barpo.schedules import ScheduleLike


@dataclass(frozen=True)
class Regularised(OuterLoss):
    """
    ``-mean surr(s) + λ mean D_KL(π(·|s) ‖ π(·|s'))``: PPO, and a policy that changes little within the ball (SA-PPO,
    Zhang et al., "Robust Deep Reinforcement Learning against Adversarial Perturbations on State Observations", NeurIPS
    2020, equation 8).

    The divergence is exact; the published code leaves out the Gaussian's ½, so that its weight is half of λ. Nothing is
    detached: both sides of the divergence and the standard deviation are pulled, where the published code holds the
    clean mean fixed.

    :param weight: λ, a number or a schedule; 0 is PPO.
    :raises ValueError: for a negative or not finite λ.
    """

    weight: ScheduleLike = 1.0

    @property
    def is_ppo(self) -> bool:
        return self.weight == 0

    def __call__(self, rows: Rows, samples: Samples) -> Terms:
        clean = samples.mean(clipped_surrogate(rows.log_prob[0], samples))
        divergence = samples.mean(rows.kl())
        loss = -clean + self.weight * divergence  # type: ignore[operator]  # a number, after `at`
        return Terms(loss, {"clean_surrogate": clean.detach(), "regulariser": divergence.detach()})

    def slopes(self, rows: Rows, samples: Samples) -> Slopes:
        weight: float = self.weight  # type: ignore[assignment]  # a number, after `at`
        surrogate, slope = surrogate_and_slope(rows.log_prob[0], samples)
        kl = rows.kl()
        clean, divergence = surrogate.mean(), kl.mean()
        to_log_prob = th.stack([slope.div_(-len(kl)), th.zeros_like(slope)])
        logs = named({"clean_surrogate": clean, "regulariser": divergence})
        return Slopes(weight * divergence - clean, logs, to_log_prob, th.full_like(kl, weight / len(kl)))
