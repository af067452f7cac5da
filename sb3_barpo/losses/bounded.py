"""Losses on bounds of what the policy does anywhere in the ball: RADIAL-PPO's, and the convex form of SA-PPO's."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from sb3_barpo.adversary import Adversary, Samples, clipped_surrogate
from sb3_barpo.certify import actor_modules
from sb3_barpo.losses.base import OuterLoss, Rows, Terms
from sb3_barpo.losses.regularised import Regularised
from sb3_barpo.schedules import ScheduleLike


def check_share(name: str, value: Any) -> None:
    """
    :param name: Name of the setting, for the error.
    :param value: Its value; a schedule is checked when it has become a number.
    :raises ValueError: if it is above 1.
    """
    if isinstance(value, int | float) and value > 1:
        raise ValueError(f"{name} is a share, from 0 to 1, but it is {value!r}.")


def check_enclosed(policy: Any, adversary: Adversary) -> None:
    """
    :param policy: The model's policy.
    :param adversary: The model's adversary.
    :raises TypeError: if the policy has no bounds.
    :raises ValueError: if the adversary searches: nobody would ask it.
    """
    if not adversary.solver.blind:
        raise ValueError(
            "A defence by bounds asks what the policy does anywhere in the ball and searches for nothing, but got "
            f"{adversary!r}. Leave adversary out, or name the ball alone: Adversary(None, Uniform(), ball)."
        )
    actor_modules(policy)


@dataclass(frozen=True)
class Bounded(OuterLoss):
    """
    ``-((1 - w) mean surr(s) + w mean min surr)``, with the smallest surrogate that bounds of the policy allow within
    the ball (RADIAL-PPO, Oikarinen et al., "Robust Deep Reinforcement Learning through Adversarial Loss", NeurIPS
    2021). The surrogate is monotone in the log-probability, so that its smallest value stands at one of the bounds.

    All surrogates see the same advantages; the published code normalises those of the clean one only.

    :param weight: w, a number or a schedule, at most 1; 0 is PPO.
    :param intervals: Share of interval bounds, the rest by CROWN, see :func:`sb3_barpo.certify.enclose`: a number or a
        schedule, at most 1. The published code has intervals alone.
    :raises ValueError: for a weight or a share below 0 or above 1.
    """

    weight: ScheduleLike = 0.5
    intervals: ScheduleLike = 1.0
    needs: ClassVar[Literal["bounds"]] = "bounds"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("weight", self.weight)
        check_share("intervals", self.intervals)

    @property
    def is_ppo(self) -> bool:
        return self.weight == 0

    def check(self, policy: Any, adversary: Adversary) -> None:
        check_enclosed(policy, adversary)

    def __call__(self, rows: Rows, samples: Samples) -> Terms:
        surrogates = clipped_surrogate(rows.log_prob, samples)
        clean, robust = samples.mean(surrogates[0]), samples.mean(surrogates.amin(0))
        loss = -((1 - self.weight) * clean + self.weight * robust)  # type: ignore[operator]  # numbers, after `at`
        return Terms(loss, {"clean_surrogate": clean.detach(), "robust_surrogate": robust.detach()})


@dataclass(frozen=True)
class RegularisedByBounds(Regularised):
    """
    ``-mean surr(s) + λ mean R(s)``, with an upper bound R of the largest ``D_KL(π(·|s) ‖ π(·|s'))`` within the ball:
    the convex form of SA-PPO (Zhang et al., NeurIPS 2020).

    :param weight: λ, a number or a schedule; 0 is PPO.
    :param intervals: Share of interval bounds, the rest by CROWN, see :func:`sb3_barpo.certify.enclose`: a number or a
        schedule, at most 1. By default it rises to 1 with the strength, as in the published code.
    :raises ValueError: for a negative or not finite λ, or a share below 0 or above 1.
    """

    weight: ScheduleLike = 0.1
    intervals: ScheduleLike = "ramp_1"
    needs: ClassVar[Literal["bounds"]] = "bounds"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("intervals", self.intervals)

    def check(self, policy: Any, adversary: Adversary) -> None:
        check_enclosed(policy, adversary)
