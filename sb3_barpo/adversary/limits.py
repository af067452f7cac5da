"""Bounds: a sensor cannot report what its observation space does not contain."""

from collections.abc import Callable, Mapping
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


class DictBounds(dict[str, Bounds | None]):
    """Limits by key of a ``Dict`` space; ``None`` for a key without any."""

    def clip(self, perturbed: Mapping[str, th.Tensor], observations: Mapping[str, th.Tensor]) -> dict[str, th.Tensor]:
        """
        :param perturbed: Perturbed observations by key.
        :param observations: The clean ones.
        :return: The perturbed observations within the bounds, see :meth:`Bounds.clip`.
        """
        return {
            key: value if (bounds := self.get(key)) is None else bounds.clip(value, observations[key])
            for key, value in perturbed.items()
        }


def observation_bounds(
    space: spaces.Box | spaces.Dict,
    normalize: Callable[[Any], Any] | None = None,
    device: th.device | str = "cpu",
) -> Bounds | DictBounds | None:
    """
    :param space: Space of the raw observations.
    :param normalize: Maps raw observations to what the policy sees, ``VecNormalize.normalize_obs`` for example.
    :param device: Where the tensors shall live.
    :return: The bounds, or ``None`` for a space without any.
    """
    normalize = (lambda raw: raw) if normalize is None else normalize
    if isinstance(space, spaces.Dict):
        boxes = {key: part for key, part in space.items() if isinstance(part, spaces.Box)}
        lows, highs = ({key: getattr(box, end) for key, box in boxes.items()} for end in ("low", "high"))
        seen = normalize(lows), normalize(highs)
        return DictBounds({key: _limits(box, seen[0][key], seen[1][key], device) for key, box in boxes.items()})
    return _limits(space, normalize(space.low), normalize(space.high), device)


def _limits(space: spaces.Box, low: np.ndarray, high: np.ndarray, device: th.device | str) -> Bounds | None:
    """Bounds of a space whose limits, normalised, are these; what is infinite stays so."""
    if not (np.isfinite(space.low).any() or np.isfinite(space.high).any()):
        return None
    ends = ((space.low, low), (space.high, high))
    return Bounds(*(th.as_tensor(np.where(np.isfinite(raw), seen, raw), device=device) for raw, seen in ends))
