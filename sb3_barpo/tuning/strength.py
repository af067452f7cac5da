"""The search space: margin, schedules of ε and κ, and the solver of the inner problem."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from optuna.trial import BaseTrial

from sb3_barpo.adversary.spec import DEFAULT_SOLVER, SOLVERS, solver_spec
from sb3_barpo.schedules import Constant, Cosine, Cyclic, Linear, Ramp, Schedule, Smooth, Step, as_schedule

#: A range of the search, from the lowest to the highest value.
Range = tuple[float, float]
_DEFAULT = solver_spec(DEFAULT_SOLVER)
#: Margins that are tried by default.
MARGINS: Range = (0.5, 4.0)


@dataclass(frozen=True)
class StrengthSpace:
    """
    Which strengths of the adversary are tried. By default (:meth:`around`) ε rises as one ramp to the strength to be
    withstood. Its end, its delay, the margin and a constant κ are searched: four numbers and no branches, which TPE
    models jointly.

    :param epsilon: Range of ε's values, searched on a logarithmic scale, as κ's and the margin; by default the strength
        to be withstood, twice: then the margin is what is searched. In a kind of two strengths the first is then
        searched from 0 to ε.
    :param kappa: Range of κ's values; ``(0, 0)`` for no guidance.
    :param margin: Range of the margin, how many times ε training is at.
    :param epsilon_kinds: Kinds of schedules for ε, of ``constant``, ``ramp``, ``linear``, ``cosine``, ``smooth``,
        ``step`` and ``cyclic``. With several, the kind is a parameter too, and the others depend on it.
    :param kappa_kinds: The same for κ.
    :param latest: Latest end of a ramp, as a fraction of training. From there on trials can be compared.
    :param solvers: ``sgld``, ``pgd`` or both.
    :param n_steps: Range of the solver's number of steps.
    :raises ValueError: for an invalid range, or an unknown kind or solver.
    """

    epsilon: Range
    kappa: Range = (0.1, 10.0)
    epsilon_kinds: Sequence[str] = ("ramp",)
    kappa_kinds: Sequence[str] = ("constant",)
    latest: float = 0.75
    solvers: Sequence[str] = (_DEFAULT["solver"],)
    n_steps: tuple[int, int] = (_DEFAULT["n_steps"], _DEFAULT["n_steps"])
    margin: Range = (1.0, 1.0)

    def __post_init__(self) -> None:
        for name in ("epsilon", "kappa", "n_steps", "margin"):
            low, high = getattr(self, name)
            without = name == "kappa" and low == high == 0
            if not (0 < low <= high < float("inf") or without):
                raise ValueError(
                    f"A range is two finite numbers above 0, the lower first, but {name} is {(low, high)}. For a value "
                    "that is not searched, give it twice."
                )
        if not 0.2 <= self.latest <= 1:
            raise ValueError(f"latest is a fraction of training from 0.2 to 1, but it is {self.latest!r}. Try 0.75.")
        for name, known in (("epsilon_kinds", _KINDS), ("kappa_kinds", _KINDS), ("solvers", SOLVERS)):
            given = tuple(getattr(self, name))
            if not given or not set(given) <= set(known):
                raise ValueError(f"{name} is {given}, but it takes one or more of {', '.join(known)}.")
        for field in ("epsilon", "kappa", "epsilon_kinds", "kappa_kinds", "solvers", "n_steps", "margin"):
            object.__setattr__(self, field, tuple(getattr(self, field)))  # JSON has lists

    @classmethod
    def around(cls, epsilon: float) -> "StrengthSpace":
        """
        :param epsilon: The strength for which robustness is wanted.
        :return: The default space: trained at half to four times of it.
        """
        return cls((epsilon, epsilon), margin=MARGINS)


class _Parameter(NamedTuple):
    """
    One number of a schedule; without a range of its own, the strength's, on a logarithmic scale. Before a strength that
    is given, an early one goes from 0 up to it.
    """

    low: float | None = None
    high: float | None = None
    whole: bool = False
    early: bool = False


class _Kind(NamedTuple):
    """How a schedule is made of independent parameters, and how these are read from it."""

    parameters: dict[str, _Parameter]
    make: Callable[..., Schedule]
    values: Callable[[Any], Sequence[float]]


_STRENGTH, _EARLY = _Parameter(), _Parameter(early=True)
#: Times of ends have the upper bound ``latest``; a beginning is a fraction of the end, so that no range depends on
#: another parameter.
_END = _Parameter(0.1)
_KINDS = {
    "constant": _Kind({"value": _STRENGTH}, Constant, lambda s: [s.value]),
    "ramp": _Kind(
        {"value": _STRENGTH, "end": _END, "delay": _Parameter(0.0, 0.8)},
        lambda value, end, delay: Ramp(value, end, rounded(delay * end)),
        lambda s: [s.value, s.end, s.begin / s.end],
    ),
    "linear": _Kind({"initial": _EARLY, "final": _STRENGTH}, Linear, lambda s: [s.initial, s.final]),
    "cosine": _Kind({"initial": _EARLY, "final": _STRENGTH}, Cosine, lambda s: [s.initial, s.final]),
    "smooth": _Kind(
        {"value": _STRENGTH, "end": _END, "mid": _Parameter(0.05, 0.95)},
        lambda value, end, mid: Smooth(value, end, rounded(mid)),
        lambda s: [s.value, s.end, s.mid],
    ),
    "step": _Kind(
        {"first": _EARLY, "second": _STRENGTH, "time": _END},
        lambda first, second, time: Step((first, second), (time,)),
        lambda s: [*s.values, *s.times],
    ),
    "cyclic": _Kind(
        {"low": _Parameter(0.0, 1.0), "high": _STRENGTH, "cycles": _Parameter(1, 8, whole=True)},
        lambda low, high, cycles: Cyclic(rounded(low * high), high, cycles),
        lambda s: [s.low / s.high, s.high, s.cycles],
    ),
}


def suggest_strength(trial: BaseTrial, space: StrengthSpace) -> dict[str, Any]:
    """
    The strength that a trial tries: arguments for :class:`sb3_barpo.ARPO` and :class:`sb3_barpo.BARPO`, as data that
    JSON can hold. A stored trial returns the same ones again: ``suggest_strength(study.best_trial, space)``. Values are
    rounded to four digits.

    :param trial: Optuna's trial, running, stored or ``FixedTrial``.
    :param space: What is searched.
    :return: ``epsilon`` and ``kappa``, specs of schedules, ``margin``, and ``adversary``, the spec of one.
    :raises ValueError: from Optuna, for a stored trial of another space.

    Example::

        model = BARPO("MlpPolicy", env, **suggest_strength(trial, StrengthSpace.around(0.075)))
    """
    return {
        "epsilon": _suggest(trial, "epsilon", space.epsilon, space.epsilon_kinds, space.latest).to_spec(),
        "margin": _suggest_strength(trial, "margin", space.margin),
        "kappa": _suggest(trial, "kappa", space.kappa, space.kappa_kinds, space.latest).to_spec(),
        "adversary": {
            "solver": _choose(trial, "solver", space.solvers),
            "n_steps": trial.suggest_int("n_steps", *space.n_steps)
            if space.n_steps[0] < space.n_steps[1]
            else space.n_steps[0],
        },
    }


def _choose(trial: BaseTrial, name: str, choices: Sequence[str]) -> str:
    return str(trial.suggest_categorical(name, choices)) if len(choices) > 1 else choices[0]


def _suggest(trial: BaseTrial, name: str, strength: Range, kinds: Sequence[str], latest: float) -> Schedule:
    kind = _choose(trial, f"{name}.kind", kinds)
    # Named by their kind, so that each name has one distribution.
    values = [
        _suggest_number(trial, f"{name}.{kind}.{key}", parameter, strength, latest)
        for key, parameter in _KINDS[kind].parameters.items()
    ]
    return _KINDS[kind].make(*values)


def _suggest_number(trial: BaseTrial, name: str, parameter: _Parameter, strength: Range, latest: float) -> float:
    if parameter.early and strength[0] == strength[1] > 0:
        return rounded(trial.suggest_float(name, 0.0, strength[1]))
    if parameter.low is None:
        return _suggest_strength(trial, name, strength)
    if parameter.whole:
        return trial.suggest_int(name, int(parameter.low), int(parameter.high or 0))
    if parameter.high is None:
        return rounded(trial.suggest_float(name, parameter.low, latest))
    # A share of another parameter is rounded after it is taken, so that params -> spec -> params goes round exactly.
    return trial.suggest_float(name, parameter.low, parameter.high)


def _suggest_strength(trial: BaseTrial, name: str, limits: Range) -> float:
    low, high = limits
    return rounded(trial.suggest_float(name, low, high, log=True)) if low < high else low


def rounded(value: float) -> float:
    """:return: It to four digits: more would mean nothing, and would have to be read in every table and file."""
    return float(f"{value:.4g}")


def strength_params(strength: Mapping[str, Any], space: StrengthSpace) -> dict[str, Any]:
    """
    The inverse of :func:`suggest_strength`, up to rounding: makes parameters for ``study.enqueue_trial``.

    :param strength: ``epsilon``, ``kappa``, ``margin`` and ``adversary`` as the algorithms take them; the last two may
        be missing.
    :param space: What is searched.
    :return: The trial's parameters; those that the space does not search are left out.
    :raises ValueError: for a schedule that the space does not hold.
    """
    params: dict[str, Any] = {}
    for name, limits, kinds in (
        ("epsilon", space.epsilon, space.epsilon_kinds),
        ("kappa", space.kappa, space.kappa_kinds),
    ):
        schedule = as_schedule(strength[name])
        kind = schedule.kind if isinstance(schedule, Schedule) else "none of ours"
        if kind not in kinds:
            raise ValueError(f"{name} is {strength[name]!r}, but the space has only these kinds: {', '.join(kinds)}.")
        if len(kinds) > 1:
            params[f"{name}.kind"] = kind
        for (key, parameter), value in zip(_KINDS[kind].parameters.items(), _KINDS[kind].values(schedule), strict=True):
            within = limits if parameter.low is None else (parameter.low, parameter.high or space.latest)
            if parameter.early and limits[0] == limits[1]:
                within = 0.0, limits[1]
            _put(params, f"{name}.{kind}.{key}", value, within, f"{name}'s {key} is {value:g} in {strength[name]!r}")
    margin = strength.get("margin", 1.0)
    _put(params, "margin", margin, space.margin, f"The margin is {margin:g}")
    adversary = _DEFAULT | strength.get("adversary", {})
    if len(space.solvers) > 1:
        params["solver"] = adversary["solver"]
    if space.n_steps[0] < space.n_steps[1]:
        params["n_steps"] = adversary["n_steps"]
    return params


def _put(params: dict[str, Any], name: str, value: float, limits: Range, said: str) -> None:
    """Among the parameters, if it is searched for."""
    low, high = limits
    if not low * (1 - 1e-3) <= value <= high * (1 + 1e-3):  # it may have been rounded
        raise ValueError(f"{said}, but the space goes from {low:g} to {high:g}.")
    if low < high:
        params[name] = min(max(value, low), high)
