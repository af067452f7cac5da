"""Limits that hold: what a space declares, but for features whose clean observations lie outside."""

import warnings
import weakref
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

from sb3_barpo.adversary.limits import Bounds, DictBounds, bounds_of, unknown_wrapper
from sb3_barpo.policies.spaces import by_parts

_TOLD: "weakref.WeakKeyDictionary[Any, str]" = weakref.WeakKeyDictionary()


class SpaceWarning(UserWarning):
    """A clean observation lies outside the space that its environment declares."""


def space_warning(model: Any) -> str:
    """:return: What a :class:`SpaceWarning` has said of a model's observations, empty for nothing."""
    return _TOLD.get(model, "")


def warn_of_space(model: Any, text: str) -> None:
    """
    Say it, unless something has been said of the model already.

    :param model: The model that sees the observations.
    :param text: What is wrong with them.
    """
    if not space_warning(model):
        _TOLD[model] = text
        warnings.warn(text, SpaceWarning, stacklevel=3)


class HeldLimits:
    """
    The declared limits of a model's observations, without those that a clean observation has broken. A sensor that
    reports more than its limit has another one: kept, it would cut perturbations off on one side, and the agent would
    look more robust than it is. So from the first such observation on its feature has no limits, and the ball is the
    only one. The first one is told by a :class:`SpaceWarning`, once for each model.

    :param model: The model that sees the observations.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._broken: dict[str, np.ndarray] = {}

    def behind(
        self, space: spaces.Box | spaces.Dict, venv: VecEnv | None, observations: Any
    ) -> Bounds | DictBounds | None:
        """
        :param space: Space of what the policy sees.
        :param venv: The environments, see :func:`sb3_barpo.adversary.bounds_of`.
        :param observations: Clean ones, as the policy sees them now, arrays of shape ``(B, *obs)``, or by key.
        :return: Their limits.
        """
        bounds = self._declared(space, venv)
        self.look(bounds, observations, normalized=_normalization(venv) is not None)
        return self.hold(bounds)

    def after_rollout(
        self, space: spaces.Box | spaces.Dict, venv: VecEnv | None, observations: Any
    ) -> Bounds | DictBounds | None:
        """
        The same in training, where the statistics of ``VecNormalize`` have moved since most observations were seen.
        Under it, the last raw ones are looked at.

        :param space: Space of what the policy sees.
        :param venv: The environments of training.
        :param observations: Those of the rollout, of any leading dimensions; ``None`` if there is none yet.
        :return: Their limits.
        """
        bounds, layer = self._declared(space, venv), _normalization(venv)
        if observations is not None and bounds is not None:
            if layer is None:
                self.look(bounds, observations)
            else:
                raw: Any = layer.venv.observation_space
                self.look(bounds_of(raw, layer.venv), layer.get_original_obs())
        return self.hold(bounds)

    def _declared(self, space: spaces.Box | spaces.Dict, venv: VecEnv | None) -> Bounds | DictBounds | None:
        bounds = bounds_of(space, venv, self._model.device)
        if bounds is None and (name := unknown_wrapper(venv)):
            warn_of_space(
                self._model,
                f"What {name} does to the observations that reach it, normalised or stacked, is not known, so "
                "perturbations have no limits but the ball. If it leaves observations as they are, put it inside "
                "VecNormalize and VecFrameStack.",
            )
        return bounds

    def look(self, bounds: Bounds | DictBounds | None, observations: Any, normalized: bool = False) -> None:
        """
        Find limits that clean observations break.

        :param bounds: The limits.
        :param observations: Clean ones, arrays with any number of leading dimensions, or by key.
        :param normalized: Whether both are normalised.
        """
        parts, limits = by_parts(observations), {} if bounds is None else by_parts(bounds)
        for key, ends in limits.items():
            seen = None if ends is None else np.asarray(parts[key])
            if seen is None or not seen.size:
                continue
            rows = seen.reshape(-1, *ends.low.shape)
            least, most = rows.min(0), rows.max(0)
            low, high = (end.double().cpu().numpy() for end in ends)
            outside = (least < low - _rounding(low)) | (most > high + _rounding(high))
            outside &= np.isfinite(least) & np.isfinite(most)  # what is no number is refused elsewhere
            if outside.any():
                self._break(key, outside, np.where(least < low, least, most), low, high, normalized)

    def hold(self, bounds: Bounds | DictBounds | None) -> Bounds | DictBounds | None:
        """
        :param bounds: The declared limits.
        :return: Those that hold.
        """
        if bounds is None or not self._broken:
            return bounds
        if isinstance(bounds, DictBounds):
            return DictBounds({key: None if ends is None else self._held(ends, key) for key, ends in bounds.items()})
        return self._held(bounds)

    def broken(self, key: str = "") -> Any:
        """
        :param key: A key of a ``Dict`` space.
        :return: Which features have no limits, an array of shape ``obs``, or ``False`` for none.
        """
        return self._broken.get(key, False)

    def _held(self, ends: Bounds, key: str = "") -> Bounds:
        broken = self._broken.get(key)
        if broken is None:
            return ends
        if broken.shape != ends.low.shape:  # seen raw, and stacked or turned since
            broken = np.ones(ends.low.shape, dtype=bool)
        free = th.as_tensor(broken, device=ends.low.device)
        # Limits of whole numbers become floating, since infinity is.
        low, high = (end if end.is_floating_point() else end.double() for end in ends)
        return Bounds(low.masked_fill(free, -np.inf), high.masked_fill(free, np.inf))

    def _break(
        self, key: str, outside: np.ndarray, values: np.ndarray, low: np.ndarray, high: np.ndarray, normalized: bool
    ) -> None:
        self._broken[key] = outside | self.broken(key)
        place = np.unravel_index(int(outside.argmax()), outside.shape)
        feature = ", ".join(str(int(i)) for i in place)
        warn_of_space(
            self._model,
            f"A clean observation lies outside the space that its environment declares: feature {feature}"
            f"{f' of {key!r}' if key else ''} is {values[place]:g}, where {low[place]:g} to {high[place]:g} is declared"
            f"{' (all normalised)' if normalized else ''}. Features of which this is seen are perturbed without limits "
            "from then on. Correct the environment's observation_space; -inf and inf stand for no limit.",
        )


def _normalization(venv: VecEnv | None) -> VecNormalize | None:
    layer = None if venv is None else unwrap_vec_normalize(venv)
    return layer if layer is not None and layer.norm_obs else None


def _rounding(limit: np.ndarray) -> np.ndarray:
    """What may lie between a limit and an observation that has it, in single precision."""
    return np.asarray(1e-5 * np.maximum(np.abs(limit), 1))
