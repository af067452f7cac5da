"""The loss of CAR-PPO."""

from dataclasses import dataclass, field
from numbers import Real

import torch as th

from sb3_barpo.adversary import Samples, clipped_surrogate
from sb3_barpo.losses.base import OuterLoss, Rows, Terms, named
from sb3_barpo.losses.surrogate import surrogate_and_slope
from sb3_barpo.policies.by_hand import Slopes
from sb3_barpo.schedules import ScheduleLike


@dataclass(frozen=True)
class SoftWorst(OuterLoss):
    """
    ``-(mean surr(s) + w Σ p surr(s')) / (1 + w)`` with ``p = softmax(-surr(s') / T)`` over the minibatch, without
    gradient: rows that are hurt most count most (CAR-PPO, "Towards Optimal Adversarial Robust Reinforcement Learning
    with Infinity Measurement Error", arXiv 2502.16734). Dividing by ``1 + w`` is ours, as for :class:`WorstCase`, which
    this is with κ = 1 / w at an infinite temperature.

    A row's share depends on the other rows of its minibatch. The logged ``effective_sample_size`` is ``1 / Σ p²``: the
    size of the minibatch if all rows count alike, 1 if only one does.

    :param weight: w of the perturbed surrogate, a number or a schedule; 0 is PPO.
    :param temperature: T, above 0; ``float("inf")`` for equal weights.
    :raises ValueError: for a negative or not finite w, or a temperature that is not above 0.
    """

    weight: ScheduleLike = 1.0
    temperature: float = field(default=100.0, metadata={"schedule": False})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.temperature, Real) or isinstance(self.temperature, bool) or not self.temperature > 0:
            raise ValueError(
                f"temperature must be a number above 0, but it is {self.temperature!r}. "
                'Give float("inf") for equal weights.'
            )

    @property
    def is_ppo(self) -> bool:
        return self.weight == 0

    def __call__(self, rows: Rows, samples: Samples) -> Terms:
        clean, robust = clipped_surrogate(rows.log_prob, samples)
        with th.no_grad():
            badness = -robust / self.temperature
            if samples.mask is not None:
                badness = badness.where(samples.mask, -th.inf)
            shares = badness.softmax(0)
        mean, worst = samples.mean(clean), (shares * robust).sum()
        loss = -((mean + self.weight * worst) / (1 + self.weight))  # type: ignore[operator]  # numbers, after `at`
        logs = {
            "clean_surrogate": mean.detach(),
            "robust_surrogate": worst.detach(),
            "effective_sample_size": 1 / shares.square().sum(),
        }
        return Terms(loss, logs)

    def slopes(self, rows: Rows, samples: Samples) -> Slopes:
        weight: float = self.weight  # type: ignore[assignment]  # a number, after `at`
        (clean, robust), slope = surrogate_and_slope(rows.log_prob, samples)
        shares = robust.div(-self.temperature).softmax(0)
        mean, worst = clean.mean(), th.dot(shares, robust)
        slope[0].div_(-(1 + weight) * len(shares))
        slope[1].mul_(shares).mul_(-weight / (1 + weight))
        effective = shares.square().sum().reciprocal()
        logs = named({"clean_surrogate": mean, "robust_surrogate": worst, "effective_sample_size": effective})
        return Slopes((mean + weight * worst) / -(1 + weight), logs, slope)
