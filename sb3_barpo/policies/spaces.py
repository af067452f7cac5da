"""Observation spaces: which of them can be perturbed, and observations of a ``Dict`` key by key."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space


def check_observation_space(space: spaces.Space[Any]) -> spaces.Box | spaces.Dict:
    """
    :param space: Observation space of an environment or a policy.
    :return: The same space, if its observations can be perturbed: a ``Box`` of numbers, or a ``Dict`` with one.
    :raises TypeError: if they cannot.
    """
    parts = list(space.values()) if isinstance(space, spaces.Dict) else [space]
    if not any(isinstance(part, spaces.Box) for part in parts):
        raise TypeError(
            f"Observations of {space} cannot be perturbed: its values have no neighbours at a small distance. Only Box "
            "spaces, and Dict spaces with a Box among their keys, can; use plain PPO, or wrap the environment."
        )
    return space  # type: ignore[return-value]  # a Dict or a Box


def is_finite(observations: Any) -> bool:
    """:return: Whether all numbers of an array, or of arrays by key, are finite."""
    parts = observations.values() if isinstance(observations, Mapping) else [observations]
    return all(bool(np.isfinite(part).all()) for part in parts)


def by_parts(observations: Any) -> dict[str, Any]:
    """:return: What stands under each key of a ``Dict``; of anything else, itself under the key ``""``."""
    return dict(observations.items()) if isinstance(observations, Mapping | spaces.Dict) else {"": observations}


def by_key(function: Callable[..., Any], first: Any, *others: Any) -> Any:
    """
    :param function: Takes arrays.
    :param first: An observation, of a ``Dict`` space or not.
    :param others: More of the same space, or the space.
    :return: The function's results, by key where observations are.
    """
    if isinstance(first, Mapping):
        return {key: function(value, *(other[key] for other in others)) for key, value in first.items()}
    return function(first, *others)


def in_type_of(clean: np.ndarray, values: np.ndarray) -> np.ndarray:
    """
    :param clean: Clean observations.
    :param values: Perturbed ones, floating.
    :return: The perturbed ones in the type of the clean ones, and within its range. Where that type is coarser than
        single precision, they are rounded towards the clean ones: no feature moves by more than ``values`` has it move.
    """
    kind = clean.dtype
    if np.issubdtype(kind, np.floating):
        typed = values.astype(kind, copy=False)
        if kind.itemsize >= 4 or values.dtype == kind:
            return typed
        further = np.abs(typed.astype(values.dtype) - clean) > np.abs(values - clean)
        return np.asarray(np.where(further, np.nextafter(typed, clean), typed))
    low, high = (0, 1) if kind.kind == "b" else (np.iinfo(kind).min, np.iinfo(kind).max)
    steps = np.trunc(np.round(values - clean, 4))  # rounding errors must not cost a whole step
    return np.asarray(np.clip(clean + steps, low, high).astype(kind))


def usual_policy(space: spaces.Space[Any]) -> str:
    """:return: The name of SB3's policy for such observations."""
    if isinstance(space, spaces.Dict):
        return "MultiInputPolicy"
    return "CnnPolicy" if is_image_space(space) else "MlpPolicy"
