"""What a study maximises: one number, or two."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import optuna


@dataclass(frozen=True)
class Criterion:
    """What a trial is judged by."""

    kind: ClassVar[str]
    #: What is maximised.
    values: ClassVar[tuple[str, ...]]

    def score(self, natural: float, worst_case: float) -> tuple[float, ...]:
        """
        :param natural: Mean return without an attack.
        :param worst_case: The lowest mean return over the attacks.
        :return: What is maximised, one number, or two in a study with a Pareto front.
        """
        raise NotImplementedError

    def preference(self, natural: float, worst_case: float) -> float:
        """:return: One number by which two trials can be compared, in training by the pruner, and in the end."""
        return self.score(natural, worst_case)[0]

    def constrain(self, trial: optuna.Trial, natural: float) -> None:
        """Tell the study how far the trial is from being allowed."""

    def to_spec(self) -> dict[str, Any]:
        """:return: A dict that JSON can hold and :func:`as_criterion` reads."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class Blend(Criterion):
    """
    ``(1 - weight) · natural + weight · worst case``. A worst case above the natural return counts as the natural one:
    an attack that raises the return does not count as robustness.

    :param weight: The worst case's share, from 0 to 1.
    :raises ValueError: for a weight out of range.
    """

    weight: float = 0.5
    kind = "blend"
    values = ("blend",)

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ValueError(f"The weight of the worst case must be between 0 and 1, but it is {self.weight!r}.")

    def score(self, natural: float, worst_case: float) -> tuple[float, ...]:
        return ((1 - self.weight) * natural + self.weight * min(worst_case, natural),)


@dataclass(frozen=True)
class Floor(Criterion):
    """
    The worst case, of trials whose natural return reaches a floor; the others are marked as infeasible by
    ``trial.set_constraint``. To compare trials, what is missing to the floor is subtracted from the worst case.

    :param natural: The floor, in units of the environment's return.
    :raises ValueError: if it is not finite.
    """

    natural: float
    kind = "floor"
    values = ("worst_case",)

    def __post_init__(self) -> None:
        if not abs(self.natural) < float("inf"):
            raise ValueError(f"The floor of the natural return must be finite, but it is {self.natural!r}.")

    def score(self, natural: float, worst_case: float) -> tuple[float, ...]:
        return (worst_case,)

    def preference(self, natural: float, worst_case: float) -> float:
        return worst_case - max(self.natural - natural, 0.0)

    def constrain(self, trial: optuna.Trial, natural: float) -> None:
        trial.set_constraint("natural_floor", self.natural - natural)


@dataclass(frozen=True)
class Pareto(Criterion):
    """
    Natural return and worst case, both: the study has a front of best trials and prunes none. Where one has to be
    named, it is the one that :class:`Blend` prefers.
    """

    kind = "pareto"
    values = ("natural", "worst_case")

    def score(self, natural: float, worst_case: float) -> tuple[float, ...]:
        return (natural, worst_case)

    def preference(self, natural: float, worst_case: float) -> float:
        return Blend().preference(natural, worst_case)


CRITERIA: dict[str, type[Criterion]] = {cls.kind: cls for cls in (Blend, Floor, Pareto)}


def as_criterion(value: Criterion | Mapping[str, Any]) -> Criterion:
    """
    :param value: A criterion or its spec.
    :return: The criterion.
    :raises ValueError: for an unknown kind, or if its parameter is missing.
    """
    if isinstance(value, Criterion):
        return value
    arguments = dict(value)
    kind = arguments.pop("kind", None)
    try:
        return CRITERIA[kind](**arguments)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"The criterion {dict(value)!r} does not fit: there are blend (with weight), floor (with natural) and "
            "pareto."
        ) from error
