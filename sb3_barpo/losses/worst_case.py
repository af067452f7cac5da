"""The loss of ARPO and BARPO."""

from dataclasses import dataclass

import torch as th

from sb3_barpo.adversary import Samples, clipped_surrogate
from sb3_barpo.losses.base import OuterLoss, Rows, Terms, named
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
        unclipped = th.exp(rows.log_prob - samples.old_log_prob).mul_(samples.advantages)
        # The surrogate ends here, where the ratio is clipped; beyond it has no slope.
        limit = samples.advantages.add(samples.advantages.abs(), alpha=samples.clip_range)
        clean, robust = th.minimum(unclipped, limit).mean(1).unbind()
        loss = (robust + kappa * clean) / -(1 + kappa)
        slope = unclipped.masked_fill_(unclipped > limit, 0)
        share = -1 / ((1 + kappa) * unclipped.shape[1])
        slope.mul_(share)
        if kappa != 1:
            slope[0].mul_(kappa)
        logs = named({"clean_surrogate": clean, "robust_surrogate": robust})
        return Slopes(loss, logs, slope, clean=kappa > 0)
