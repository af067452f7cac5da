"""Schedules and controllers as a search sees them: made of independent parameters, and read back from them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from optuna.trial import BaseTrial

from sb3_barpo.controllers import Competence, DualKappa, DualKappaByKL, HoldKL
from sb3_barpo.schedules import Constant, Cosine, Cyclic, Linear, Ramp, Schedule, Smooth, Step, as_schedule

#: A range of the search, from the lowest to the highest value.
Range = tuple[float, float]


class Limits(NamedTuple):
    """
    Within which a schedule is searched.

    :param strength: Range of its values.
    :param log: Whether it is searched on a logarithmic scale.
    :param latest: Latest end, as a fraction of training.
    :param returns: The return of an untrained agent and that of a good one, which kinds that follow the return
        need.
    """

    strength: Range
    log: bool
    latest: float
    returns: Range


class _Parameter(NamedTuple):
    """
    One number of a schedule. By default it is a strength; before a strength that is given, an early one goes from 0 up
    to it. With ``high`` alone missing it is a time, up to the latest end.

    :param low: Lowest value.
    :param high: Highest value.
    :param whole: Whether it is a whole number.
    :param log: Whether it is searched on a logarithmic scale.
    :param early: Whether it is a strength before another one.
    :param share: Whether it is a share of another parameter. It is rounded after it is taken, so that params -> spec ->
        params goes round exactly.
    :param of_returns: Whether its range is a share of that of the returns, from the lowest on.
    """

    low: float | None = None
    high: float | None = None
    whole: bool = False
    log: bool = False
    early: bool = False
    share: bool = False
    of_returns: bool = False

    def within(self, limits: Limits) -> tuple[float, float, bool]:
        """:return: Its lowest and highest value, and whether it is searched on a logarithmic scale."""
        low, high = limits.strength
        if self.early and low == high > 0:
            return 0.0, high, False
        if self.low is None:
            return low, high, limits.log
        if self.of_returns:
            first, last = limits.returns
            return first + self.low * (last - first), first + (self.high or 0) * (last - first), False
        return self.low, limits.latest if self.high is None else self.high, self.log


class Kind(NamedTuple):
    """
    How a schedule is made of independent parameters, and how these are read from it.

    :param parameters: The parameters, by name.
    :param make: Makes the schedule of their values.
    :param values: Reads them from a schedule.
    :param setting: For a controller, the setting that it is made for.
    """

    parameters: dict[str, _Parameter]
    make: Callable[..., Schedule]
    values: Callable[[Any], Sequence[float]]
    setting: str | None = None


_STRENGTH, _EARLY = _Parameter(), _Parameter(early=True)
#: Times of ends have the upper bound ``latest``; a beginning is a fraction of the end, so that no range depends on
#: another parameter.
_END = _Parameter(0.1)
KINDS = {
    "constant": Kind({"value": _STRENGTH}, Constant, lambda s: [s.value]),
    "ramp": Kind(
        {"value": _STRENGTH, "end": _END, "delay": _Parameter(0.0, 0.8, share=True)},
        lambda value, end, delay: Ramp(value, end, rounded(delay * end)),
        lambda s: [s.value, s.end, s.begin / s.end],
    ),
    "rise": Kind({"final": _STRENGTH}, lambda final: Linear(0.0, final), lambda s: [s.final]),
    "linear": Kind({"initial": _EARLY, "final": _STRENGTH}, Linear, lambda s: [s.initial, s.final]),
    "cosine": Kind({"initial": _EARLY, "final": _STRENGTH}, Cosine, lambda s: [s.initial, s.final]),
    "smooth": Kind(
        {"value": _STRENGTH, "end": _END, "mid": _Parameter(0.05, 0.95, share=True)},
        lambda value, end, mid: Smooth(value, end, rounded(mid)),
        lambda s: [s.value, s.end, s.mid],
    ),
    "step": Kind(
        {"first": _EARLY, "second": _STRENGTH, "time": _END},
        lambda first, second, time: Step((first, second), (time,)),
        lambda s: [*s.values, *s.times],
    ),
    "cyclic": Kind(
        {"low": _Parameter(0.0, 1.0, share=True), "high": _STRENGTH, "cycles": _Parameter(1, 8, whole=True)},
        lambda low, high, cycles: Cyclic(rounded(low * high), high, cycles),
        lambda s: [s.low / s.high, s.high, s.cycles],
    ),
    "competence": Kind(
        {"low": _Parameter(0, 0, of_returns=True), "high": _Parameter(0.2, 1, of_returns=True), "value": _STRENGTH},
        Competence,
        lambda s: [s.low, s.high, s.value],
        "epsilon",
    ),
    "holdkl": Kind(
        {"target": _Parameter(1e-3, 1.0, log=True), "value": _STRENGTH},
        HoldKL,
        lambda s: [s.target, s.value],
        "epsilon",
    ),
    "dualkappa": Kind({"bound": _Parameter(3e-3, 0.3, log=True)}, DualKappa, lambda s: [s.bound], "kappa"),
    "dualkappabykl": Kind({"bound": _Parameter(1e-3, 1.0, log=True)}, DualKappaByKL, lambda s: [s.bound], "kappa"),
}


def check_kinds(name: str, kinds: Sequence[str], returns: Range | None) -> None:
    """
    :param name: Name of the setting.
    :param kinds: Kinds of its schedule.
    :param returns: As in :class:`Limits`.
    :raises ValueError: if one is unknown, made for another setting, or follows returns that are not given; or if there
        are none.
    """
    known = [kind for kind, made in KINDS.items() if made.setting in (None, name)]
    if not kinds or not set(kinds) <= set(known):
        raise ValueError(f"The kinds of {name} are {tuple(kinds)}, but it takes one or more of {', '.join(known)}.")
    following = [kind for kind in kinds if any(p.of_returns for p in KINDS[kind].parameters.values())]
    if following and returns is None:
        raise ValueError(
            f"{', '.join(following)} follows the return: say in which range, from that of an untrained agent to that "
            "of a good one, as returns=(low, high)."
        )


def suggest(trial: BaseTrial, name: str, kinds: Sequence[str], limits: Limits) -> Schedule:
    """
    :param trial: Optuna's trial.
    :param name: Name of the setting.
    :param kinds: Kinds of its schedule.
    :param limits: Within which it is searched.
    :return: The schedule that the trial tries.
    """
    kind = str(choose(trial, f"{name}.kind", kinds))
    # Named by their kind, so that each name has one distribution.
    values = [
        _suggest_number(trial, f"{name}.{kind}.{key}", parameter, limits)
        for key, parameter in KINDS[kind].parameters.items()
    ]
    return KINDS[kind].make(*values)


def _suggest_number(trial: BaseTrial, name: str, parameter: _Parameter, limits: Limits) -> float:
    low, high, log = parameter.within(limits)
    if parameter.whole:
        return trial.suggest_int(name, int(low), int(high))
    if parameter.share:
        return trial.suggest_float(name, low, high)
    return number(trial, name, low, high, log)


def number(trial: BaseTrial, name: str, low: float, high: float, log: bool) -> float:
    """:return: A number of the trial, to four digits; the only one of its range, if there is one, is no parameter."""
    return rounded(trial.suggest_float(name, low, high, log=log)) if low < high else low


def choose(trial: BaseTrial, name: str, choices: Sequence[Any]) -> Any:
    """:return: A choice of the trial; the only one is no parameter."""
    return trial.suggest_categorical(name, choices) if len(choices) > 1 else choices[0]


def rounded(value: float) -> float:
    """:return: It to four digits: more would mean nothing, and would have to be read in every table and file."""
    return float(f"{value:.4g}")


def params_of(given: Any, name: str, kinds: Sequence[str], limits: Limits) -> dict[str, Any]:
    """
    The inverse of :func:`suggest`, up to rounding.

    :param given: The schedule in any form.
    :param name: Name of the setting.
    :param kinds: Kinds of its schedule.
    :param limits: Within which it is searched.
    :return: The trial's parameters.
    :raises ValueError: if the space does not hold it.
    """
    schedule = as_schedule(given)
    kind = schedule.kind if isinstance(schedule, Schedule) else "none of ours"
    if isinstance(schedule, Linear) and schedule.initial == 0 and "rise" in kinds:
        kind = "rise"
    if kind not in kinds:
        raise ValueError(f"{name} is {given!r}, but the space has only these kinds: {', '.join(kinds)}.")
    params: dict[str, Any] = {f"{name}.kind": kind} if len(kinds) > 1 else {}
    for (key, parameter), value in zip(KINDS[kind].parameters.items(), KINDS[kind].values(schedule), strict=True):
        low, high, _ = parameter.within(limits)
        params |= put(f"{name}.{kind}.{key}", value, (low, high), f"{name}'s {key} is {value:g} in {given!r}")
    return params


def put(name: str, value: float, limits: Range, said: str) -> dict[str, Any]:
    """:return: The parameter, if it is searched for."""
    low, high = limits
    if not low - 1e-3 * abs(low) <= value <= high + 1e-3 * abs(high):  # it may have been rounded
        raise ValueError(f"{said}, but the space goes from {low:g} to {high:g}.")
    return {name: min(max(value, low), high)} if low < high else {}
