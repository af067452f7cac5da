"""The search space: margin and schedule of ε, the defence's own settings, and the solver of the inner problem."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import BaseTrial

from sb3_barpo.adversary.spec import DEFAULT_SOLVER, SOLVERS, solver_spec
from sb3_barpo.algorithms import OURS, algorithm
from sb3_barpo.expressions import read_kwargs, with_kwargs
from sb3_barpo.tuning.kinds import Limits, Range, check_kinds, choose, number, params_of, put, suggest
from sb3_barpo.tuning.spaces import Choices, Numbers, Setting, as_setting, own_settings

_DEFAULT = solver_spec(DEFAULT_SOLVER)
#: Margins that are tried by default.
MARGINS: Range = (0.5, 4.0)


@dataclass(frozen=True)
class StrengthSpace:
    """
    Which settings of a defence are tried. By default (:meth:`around`) ε rises as one ramp to the strength to be
    withstood. Its end, its delay, the margin and the defence's own settings are searched: four numbers and no branches
    for BARPO, which TPE models jointly.

    :param epsilon: Range of ε's values, searched on a logarithmic scale, as the margin; by default the strength to be
        withstood, twice: then the margin is what is searched. In a kind of two strengths the first is then searched
        from 0 to ε.
    :param settings: The defence's own settings, by name, see :mod:`sb3_barpo.tuning.spaces`; BARPO's by default.
    :param epsilon_kinds: Kinds of schedules for ε, see :data:`sb3_barpo.tuning.kinds.KINDS`: ``constant``, ``ramp``,
        ``linear``, ``cosine``, ``smooth``, ``step`` and ``cyclic``, and the controllers ``competence`` and ``holdkl``.
        With several, the kind is a parameter too, and the others depend on it.
    :param latest: Latest end of a ramp, as a fraction of training. From there on trials can be compared.
    :param solvers: ``sgld``, ``pgd`` or both; none for a defence that searches for nothing.
    :param n_steps: Range of the solver's number of steps.
    :param margin: Range of the margin, how many times ε training is at.
    :param returns: The return of an untrained agent and that of a good one, for ``competence``.
    :raises ValueError: for an invalid range, or an unknown kind or solver.
    """

    epsilon: Range
    settings: Mapping[str, Setting] = field(default_factory=lambda: own_settings("barpo"))
    epsilon_kinds: Sequence[str] = ("ramp",)
    latest: float = 0.75
    solvers: Sequence[str] = (_DEFAULT["solver"],)
    n_steps: tuple[int, int] = (_DEFAULT["n_steps"], _DEFAULT["n_steps"])
    margin: Range = (1.0, 1.0)
    returns: Range | None = None

    def __post_init__(self) -> None:
        for name in ("epsilon", "n_steps", "margin"):
            low, high = getattr(self, name)
            if not 0 < low <= high < float("inf"):
                raise ValueError(
                    f"A range is two finite numbers above 0, the lower first, but {name} is {(low, high)}. For a value "
                    "that is not searched, give it twice."
                )
        if self.returns is not None and not self.returns[0] < self.returns[1]:
            raise ValueError(f"returns are two numbers, the lower first, but they are {tuple(self.returns)}.")
        if not 0.2 <= self.latest <= 1:
            raise ValueError(f"latest is a fraction of training from 0.2 to 1, but it is {self.latest!r}. Try 0.75.")
        if not set(self.solvers) <= set(SOLVERS):
            raise ValueError(f"solvers is {tuple(self.solvers)}, but it takes {', '.join(SOLVERS)}.")
        object.__setattr__(self, "settings", {name: as_setting(value) for name, value in self.settings.items()})
        for name in ("epsilon", "epsilon_kinds", "solvers", "n_steps", "margin", "returns"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))  # JSON has lists
        check_kinds("epsilon", self.epsilon_kinds, self.returns)
        for name, setting in self.settings.items():
            if isinstance(setting, Numbers) and setting.kinds:
                check_kinds(name, setting.kinds, self.returns)

    @classmethod
    def around(cls, epsilon: float, algo: str = "barpo") -> "StrengthSpace":
        """
        :param epsilon: The strength for which robustness is wanted.
        :param algo: Name of the algorithm.
        :return: The default space: trained at half to four times of it.
        :raises ValueError: for an algorithm without a defence.
        """
        settings = own_settings(algo)
        if algo not in OURS:
            raise ValueError(f"{algo} has no defence, so it has no strength to search for.")
        solver = algorithm(algo).defence.solver  # type: ignore[attr-defined]  # one of ours
        return cls(
            (epsilon, epsilon),
            settings,
            margin=MARGINS,
            solvers=() if solver.blind else (_DEFAULT["solver"],),
        )

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> "StrengthSpace":
        """
        :param spec: What ``dataclasses.asdict`` gave, perhaps that of a version that knew of κ alone.
        :return: The same space.
        """
        known = dict(spec)
        if "kappa" in known:
            low, high = known.pop("kappa")
            known["settings"] = {"kappa": Numbers(low, high, tuple(known.pop("kappa_kinds")))}
        return cls(**known)

    def limits(self, strength: Range, log: bool = True) -> Limits:
        """:return: Within which a schedule of such values is searched."""
        # Kinds that follow the return were refused without it.
        return Limits(strength, log, self.latest, self.returns or (0.0, 0.0))


def suggest_strength(trial: BaseTrial, space: StrengthSpace) -> dict[str, Any]:
    """
    What a trial tries: arguments for an algorithm, as data that JSON can hold. A stored trial returns the same ones
    again: ``suggest_strength(study.best_trial, space)``. Values are rounded to four digits.

    :param trial: Optuna's trial, running, stored or ``FixedTrial``.
    :param space: What is searched.
    :return: ``epsilon``, the spec of a schedule; ``margin``; the defence's own settings, ``kappa`` for BARPO, schedules
        as specs; and ``adversary``, the spec of one, if the defence searches with one.
    :raises ValueError: from Optuna, for a stored trial of another space.

    Example::

        model = BARPO("MlpPolicy", env, **suggest_strength(trial, StrengthSpace.around(0.075)))
    """
    found: dict[str, Any] = {
        "epsilon": suggest(trial, "epsilon", space.epsilon_kinds, space.limits(space.epsilon)).to_spec(),
        "margin": number(trial, "margin", *space.margin, log=True),
    }
    for name, setting in space.settings.items():
        place(found, name, _suggest_setting(trial, name, setting, space))
    if space.solvers:
        low, high = space.n_steps
        n_steps = trial.suggest_int("n_steps", low, high) if low < high else low
        found["adversary"] = {"solver": choose(trial, "solver", space.solvers), "n_steps": n_steps}
    return found


def _suggest_setting(trial: BaseTrial, name: str, setting: Setting, space: StrengthSpace) -> Any:
    if isinstance(setting, Choices):
        return choose(trial, name, setting.values)
    if not setting.kinds:
        return number(trial, name, setting.low, setting.high, setting.log)
    limits = space.limits((setting.low, setting.high), setting.log)
    return suggest(trial, name, setting.kinds, limits).to_spec()


def place(found: dict[str, Any], name: str, value: Any) -> None:
    """
    :param found: Arguments of an algorithm.
    :param name: Name of a setting; a dot leads into an argument that holds others.
    :param value: Its value there.
    """
    outer, _, inner = name.partition(".")
    if inner:
        found.setdefault(outer, {})[inner] = value
    else:
        found[outer] = value


def setting_of(strength: Mapping[str, Any], name: str) -> Any:
    """
    :param strength: Arguments of an algorithm.
    :param name: Name of a setting.
    :return: Its value there, ``None`` if there is none.
    """
    outer, _, inner = name.partition(".")
    value = strength.get(outer)
    return read_kwargs(value).get(inner) if inner and value else value


def merged(kwargs: Mapping[str, Any], strength: Mapping[str, Any]) -> dict[str, Any]:
    """
    :param kwargs: Arguments of an algorithm.
    :param strength: What a trial tries.
    :return: Both; of an argument that holds others, such as ``policy_kwargs``, all of them.
    :raises ValueError: if an argument that is tried is set already.
    """
    found = dict(kwargs)
    for name, value in strength.items():
        holds_others = name.endswith("_kwargs") and isinstance(value, Mapping)
        found[name] = with_kwargs(name, kwargs.get(name), value) if holds_others else value
    return found


def strength_params(strength: Mapping[str, Any], space: StrengthSpace) -> dict[str, Any]:
    """
    The inverse of :func:`suggest_strength`, up to rounding: makes parameters for ``study.enqueue_trial``.

    :param strength: ``epsilon``, the defence's own settings, ``margin`` and ``adversary`` as the algorithms take them;
        the last two may be missing.
    :param space: What is searched.
    :return: The trial's parameters; those that the space does not search are left out.
    :raises ValueError: for a setting that the space does not hold.
    """
    params = params_of(strength["epsilon"], "epsilon", space.epsilon_kinds, space.limits(space.epsilon))
    margin = strength.get("margin", 1.0)
    params |= put("margin", margin, space.margin, f"The margin is {margin:g}")
    for name, setting in space.settings.items():
        params |= _params_of_setting(setting_of(strength, name), name, setting, space)
    adversary = _DEFAULT | strength.get("adversary", {})
    if len(space.solvers) > 1:
        params["solver"] = adversary["solver"]
    if space.solvers and space.n_steps[0] < space.n_steps[1]:
        params["n_steps"] = adversary["n_steps"]
    return params


def _params_of_setting(value: Any, name: str, setting: Setting, space: StrengthSpace) -> dict[str, Any]:
    if value is None:
        raise ValueError(f"{name} is not given, but the space searches for it.")
    if isinstance(setting, Choices):
        if value not in setting.values:
            raise ValueError(f"{name} is {value!r}, but the space has only {', '.join(map(repr, setting.values))}.")
        return {name: value} if len(setting.values) > 1 else {}
    strength = setting.low, setting.high
    if setting.kinds:
        return params_of(value, name, setting.kinds, space.limits(strength, setting.log))
    return put(name, value, strength, f"{name} is {value:g}")
