"""The kinds of schedules."""

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from sb3_barpo.checks import is_number, require, require_strength


def require_times(what: str, *times: float) -> None:
    """
    :param what: Name of the setting, for the error.
    :param times: Its times.
    :raises ValueError: if they are no rising fractions of training.
    """
    rule = all(is_number(t) and 0 <= t <= 1 for t in times) and all(a < b for a, b in pairwise(times))
    require(rule, what, times, "times are fractions of training from 0 to 1 and must rise")


@dataclass(frozen=True)
class Schedule(ABC):
    """A strength, at least 0, as a function of the time of training."""

    kind: ClassVar[str]
    #: Whether it can be a part of a :class:`Join`.
    can_join: ClassVar[bool] = True

    def __call__(self, progress_remaining: float) -> float:
        """
        :param progress_remaining: 1 at the start of training, 0 at its end; clamped to that range.
        :return: The strength.
        """
        return float(self.at(1 - min(max(progress_remaining, 0.0), 1.0)))

    @abstractmethod
    def at(self, time: float) -> float:
        """
        :param time: Fraction of training done, from 0 to 1.
        :return: The strength.
        """

    def to_spec(self) -> dict[str, Any]:
        """:return: A dict that JSON can hold and :func:`as_schedule` reads."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {"kind": self.kind, **{k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}}

    def _numbers(self) -> list[float]:
        """The numbers of the short string, in order."""
        return [getattr(self, field.name) for field in dataclasses.fields(self)]

    @classmethod
    def from_numbers(cls, *numbers: float) -> "Schedule":
        """:return: The schedule of the numbers in a short string."""
        return cls(*numbers)

    def __str__(self) -> str:
        return "_".join([self.kind, *(repr(float(number)) for number in self._numbers())])


@dataclass(frozen=True)
class Constant(Schedule):
    """
    Always the same.

    :param value: The strength.
    """

    value: float
    kind = "constant"

    def __post_init__(self) -> None:
        require_strength(f"{type(self).__name__}'s value", self.value)

    def at(self, time: float) -> float:
        return self.value


@dataclass(frozen=True)
class Ramp(Schedule):
    """
    ``value · clip((t - begin) / (end - begin), 0, 1) ** power``, by default :class:`Paper`'s.

    :param value: Full strength.
    :param end: When it is reached.
    :param begin: Until when it is 0.
    :param power: Above 1 slow at first, below 1 fast at first.
    """

    value: float
    end: float = 0.75
    begin: float = 0.0
    power: float = 1.0
    kind = "ramp"

    def __post_init__(self) -> None:
        require_strength("Ramp's value", self.value)
        require_times("Ramp's begin and end", self.begin, self.end)
        positive = is_number(self.power) and 0 < self.power < math.inf
        require(positive, "Ramp's power", self.power, "it is a finite number above 0")

    def at(self, time: float) -> float:
        rise: float = min(max((time - self.begin) / (self.end - self.begin), 0.0), 1.0) ** self.power
        return self.value * rise


@dataclass(frozen=True)
class Paper(Constant):
    """
    The paper's schedule, that of the field's reference code: straight from 0 at the start of training to the value at
    75 %, then constant.

    :param value: Full strength.
    """

    kind = "paper"

    def at(self, time: float) -> float:
        return Ramp(self.value).at(time)


@dataclass(frozen=True)
class Linear(Schedule):
    """
    Straight from one strength to another over the whole of training.

    :param initial: Strength at the start.
    :param final: Strength at the end.
    """

    initial: float
    final: float
    kind = "linear"

    def __post_init__(self) -> None:
        require_strength(f"{type(self).__name__}'s initial", self.initial)
        require_strength(f"{type(self).__name__}'s final", self.final)

    def at(self, time: float) -> float:
        return (1 - time) * self.initial + time * self.final


@dataclass(frozen=True)
class Cosine(Linear):
    """
    Half a cosine from one strength to another, flat at both ends.

    :param initial: Strength at the start.
    :param final: Strength at the end.
    """

    kind = "cosine"

    def at(self, time: float) -> float:
        return super().at((1 - math.cos(math.pi * time)) / 2)


@dataclass(frozen=True)
class Smooth(Schedule):
    """
    A slow start: from 0 as the fourth power of time, then straight on, without a kink between (the "smooth" schedule
    of RADIAL, Oikarinen et al., NeurIPS 2021). Constant after ``end``.

    :param value: Full strength.
    :param end: When it is reached.
    :param mid: Where the straight part begins, as a fraction of ``end``.
    """

    value: float
    end: float = 0.75
    mid: float = 0.25
    kind = "smooth"

    def __post_init__(self) -> None:
        require_strength("Smooth's value", self.value)
        require_times("Smooth's end", 0.0, self.end)
        require(is_number(self.mid) and 0 < self.mid < 1, "Smooth's mid", self.mid, "it lies between 0 and 1")

    def at(self, time: float) -> float:
        x = min(time / self.end, 1.0)
        # a x^4 up to mid, then its tangent there; a = 1 / (mid^3 (4 - 3 mid)) makes the tangent reach 1 at x = 1.
        rise = x * (x / self.mid) ** 3 if x <= self.mid else 4 * x - 3 * self.mid
        return self.value * rise / (4 - 3 * self.mid)


@dataclass(frozen=True)
class Step(Schedule):
    """
    Piecewise constant.

    :param values: The strengths, in order.
    :param times: When the next one begins; one fewer than values.
    """

    values: tuple[float, ...]
    times: tuple[float, ...]
    kind = "step"

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(self.values))
        object.__setattr__(self, "times", tuple(self.times))
        for value in self.values:
            require_strength("One of Step's values", value)
        require_times("Step's times", *self.times)
        require(
            len(self.values) == len(self.times) + 1, "Step's number of times", len(self.times), "each change needs one"
        )

    def at(self, time: float) -> float:
        return self.values[sum(time >= t for t in self.times)]

    def _numbers(self) -> list[float]:
        return [number for pair in zip(self.values, (*self.times, 0), strict=True) for number in pair][:-1]

    @classmethod
    def from_numbers(cls, *numbers: float) -> "Schedule":
        return cls(numbers[::2], numbers[1::2])


@dataclass(frozen=True)
class Cyclic(Schedule):
    """
    Straight up and straight down again, several times.

    :param low: Strength at the start, between the cycles and at the end.
    :param high: Strength in the middle of each cycle.
    :param cycles: Number of cycles in training.
    """

    low: float
    high: float
    cycles: int = 4
    kind = "cyclic"

    def __post_init__(self) -> None:
        require_strength("Cyclic's low", self.low)
        require_strength("Cyclic's high", self.high)
        whole = is_number(self.cycles) and 1 <= self.cycles < math.inf and self.cycles == int(self.cycles)
        require(whole, "Cyclic's cycles", self.cycles, "it must be a whole number, at least 1")
        object.__setattr__(self, "cycles", int(self.cycles))

    def at(self, time: float) -> float:
        height = 1 - abs(2 * (time * self.cycles % 1.0) - 1)
        return (1 - height) * self.low + height * self.high
