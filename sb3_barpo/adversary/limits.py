"""Bounds: a sensor cannot report what its observation space does not contain."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import (
    VecCheckNan,
    VecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
    VecVideoRecorder,
)

# Wrappers that leave what VecNormalize returns as it is. (It declares images that it normalises as no images, so that
# VecTransposeImage leaves them alone.) Compared by type: a subclass may do anything.
_KEEPS_OBSERVATIONS: tuple[type[VecEnvWrapper], ...] = (VecMonitor, VecCheckNan, VecVideoRecorder, VecTransposeImage)


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
        # The space may be of another type than what reaches the policy, and torch cannot compare all whole numbers.
        like = perturbed if perturbed.is_floating_point() else perturbed.double()
        like = like.double() if observations.dtype == th.float64 else like
        clean = observations.to(like)
        low, high = th.minimum(self.low.to(like), clean), th.maximum(self.high.to(like), clean)
        return th.maximum(th.minimum(like, high), low)


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


def bounds_of(
    space: spaces.Box | spaces.Dict, venv: VecEnv | None, device: th.device | str = "cpu"
) -> Bounds | DictBounds | None:
    """
    The one place where the limits of what a policy sees are known. Without normalisation they are those of its space.
    Under ``VecNormalize`` they are those of the raw space, normalised by the present statistics, for the keys that it
    normalises; but only while nothing outside it changes or rearranges observations, as ``VecFrameStack`` does. Then
    there are none, and the ball is the only limit. Nor are there any for stacked frames of features with different
    limits, which SB3 declares in another order than it stacks them.

    :param space: Space of what the policy sees.
    :param venv: The environments as the policy sees them, or their ``VecNormalize`` alone; ``None`` if unknown.
    :param device: Where the tensors shall live.
    :return: The limits, or ``None`` if there are none.
    """
    layers = list[Any]()
    while isinstance(venv, VecEnvWrapper):
        layers.append(venv)
        venv = venv.venv
    if any(isinstance(layer, VecFrameStack) and not _is_uniform(layer.venv.observation_space) for layer in layers):
        return None  # SB3 declares limits feature by feature, low[0], low[0], low[1], ..., but stacks frame by frame
    normalizing = [i for i, layer in enumerate(layers) if isinstance(layer, VecNormalize) and layer.norm_obs]
    if not normalizing:
        return observation_bounds(space, device=device)
    layer = layers[normalizing[0]]
    keeps = all(type(one) in (*_KEEPS_OBSERVATIONS, VecNormalize) for one in layers[: normalizing[0]])
    if len(normalizing) > 1 or type(layer) is not VecNormalize or not keeps:
        return None
    raw: Any = layer.venv.observation_space
    if not isinstance(raw, spaces.Dict):
        return observation_bounds(raw, layer.normalize_obs, device) if raw.shape == space.shape else None
    if not isinstance(space, spaces.Dict) or raw.spaces.keys() != space.spaces.keys():
        return None
    # A key that is not normalised reaches the policy in its own space, an image perhaps with its channels first.
    normalized = layer.norm_obs_keys or []
    mixed = {key: raw[key] if key in normalized else part for key, part in space.items()}
    return observation_bounds(spaces.Dict(mixed), layer.normalize_obs, device)


def _is_uniform(space: spaces.Space[Any]) -> bool:
    """Whether all features of an observation have the same limits, or those of each key of a ``Dict``."""
    if isinstance(space, spaces.Dict):
        return all(map(_is_uniform, space.values()))
    return not isinstance(space, spaces.Box) or all(
        bool((end == end.flat[0]).all()) for end in (space.low, space.high) if end.size
    )


def _limits(space: spaces.Box, low: np.ndarray, high: np.ndarray, device: th.device | str) -> Bounds | None:
    """Bounds of a space whose limits, normalised, are these; what is infinite stays so."""
    if not (np.isfinite(space.low).any() or np.isfinite(space.high).any()):
        return None
    ends = ((space.low, low), (space.high, high))
    return Bounds(*(th.as_tensor(np.where(np.isfinite(raw), seen, raw), device=device) for raw, seen in ends))
