"""Adversaries written as plain data: in YAML, in a study, on a command line."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeAlias

from sb3_barpo.adversary.adversary import Adversary
from sb3_barpo.adversary.objectives import KL, Objective, Surrogate, Value
from sb3_barpo.adversary.solvers import PGD, SGLD, Solver, WarmStart

OBJECTIVES: dict[str, type[Objective]] = {"kl": KL, "surrogate": Surrogate, "value": Value}
SOLVERS: dict[str, type[PGD] | type[SGLD]] = {"sgld": SGLD, "pgd": PGD}
#: The default solver: that of every defence that names no other one.
DEFAULT_SOLVER = WarmStart()

#: What is taken wherever an adversary is asked for.
AdversaryLike: TypeAlias = Adversary | Mapping[str, Any] | None


def as_adversary(value: AdversaryLike, default: Adversary) -> Adversary:
    """
    :param value: An adversary, ``None``, or a spec, which says what differs from the default, such as
        ``{"n_steps": 5}`` or ``{"solver": "pgd", "n_steps": 5, "restarts": 2}``: ``objective`` is ``"kl"``,
        ``"surrogate"`` or ``"value"``, ``solver`` is ``"sgld"`` or ``"pgd"``, ``later_steps`` makes it a
        :class:`WarmStart` with so many steps at later visits, or none with 0, and all else is the solver's arguments.
    :param default: What is meant by ``None``, and by what a spec leaves out. Another solver than the default's begins
        with its own settings.
    :return: The adversary.
    :raises ValueError: for an unknown objective or solver, or invalid arguments.
    :raises TypeError: for any other type.
    """
    if value is None:
        return default
    if isinstance(value, Adversary):
        return value
    if not isinstance(value, Mapping):
        raise TypeError(
            f"adversary must be an Adversary, a spec such as {{'n_steps': 5}}, or None (the default one), but it is "
            f"{value!r}."
        )
    arguments = dict(value)
    objective = arguments.pop("objective", None)
    solver = _solver(arguments, default.solver, value)
    if objective is None:
        return Adversary(default.objective, solver, default.ball)
    if objective not in OBJECTIVES:
        raise ValueError(f"Unknown objective {objective!r} in {dict(value)!r}. Choose from {', '.join(OBJECTIVES)}.")
    return Adversary(OBJECTIVES[objective](), solver, default.ball)


def solver_spec(solver: WarmStart | SGLD | PGD) -> dict[str, Any]:
    """
    :param solver: A solver; of a :class:`WarmStart` the first one counts.
    :return: Its name and number of steps, as a spec has them.
    """
    first: Any = solver.first if isinstance(solver, WarmStart) else solver
    names = {kind: name for name, kind in SOLVERS.items()}
    return {"solver": names[type(first)], "n_steps": first.n_steps}


def _solver(arguments: dict[str, Any], default: Solver, spec: Mapping[str, Any]) -> Solver:
    """A solver of the spec's arguments, of which its name is taken."""
    first: Any = default.first if isinstance(default, WarmStart) else default
    usual = default.later.n_steps if isinstance(default, WarmStart) else 0  # type: ignore[attr-defined]  # SGLD or PGD
    later = arguments.pop("later_steps", None)
    name = arguments.pop("solver", None)
    if name is not None and name not in SOLVERS:
        raise ValueError(f"Unknown solver {name!r} in {dict(spec)!r}. Choose from {', '.join(SOLVERS)}.")
    base = first if name is None or type(first) is SOLVERS[name] else SOLVERS[name]()
    try:
        solver: PGD | SGLD = dataclasses.replace(base, **arguments)
    except TypeError as error:
        names = ", ".join(field.name for field in dataclasses.fields(base))
        raise ValueError(
            f"The adversary {dict(spec)!r} does not fit: besides objective, solver and later_steps, "
            f"{type(base).__name__} takes {names}."
        ) from error
    if later is None:
        later = min(usual, solver.n_steps)
    return solver if later == 0 else WarmStart(solver, dataclasses.replace(solver, n_steps=later))
