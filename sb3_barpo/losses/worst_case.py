"""The loss of ARPO and BARPO."""

from dataclasses import dataclass

from sb3_barpo.adversary import Samples, clipped_surrogate
from sb3_barpo.losses.base import OuterLoss, Rows, Terms
from sb3_barpo.losses.surrogate import surrogate_slope
from sb3_barpo.policies.by_hand import Slopes
from sb3_barpo.schedules import ScheduleLike


@dataclass(frozen=True)
class WorstCase(OuterLoss):
    """
    ``-(mean surr(s') + κ mean surr(s)) / (1 + κ)``, with PPO's clipped surrogate and ``s'`` held fixed (Li et al., "On
    the Tension Between Optimality and Adversarial Robustness in Policy Optimization", ICLR 2026). Dividing by ``1 + κ``
    is ours: it keeps the meaning of ``vf_coef``, ``ent_coef`` and ``max_grad_norm``.

    :param kappa: Weight κ of the clean surrogate ("SPO guidance"); 0 is "without guidance". A number or a schedule.
    :raises ValueError: for a negative or not finite κ.
    """

    kappa: ScheduleLike = 1.0

    def __call__(self, rows: Rows, samples: Samples) -> Terms:
        clean, robust = samples.mean(clipped_surrogate(rows.log_prob, samples)).unbind()
        loss = -((robust + self.kappa * clean) / (1 + self.kappa))  # type: ignore[operator]  # numbers, after `at`
        return Terms(loss, {"clean_surrogate": clean.detach(), "robust_surrogate": robust.detach()})

    def slopes(self, rows: Rows, samples: Samples) -> Slopes:
        kappa: float = self.kappa  # type: ignore[assignment]  # a number, after `at`
        slope = surrogate_slope(rows.log_prob, samples).mul_(-1 / ((1 + kappa) * samples.advantages.shape[0]))
        if kappa != 1:
            slope[0].mul_(kappa)
        return Slopes(None, {}, slope, clean=kappa > 0)
