"""Bounds: a sensor cannot report what its observation space does not contain."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

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

from sb3_barpo.policies.spaces import by_parts

# Wrappers that leave observations as they are. Compared by type: a subclass may do anything.
_KEEPS_OBSERVATIONS: tuple[type[VecEnvWrapper], ...] = (VecMonitor, VecCheckNan, VecVideoRecorder)
# Those whose changes are known, and so are not in the space that they declare.
_CHANGES_OBSERVATIONS: tuple[type[VecEnvWrapper], ...] = (VecNormalize, VecFrameStack, VecTransposeImage)
#: Lower and upper ends by key of a ``Dict`` space, under ``""`` those of a ``Box``.
_Ends: TypeAlias = dict[str, tuple[np.ndarray, np.ndarray]]


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
    ends = _ends_of(space)
    return _as_bounds(space, ends if normalize is None else _mapped(ends, normalize), device)


def bounds_of(
    space: spaces.Box | spaces.Dict, venv: VecEnv | None, device: th.device | str = "cpu"
) -> Bounds | DictBounds | None:
    """
    The one place where the limits of what a policy sees are known: those of the environments' space, followed through
    their wrappers. ``VecNormalize`` normalises them by its present statistics, ``VecFrameStack`` stacks them as it does
    observations. (SB3 declares them in another order, feature by feature.) Where a wrapper of another kind lies outside
    these, what it does is unknown, there are no limits, and the ball is the only one.

    :param space: Space of what the policy sees.
    :param venv: The environments as the policy sees them, or their ``VecNormalize`` alone; ``None`` if unknown.
    :param device: Where the tensors shall live.
    :return: The limits, or ``None`` if there are none.
    """
    ends = _ends_of(space) if venv is None else _ends_behind(venv)[0]
    return None if ends is None else _as_bounds(space, ends, device)


def unknown_wrapper(venv: VecEnv | None) -> str:
    """:return: Name of the wrapper that keeps :func:`bounds_of` from knowing the limits, empty for none."""
    return "" if venv is None else _ends_behind(venv)[1]


def _ends_of(space: spaces.Space[Any]) -> _Ends:
    return {key: (part.low, part.high) for key, part in by_parts(space).items() if isinstance(part, spaces.Box)}


def _ends_behind(venv: VecEnv) -> tuple[_Ends | None, str]:
    """The ends of what these environments return, or ``None`` and the name of the wrapper that hides them."""
    if not isinstance(venv, VecEnvWrapper):
        return _ends_of(venv.observation_space), ""
    ends, unknown = _ends_behind(venv.venv)
    if ends is None or _keeps(venv):
        return ends, unknown
    if type(venv) is VecNormalize:
        return _mapped(ends, venv.normalize_obs), ""
    if type(venv) is VecFrameStack:
        return {key: _stacked(pair, venv, key) for key, pair in ends.items()}, ""
    if type(venv) is VecTransposeImage:
        keys = getattr(venv, "image_space_keys", [""])
        return {key: _turned(pair) if key in keys else pair for key, pair in ends.items()}, ""
    inside = _ends_of(venv.venv.observation_space)
    as_declared = all(
        np.array_equal(one, other) for key in ends for one, other in zip(ends[key], inside[key], strict=True)
    )
    if as_declared and not (isinstance(venv, _CHANGES_OBSERVATIONS) and _any_finite(ends)):
        return _ends_of(venv.observation_space), ""
    return None, type(venv).__name__


def _keeps(layer: VecEnvWrapper) -> bool:
    if isinstance(layer, VecNormalize):
        return not layer.norm_obs
    if type(layer) is VecTransposeImage:
        return bool(layer.skip)
    return type(layer) in _KEEPS_OBSERVATIONS or getattr(type(layer), "keeps_observations", False)


def _mapped(ends: _Ends, normalize: Callable[[Any], Any]) -> _Ends:
    """The ends normalised; what is infinite stays so."""
    lows, highs = ({key: pair[end] for key, pair in ends.items()} for end in (0, 1))
    seen = [normalize(one[""]) if "" in one else normalize(one) for one in (lows, highs)]
    parts = [by_parts(one) for one in seen]
    return {key: (_finite_or(low, parts[0][key]), _finite_or(high, parts[1][key])) for key, (low, high) in ends.items()}


def _finite_or(raw: np.ndarray, seen: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(raw), seen, raw)


def _stacked(pair: tuple[np.ndarray, np.ndarray], layer: VecFrameStack, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Frame by frame; the frames before an episode's first are 0."""
    stack: Any = layer.stacked_obs
    stack = stack.sub_stacked_observations[key] if key else stack
    before = np.minimum(pair[0], 0).astype(pair[0].dtype), np.maximum(pair[1], 0).astype(pair[1].dtype)
    low, high = (
        np.concatenate([old] * (stack.n_stack - 1) + [new], axis=stack.repeat_axis)
        for old, new in zip(before, pair, strict=True)
    )
    return low, high


def _turned(pair: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Channels first."""
    return np.moveaxis(pair[0], -1, 0), np.moveaxis(pair[1], -1, 0)


def _any_finite(ends: _Ends) -> bool:
    return any(bool(np.isfinite(end).any()) for pair in ends.values() for end in pair)


def _as_bounds(space: spaces.Box | spaces.Dict, ends: _Ends, device: th.device | str) -> Bounds | DictBounds | None:
    found = {
        key: _bounds(ends.get(key), part, device)
        for key, part in by_parts(space).items()
        if isinstance(part, spaces.Box)
    }
    return DictBounds(found) if isinstance(space, spaces.Dict) else found[""]


def _bounds(pair: tuple[np.ndarray, np.ndarray] | None, part: spaces.Box, device: th.device | str) -> Bounds | None:
    """Bounds of a part of the space, an image perhaps with its channels still last."""
    if pair is not None and pair[0].shape != part.shape:
        pair = _turned(pair) if pair[0].ndim == 3 else None
    if pair is None or pair[0].shape != part.shape or not _any_finite({"": pair}):
        return None
    return Bounds(*(th.as_tensor(np.ascontiguousarray(end), device=device) for end in pair))
