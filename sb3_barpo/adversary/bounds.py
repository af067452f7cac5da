"""Bounds: a sensor cannot report what its observation space does not contain."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces


class Bounds(NamedTuple):
    """
    Limits of the observations, in the units of what the policy sees.

    :param low: Lower limits, shape ``obs``; -inf where there is none.
    :param high: Upper limits, shape ``obs``; inf where there is none.
    """

    low: th.Tensor
    high: th.Tensor

    def clip(self, perturbed: th.Tensor, observations: th.Tensor) -> th.Tensor:
        """
        :param perturbed: Perturbed observations, shape ``(B, *obs)``.
        :param observations: The clean ones. One that lies outside already (running statistics move) may stay there.
        :return: The perturbed observations within the bounds; never further from the clean ones than before.
        """
        # The space may be of another type than what reaches the policy; the result keeps the observations' type.
        low = th.minimum(self.low.to(observations), observations)
        high = th.maximum(self.high.to(observations), observations)
        return th.maximum(th.minimum(perturbed, high), low)


def observation_bounds(
    space: spaces.Box,
    normalize: Callable[[np.ndarray], np.ndarray] | None = None,
    device: th.device | str = "cpu",
) -> Bounds | None:
    """
    :param space: Space of the raw observations.
    :param normalize: Maps raw observations to what the policy sees, ``VecNormalize.normalize_obs`` for example.
    :param device: Where the tensors shall live.
    :return: The bounds, or ``None`` for a space without any.
    """
    if not (np.isfinite(space.low).any() or np.isfinite(space.high).any()):
        return None

    def limits(raw: np.ndarray) -> th.Tensor:
        seen = raw if normalize is None else np.where(np.isfinite(raw), normalize(raw), raw)
        return th.as_tensor(seen, device=device)

    return Bounds(limits(space.low), limits(space.high))


def check_observation_space(space: spaces.Space[Any]) -> spaces.Box:
    """
    :param space: Observation space of an environment or a policy.
    :return: The same space, if its observations can be perturbed.
    :raises TypeError: if they cannot: only ``Box`` spaces of a floating type are supported yet.
    """
    if not (isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating)):
        raise TypeError(
            f"Only Box observations of a floating type can be perturbed yet, not {space}. "
            "Wrap the environment so that it gives such observations, or use plain PPO."
        )
    return space
