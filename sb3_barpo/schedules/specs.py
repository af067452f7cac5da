"""Schedules from numbers, specs and strings; one schedule after the other."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, TypeAlias

from sb3_barpo.checks import require
from sb3_barpo.schedules.kinds import (
    Constant,
    Cosine,
    Cyclic,
    Linear,
    Paper,
    Ramp,
    Schedule,
    Smooth,
    Step,
    require_times,
)


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
    can_join = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "schedules", tuple(as_schedule(schedule) for schedule in self.schedules))
        object.__setattr__(self, "times", tuple(self.times))
        require_times("Join's times", 0.0, *self.times, 1.0)
        parts = len(self.schedules)
        require(parts == len(self.times) + 1, "Join's number of times", len(self.times), "each change needs one")
        plain = all(isinstance(part, Schedule) and part.can_join for part in self.schedules)
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
    cls.kind: cls for cls in (Constant, Ramp, Paper, Linear, Cosine, Smooth, Step, Cyclic, Join)
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
        return cls.from_numbers(*(_number(number, text) for number in numbers))
    except TypeError as error:
        names = "_".join(field.name for field in dataclasses.fields(cls))
        raise ValueError(f"The schedule {text!r} does not fit: write '{cls.kind}_{names}'.") from error


def _number(text: str, source: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"The schedule {source!r} does not fit: {text!r} is no number.") from error
