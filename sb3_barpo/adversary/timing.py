"""When an attack may act in an episode, and how fast its perturbation may change."""

import math
from dataclasses import dataclass, fields
from typing import Any

from sb3_barpo.checks import is_number, require, require_count


@dataclass(frozen=True)
class Timing:
    """
    Limits of an attack over the steps of an episode, in addition to those of its ball at each step. Only attacks of
    evaluation take them: an update of training shuffles steps.

    :param rate: By how much the perturbation may change from one step to the next, in the norm and the units of ε:
        ``‖(δ_t - δ_{t-1}) / scale‖ ≤ rate``, from ``δ_{-1} = 0`` on; ``None`` for no such limit. Drift is slow, and so
        are coupled attacks. Where the limits of the observation space leave less room, they come first.
    :param every: The attack acts at steps 0, ``every``, ``2 · every`` and so on.
    :param moments: The attack acts at so many steps of an episode at most; ``None`` for no such limit.
    :param trigger: The attack chooses its moments: it acts only where it achieves something, where
        ``D_KL(π(·|s) ‖ π(·|s'))`` is at least this. Lin et al., "Tactics of Adversarial Attack on Deep Reinforcement
        Learning Agents" (IJCAI 2017), time attacks by how much the policy prefers one action; this criterion is for
        every policy, and for what the attack itself can do.
    :raises ValueError: for a setting out of range, or a rate together with moments.
    """

    rate: float | None = None
    every: int = 1
    moments: int | None = None
    trigger: float = 0.0

    def __post_init__(self) -> None:
        require(
            self.rate is None or (is_number(self.rate) and 0 < self.rate < math.inf),
            "rate",
            self.rate,
            "a limit of the change from step to step must be finite and above 0; leave it out for no limit",
        )
        require_count("every", self.every, "an attack acts every 1, 2, 3, ... steps")
        if self.moments is not None:
            require_count("moments", self.moments, "an attack without a moment does nothing; leave it out for no limit")
        require(
            is_number(self.trigger) and 0 <= self.trigger < math.inf,
            "trigger",
            self.trigger,
            "it is a divergence, finite and at least 0",
        )
        if self.rate is not None and (self.every > 1 or self.moments is not None or self.trigger > 0):
            raise ValueError(
                f"{self!r} contradicts itself: between its moments an attack shows what is there, which a limited rate "
                "of change forbids. Limit the rate or the moments."
            )

    def spec(self) -> dict[str, Any]:
        """:return: What differs from the defaults, as JSON can hold it; the constructor takes it."""
        return {one.name: value for one in fields(self) if (value := getattr(self, one.name)) != one.default}

    def __repr__(self) -> str:
        return f"Timing({', '.join(f'{name}={value}' for name, value in self.spec().items())})"
