"""
Controllers: strength by what is measured, in the places of schedules.

A schedule knows the time of training only. A controller is told after each update what the update showed, and sets the
strength of the next one:

==========================  =========================  ==========================================================
object                      string                     meaning
==========================  =========================  ==========================================================
``Competence(a, b, v)``     ``competence_a_b_v``       for ``epsilon``: 0 at a return of a, rising to v at b
``HoldKL(target, v)``       ``holdkl_target_v``        for ``epsilon``: holds the adversary's KL, at most at v
``DualKappa(bound)``        ``dualkappa_bound``        for ``kappa``: as large as the bound on the gap allows
``DualKappaByKL(bound)``    ``dualkappabykl_bound``    for ``kappa``: as large as the bound on the KL allows
==========================  =========================  ==========================================================

``BARPO("MlpPolicy", env, epsilon=Competence(-1500, 4000, 0.15), kappa="dualkappa_0.05")``

Inside they are pure: one number of state, a function from state and measurement to the next state, and one from state
to strength. The states are in the model's attribute ``controls``, saved with it, kept by
``learn(..., reset_num_timesteps=False)`` and logged as ``adversary/<setting>_<state>``.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from sb3_barpo.checks import is_number, require, require_strength
from sb3_barpo.schedules import KINDS, Schedule

__all__ = ["Competence", "Controller", "DualKappa", "DualKappaByKL", "HoldKL", "Measured"]


class Measured(NamedTuple):
    """
    What one update shows; ``None`` for what was not to be seen in it.

    :param episode_return: Mean return of the recent episodes (``rollout/ep_rew_mean``), not normalised.
    :param kl: Mean ``KL(π(·|s) ‖ π(·|s'))`` of the adversary's answers (``adversary/kl``).
    :param gap: Mean clean surrogate minus mean robust one (``adversary/gap``), in units of the normalised advantage.
    """

    episode_return: float | None = None
    kl: float | None = None
    gap: float | None = None


def _positive(name: str, value: object) -> None:
    require(is_number(value) and 0 < value < math.inf, name, value, "it must be a finite number above 0")


@dataclass(frozen=True)
class Controller(Schedule):
    """
    A strength by what is measured. Where a schedule is asked that knows of no measurements, such as an evaluation for
    the ε to be withstood, :meth:`at` answers with the full strength.
    """

    #: Which of the :class:`Measured` it listens to.
    measures: ClassVar[str]
    #: What its state is called in logs.
    state: ClassVar[str]
    #: The setting that it is made for.
    setting: ClassVar[str]
    can_join: ClassVar[bool] = False

    @abstractmethod
    def begin(self) -> float:
        """:return: The state before anything has been measured."""

    @abstractmethod
    def step(self, state: Any, measured: Any) -> Any:
        """
        :param state: A state, or an array of them.
        :param measured: What was measured in it.
        :return: The next state.
        """

    @abstractmethod
    def strength(self, state: Any) -> Any:
        """:return: The strength in a state."""


class _Share(Controller):
    """A share of a full strength. No dataclass: its children have the field, each in its place."""

    value: float
    state = "share"
    setting = "epsilon"

    def at(self, time: float) -> float:
        return self.value

    def strength(self, state: Any) -> Any:
        return state * self.value


@dataclass(frozen=True)
class Competence(_Share):
    """
    Nothing disturbs an agent that can do nothing yet: the strength follows the mean return of recent episodes, straight
    from 0 at ``low`` to full at ``high``, and falls when the return falls.

    :param low: The return of an untrained agent, or any below which there is no adversary.
    :param high: The return from which on the strength is full; that of plain PPO or somewhat less.
    :param value: Full strength.
    :raises ValueError: unless both returns are finite, the lower first.
    """

    low: float
    high: float
    value: float
    kind = "competence"
    measures = "episode_return"

    def __post_init__(self) -> None:
        finite = all(is_number(number) and abs(number) < math.inf for number in (self.low, self.high))
        rule = finite and self.low < self.high
        require(rule, "Competence's low and high", (self.low, self.high), "they are finite returns, the lower first")
        require_strength("Competence's value", self.value)

    def begin(self) -> float:
        return 0.0

    def step(self, state: Any, measured: Any) -> Any:
        return np.clip((measured - self.low) / (self.high - self.low), 0.0, 1.0)


@dataclass(frozen=True)
class HoldKL(_Share):
    """
    Holds the KL between the policy's answers to clean and to perturbed observations at a target, by a strength that
    grows or shrinks by a factor of at most ``exp(rate)`` in an update, as the step size does in trust-region methods:
    ``share · exp(rate · clip(log(target / kl), -1, 1))``.

    :param target: The KL to hold.
    :param value: Highest strength.
    :param rate: Speed.
    :param start: Share of the highest strength at the start of training.
    :raises ValueError: for a number that is not above 0, or a start above 1.
    """

    target: float
    value: float
    rate: float = 0.1
    start: float = 0.05
    kind = "holdkl"
    measures = "kl"
    #: The lowest share: at a strength of 0 nothing would be measured any more.
    lowest: ClassVar[float] = 1e-3

    def __post_init__(self) -> None:
        for name in ("target", "rate", "start"):
            _positive(f"HoldKL's {name}", getattr(self, name))
        require(self.start <= 1, "HoldKL's start", self.start, "it is a share of the highest strength, at most 1")
        require_strength("HoldKL's value", self.value)

    def begin(self) -> float:
        return self.start

    def step(self, state: Any, measured: Any) -> Any:
        too_low = np.log(self.target / np.maximum(measured, np.finfo(float).tiny))
        return np.clip(state * np.exp(self.rate * np.clip(too_low, -1.0, 1.0)), self.lowest, 1.0)


@dataclass(frozen=True)
class DualKappa(Controller):
    """
    κ as large as a bound on the gap allows, by dual ascent: robustness is bought up to the bound, and no further.

    Of ``max C subject to C - R <= bound``, with the clean surrogate C and the robust one R, the Lagrangian is
    ``(1 - λ) C + λ R + λ bound``. Up to its sign that is the loss of :class:`sb3_barpo.losses.WorstCase` with
    ``κ = (1 - λ) / λ``. The policy's updates raise it, and after each of them the multiplier goes along its own
    gradient, ``gap - bound``, relative to the bound and clipped to ±1 so that no single measurement decides:
    ``λ + rate · clip(gap / bound - 1, -1, 1)``, between ``1 / (1 + highest)`` and 1. At rest the gap is at the bound,
    or λ at an end: κ is 0 where the gap stays larger even without guidance, ``highest`` where it is smaller even so.

    :param bound: The gap to allow, in units of the normalised advantage.
    :param initial: κ at the start of training.
    :param rate: Speed.
    :param highest: The largest κ.
    :raises ValueError: for a number that is not above 0 (``initial`` may be 0), or an initial κ above the largest.
    """

    bound: float
    initial: float = 1.0
    rate: float = 0.02
    highest: float = 10.0
    kind = "dualkappa"
    measures = "gap"
    state = "multiplier"
    setting = "kappa"

    def __post_init__(self) -> None:
        name = type(self).__name__
        for field in ("bound", "rate", "highest"):
            _positive(f"{name}'s {field}", getattr(self, field))
        require_strength(f"{name}'s initial", self.initial)
        require(self.initial <= self.highest, f"{name}'s initial", self.initial, "it must be at most highest")

    def at(self, time: float) -> float:
        return self.initial

    def begin(self) -> float:
        return 1 / (1 + self.initial)

    def step(self, state: Any, measured: Any) -> Any:
        excess = np.clip(measured / self.bound - 1, -1.0, 1.0)
        return np.clip(state + self.rate * excess, 1 / (1 + self.highest), 1.0)

    def strength(self, state: Any) -> Any:
        return 1 / state - 1


@dataclass(frozen=True)
class DualKappaByKL(DualKappa):
    """
    :class:`DualKappa` with a bound on the KL between the answers to clean and to perturbed observations in place of the
    gap. The KL is not the derivative of the loss by λ; it falls as λ rises all the same, and is measured with less
    noise than the gap.

    :param bound: The KL to allow.
    :param initial: κ at the start of training.
    :param rate: Speed.
    :param highest: The largest κ.
    :raises ValueError: as :class:`DualKappa`.
    """

    kind = "dualkappabykl"
    measures = "kl"


# Strings and specs of controllers are read where those of schedules are.
KINDS.update({cls.kind: cls for cls in (Competence, HoldKL, DualKappa, DualKappaByKL)})
