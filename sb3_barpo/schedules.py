"""
Schedules: the adversary's strength over training.

A schedule is called as SB3's are, with the progress remaining (1 at the start, 0 at the end), and clamps it, because
SB3's progress can go below 0 in the last rollout. It is written as an object, as a spec (a dict that JSON can hold) or
as a short string, and each form gives back the others:

==================  ======================================  =============================================
object              string                                  meaning
==================  ======================================  =============================================
``Constant(c)``     ``constant_c``                          always c
``Ramp(v)``         ``ramp_v``, ``ramp_v_end_begin_power``  from 0 to v at 75 % of training, then constant
``Linear(a, b)``    ``linear_a_b``                          straight from a to b
``Cosine(a, b)``    ``cosine_a_b``                          half a cosine from a to b
``Smooth(v)``       ``smooth_v``, ``smooth_v_end_mid``      from 0 to v, slowly at first
``Step(...)``       ``step_a_t_b``                          a until time t, then b, and so on
``Cyclic(a, b)``    ``cyclic_a_b``, ``cyclic_a_b_n``        n times from a up to b and back
``Join(...)``       ``ramp_a > t > constant_b``             one schedule until time t, then the next
==================  ======================================  =============================================

Times are fractions of training, from 0 to 1.
"""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real
from typing import Any, ClassVar, TypeAlias

from sb3_barpo.checks import is_number, require, require_strength


def _times(what: str, *times: float) -> None:
    rule = all(is_number(t) and 0 <= t <= 1 for t in times) and all(a < b for a, b in pairwise(times))
    require(rule, what, times, "times are fractions of training from 0 to 1 and must rise")


@dataclass(frozen=True)
class Schedule(ABC):
    """A strength, at least 0, as a function of the time of training."""

    kind: ClassVar[str]

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
    def _from_numbers(cls, *numbers: float) -> "Schedule":
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
        require_strength("Constant's value", self.value)

    def at(self, time: float) -> float:
        return self.value


@dataclass(frozen=True)
class Ramp(Schedule):
    """
    ``value · clip((t - begin) / (end - begin), 0, 1) ** power``. The field's default (SA-PPO, CAR-PPO) rises straight
    from the start to 75 % of training, then stays.

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
        _times("Ramp's begin and end", self.begin, self.end)
        positive = is_number(self.power) and 0 < self.power < math.inf
        require(positive, "Ramp's power", self.power, "it is a finite number above 0")

    def at(self, time: float) -> float:
        rise: float = min(max((time - self.begin) / (self.end - self.begin), 0.0), 1.0) ** self.power
        return self.value * rise


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
        _times("Smooth's end", 0.0, self.end)
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
        _times("Step's times", *self.times)
        require(
            len(self.values) == len(self.times) + 1, "Step's number of times", len(self.times), "each change needs one"
        )

    def at(self, time: float) -> float:
        return self.values[sum(time >= t for t in self.times)]

    def _numbers(self) -> list[float]:
        return [number for pair in zip(self.values, (*self.times, 0), strict=True) for number in pair][:-1]

    @classmethod
    def _from_numbers(cls, *numbers: float) -> "Schedule":
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


@dataclass(frozen=True)
class Join(Schedule):
    """
    One schedule after the other. Each lives its whole life, from time 0 to time 1, in its part of training.

    :param schedules: The schedules, in order.
    :param times: When the next one begins; one fewer than schedules.
    """

    schedules: tuple[Schedule, ...]
    times: tuple[float, ...]
    kind = "join"

    def __post_init__(self) -> None:
        object.__setattr__(self, "schedules", tuple(as_schedule(schedule) for schedule in self.schedules))
        object.__setattr__(self, "times", tuple(self.times))
        _times("Join's times", 0.0, *self.times, 1.0)
        parts = len(self.schedules)
        require(parts == len(self.times) + 1, "Join's number of times", len(self.times), "each change needs one")
        plain = all(isinstance(part, Schedule) and not isinstance(part, Join) for part in self.schedules)
        require(plain, "One of Join's schedules", self.schedules, "it joins the other schedules of this module")

    def at(self, time: float) -> float:
        edges = (0.0, *self.times, 1.0)
        i = sum(time >= t for t in self.times)
        return self.schedules[i].at((time - edges[i]) / (edges[i + 1] - edges[i]))

    def to_spec(self) -> dict[str, Any]:
        parts = [schedule.to_spec() for schedule in self.schedules]
        return {"kind": self.kind, "schedules": parts, "times": list(self.times)}

    def __str__(self) -> str:
        first, *rest = self.schedules
        return str(first) + "".join(f" > {float(time)!r} > {part}" for time, part in zip(self.times, rest, strict=True))


KINDS: dict[str, type[Schedule]] = {
    cls.kind: cls for cls in (Constant, Ramp, Linear, Cosine, Smooth, Step, Cyclic, Join)
}

#: What is taken wherever a strength is asked for.
ScheduleLike: TypeAlias = Schedule | float | str | Mapping[str, Any] | Callable[[float], float]


def as_schedule(value: ScheduleLike) -> Callable[[float], float]:
    """
    :param value: A number (constant), a schedule of this module, any callable of the progress remaining (SB3's own
        schedules are), a spec or a short string.
    :return: The schedule. Numbers, specs and strings give a :class:`Schedule`.
    :raises ValueError: if the kind, its parameters or a number is wrong.
    :raises TypeError: if it is nothing of the kind.
    """
    if isinstance(value, str):
        return _from_string(value)
    if isinstance(value, Mapping):
        return _from_spec(value)
    if callable(value):
        return value
    if isinstance(value, Real) and not isinstance(value, bool):
        return Constant(float(value))
    raise TypeError(
        f"A strength is a number, a schedule, a spec or a string such as 'ramp_0.075', but this is {value!r}."
    )


def _kind(name: object, source: object) -> type[Schedule]:
    if not isinstance(name, str) or name not in KINDS:
        raise ValueError(f"Unknown schedule {source!r}. The kinds are {', '.join(KINDS)}; for example 'ramp_0.075'.")
    return KINDS[name]


def _from_spec(spec: Mapping[str, Any]) -> Schedule:
    cls = _kind(spec.get("kind"), dict(spec))
    try:
        return cls(**{key: value for key, value in spec.items() if key != "kind"})
    except TypeError as error:
        names = ", ".join(field.name for field in dataclasses.fields(cls))
        raise ValueError(f"The spec {dict(spec)!r} does not fit: '{cls.kind}' takes {names}.") from error


def _from_string(text: str) -> Schedule:
    parts = [part.strip() for part in text.split(">")]
    if len(parts) > 1:
        if len(parts) % 2 == 0:
            raise ValueError(f"The schedule {text!r} does not fit: write 'schedule > time > schedule'.")
        return Join(tuple(_from_string(part) for part in parts[::2]), tuple(_number(t, text) for t in parts[1::2]))
    name, *numbers = text.strip().split("_")
    cls = _kind(name, text)
    try:
        return cls._from_numbers(*(_number(number, text) for number in numbers))
    except TypeError as error:
        names = "_".join(field.name for field in dataclasses.fields(cls))
        raise ValueError(f"The schedule {text!r} does not fit: write '{cls.kind}_{names}'.") from error


def _number(text: str, source: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"The schedule {source!r} does not fit: {text!r} is no number.") from error
