"""What each defence has to tune: its own settings, beside ε, the margin and the search for the perturbation."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from sb3_barpo.algorithms import OURS
from sb3_barpo.hyperparams import BASES


@dataclass(frozen=True)
class Numbers:
    """
    A setting that is a number, or a schedule of numbers.

    :param low: Lowest value.
    :param high: Highest value; the same twice is not searched.
    :param kinds: Kinds of schedules, see :data:`sb3_barpo.tuning.kinds.KINDS`; none for a setting that is a number
        throughout.
    :param log: Whether it is searched on a logarithmic scale.
    :param usual: What the algorithm has if nothing is said, for a setting that is not the loss's.
    :raises ValueError: for an invalid range.
    """

    low: float
    high: float
    kinds: tuple[str, ...] = ()
    log: bool = True
    usual: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "kinds", tuple(self.kinds))  # JSON has lists
        least = self.low > 0 or (self.low == 0 and (not self.log or self.high == 0))
        if not (least and self.low <= self.high < math.inf):
            raise ValueError(
                f"A range is two finite numbers above 0, the lower first, but this is {(self.low, self.high)}. For a "
                "value that is not searched, give it twice."
            )


@dataclass(frozen=True)
class Choices:
    """
    A setting that is one of a few.

    :param values: All that are tried.
    :param usual: As in :class:`Numbers`.
    :raises ValueError: if there are none.
    """

    values: tuple[Any, ...]
    usual: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(self.values))
        if not self.values:
            raise ValueError("A choice needs one value or more, but there are none.")


Setting: TypeAlias = Numbers | Choices

_CONSTANT = ("constant",)
_KAPPA: dict[str, Setting] = {"kappa": Numbers(0.1, 10.0, _CONSTANT)}
#: By algorithm, a recurrent form has the same: the settings that are searched, by name. A dot leads into an argument
#: that holds others. Ranges span the values of the published code for all of its tasks, with room on both sides.
OWN: dict[str, dict[str, Setting]] = {
    "barpo": _KAPPA,
    "arpo": _KAPPA,
    "sappo": {"weight": Numbers(0.03, 10.0, _CONSTANT)},
    "sappo_convex": {
        "weight": Numbers(0.002, 1.0, _CONSTANT),
        "intervals": Choices(("ramp_1", 1.0, 0.5)),
    },
    "sppo": {
        "weight": Numbers(0.03, 10.0, _CONSTANT),
        "policy_kwargs.noise_std": Numbers(0.03, 0.5, usual=0.2),
        "policy_kwargs.n_draws": Choices((10, 20, 40), usual=20),
    },
    "carppo": {"weight": Numbers(0.1, 10.0, _CONSTANT), "temperature": Numbers(0.03, 1e4)},
    "radialppo": {
        "weight": Numbers(0.1, 0.9, _CONSTANT, log=False),
        "intervals": Choices((1.0, "ramp_1", 0.5)),
    },
    "wocarppo": {"weight": Numbers(0.1, 2.0, ("rise",)), "penalty": Numbers(0.002, 1.0, _CONSTANT)},
    "atla": {
        "attacker": Choices(("sarl", "paad"), usual="sarl"),
        "attacker_kwargs.learning_rate": Numbers(1e-4, 1e-2),
        "weight": Numbers(0.0, 1.0, _CONSTANT, log=False),
    },
}


def own_settings(algo: str) -> dict[str, Setting]:
    """
    :param algo: Name of an algorithm of this package, or of one on which they build, such as ``"ppo"``.
    :return: What its defence has to tune, by name; nothing for one without a defence.
    :raises ValueError: for another algorithm.
    """
    if algo in BASES:
        return {}
    if algo not in OURS:
        raise ValueError(
            f"There are settings to search for {', '.join([*sorted(BASES), *OURS])}, but the algorithm is {algo!r}."
        )
    return dict(OWN[algo.removesuffix("_lstm")])


def as_setting(value: Setting | Mapping[str, Any]) -> Setting:
    """:return: A setting from what JSON holds of one."""
    if isinstance(value, Mapping):
        return Choices(**value) if "values" in value else Numbers(**value)
    return value


def changed(
    settings: Mapping[str, Setting],
    ranges: Mapping[str, tuple[float, float]],
    choices: Mapping[str, tuple[Any, ...]],
    kinds: Mapping[str, tuple[str, ...]],
) -> dict[str, Setting]:
    """
    :param settings: What a defence has to tune.
    :param ranges: Other ranges, by name.
    :param choices: Other choices, by name.
    :param kinds: Other kinds of schedules, by name.
    :return: The settings with these.
    :raises ValueError: for a name that is not in the settings, or whose setting does not take what is given for it.
    """
    found = dict(settings)
    numbers = [name for name, setting in settings.items() if isinstance(setting, Numbers)]
    several = [name for name, setting in settings.items() if isinstance(setting, Choices)]
    scheduled = [name for name, setting in settings.items() if isinstance(setting, Numbers) and setting.kinds]
    for given, fitting, what in (
        (ranges, numbers, "a range"),
        (choices, several, "choices"),
        (kinds, scheduled, "kinds of schedules"),
    ):
        if strange := [name for name in given if name not in fitting]:
            raise ValueError(
                f"{strange[0]!r} is no setting with {what} to search. "
                + (f"Here these are: {', '.join(fitting)}." if fitting else "There is none here.")
            )
    for name, (low, high) in ranges.items():
        found[name] = _replace(found[name], low=low, high=high)
    for name, values in choices.items():
        found[name] = _replace(found[name], values=values)
    for name, names in kinds.items():
        found[name] = _replace(found[name], kinds=names)
    return found


def _replace(setting: Setting, **changes: Any) -> Setting:
    return replace(setting, **changes)
