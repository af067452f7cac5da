"""
Balls: the sets in which an adversary may move an observation.

A ball is a norm with a scale per feature. Its radius, the strength ε, comes with each call, because it changes during
training. All methods work on perturbations ``delta = perturbed - clean`` of shape ``(B, *obs)``, every row by itself.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import ArrayLike

from sb3_barpo.adversary.timing import Timing

if TYPE_CHECKING:
    from typing_extensions import Self


def _lengths(rows: th.Tensor) -> th.Tensor:
    """Euclidean length of each row, shape ``(B,)``."""
    return rows.flatten(1).square().sum(1).sqrt()


def _check_shape(what: str, scale: np.ndarray, space: spaces.Box) -> None:
    if scale.shape not in ((), space.shape):
        raise ValueError(
            f"{what} must be a number or have the observation's shape {space.shape}, but its shape is {scale.shape}. "
            "Give one value per feature."
        )


class Ball(ABC):
    """
    The set ``{delta : ‖delta / scale‖ ≤ ε}``.

    :param scale: Radius of each feature relative to ε: a number, or an array of the observation's shape ``obs``.
        A feature of scale 0 stays clean. For a ``Dict`` space, one such scale by key; keys that are not named stay
        clean.
    :param timing: Limits over the steps of an episode, for attacks of evaluation; none by default.
    :raises ValueError: if the scale is negative, not finite, or zero everywhere.
    """

    timing: Timing | None = None

    def __init__(self, scale: ArrayLike | Mapping[str, ArrayLike] = 1.0, timing: Timing | None = None) -> None:
        if timing is not None and timing != Timing():
            self.timing = timing
        self.scales: dict[str, np.ndarray] | None = None
        if isinstance(scale, Mapping):
            self.scales = {key: np.asarray(value, dtype=np.float32) for key, value in scale.items()}
            scale = np.concatenate([np.zeros(0), *(part.ravel() for part in self.scales.values())])
        self.scale = np.asarray(scale, dtype=np.float32)
        if not (np.all(np.isfinite(self.scale)) and np.all(self.scale >= 0) and np.any(self.scale > 0)):
            raise ValueError(
                f"The scale of a ball must be finite, at least 0, and above 0 somewhere, but it is {scale!r}. "
                "Give the radius of each feature relative to epsilon, 0 for a feature that stays clean."
            )

    def check(self, observation_space: spaces.Box | spaces.Dict) -> None:
        """
        :param observation_space: Space of the observations that will be perturbed.
        :raises ValueError: if the scale does not fit the space: neither its shape nor a single value, a key that the
            space has not, or a single value for a space whose keys differ in kind; or if the rate is limited at which
            whole numbers may change.
        """
        if isinstance(observation_space, spaces.Dict):
            self._check_dict(observation_space)
        elif self.scales is not None:
            raise ValueError(
                f"The scale of a ball names keys, {', '.join(self.scales)}, but the space {observation_space} has "
                "none. Give a number or an array."
            )
        else:
            _check_shape("The scale of a ball", self.scale, observation_space)
        self._check_rate(observation_space)

    def _check_rate(self, space: spaces.Box | spaces.Dict) -> None:
        parts = [space[key] for key in self.moving(space)] if isinstance(space, spaces.Dict) else [space]
        whole = any(part.dtype is not None and np.issubdtype(part.dtype, np.integer) for part in parts)
        if whole and self.timing is not None and self.timing.rate is not None:
            raise ValueError(
                f"The rate of change can be limited for floating-point observations, but those of {space} are whole "
                "numbers, such as pixels. Leave the rate out."
            )

    def _check_dict(self, space: spaces.Dict) -> None:
        if self.scales is None:
            alike = all(
                isinstance(part, spaces.Box) and np.issubdtype(part.dtype, np.floating) for part in space.values()
            )
            if self.scale.shape != () or not alike:
                raise ValueError(
                    f"The keys of {space} are not all of one kind, so each that may move needs a scale of its own, in "
                    f"its own units; pixels count from 0 to 255. Name them, for example "
                    f"LinfBall({{{next(iter(space))!r}: 1.0}}); the others stay clean."
                )
            return
        for key, scale in self.scales.items():
            if key not in space.spaces:
                raise ValueError(f"The ball has a scale for {key!r}, but the keys are {', '.join(space)}.")
            part = space[key]
            if not isinstance(part, spaces.Box):
                raise ValueError(
                    f"The ball has a scale for {key!r}, but {part} has no neighbours at a small distance. Leave it "
                    "out: it stays clean."
                )
            _check_shape(f"The scale of {key!r}", scale, part)

    def only(self, features: Sequence[int], space: spaces.Box | spaces.Dict) -> "Self":
        """
        :param features: Indices of features of the flattened observation.
        :param space: Space of the observations.
        :return: The same ball, in which all other features stay clean.
        :raises ValueError: if there is no such feature, or if this ball keeps all of them clean.
        """
        if not isinstance(space, spaces.Box):
            raise ValueError(
                f"Features are numbered in a Box, but the space is {space}. Name its keys by the ball's scale, for "
                f"example LinfBall({{{next(iter(space))!r}: 1.0}}); the others stay clean."
            )
        size = int(np.prod(space.shape))
        if beyond := [one for one in features if not 0 <= one < size]:
            raise ValueError(f"There are features 0 to {size - 1}, but not {', '.join(map(str, beyond))}.")
        chosen = np.isin(np.arange(size), list(features)).reshape(space.shape)
        scale = np.broadcast_to(self.scale, space.shape) * chosen
        if not scale.any():
            raise ValueError(f"Nothing may move: of the features {list(features)}, {self!r} moves none. Name others.")
        other = copy.copy(self)
        other.scale = scale.astype(np.float32)
        return other

    def timed(self, timing: Timing | None) -> "Self":
        """:return: The same ball with these limits over the steps of an episode."""
        other = copy.copy(self)
        other.timing = None if timing == Timing() else timing
        return other

    def moving(self, keys: Iterable[str]) -> list[str]:
        """:return: Those of the keys of a ``Dict`` space that may move."""
        return [key for key in keys if self.scales is None or np.any(self.scales.get(key, 0) > 0)]

    def joined(self, shapes: Mapping[str, Sequence[int]], units: Mapping[str, float]) -> "Ball":
        """
        :param shapes: Shapes of the keys that may move, in their order.
        :param units: How much of each key is 1 when they are joined.
        :return: The ball of these keys flattened and put one after the other.
        """
        if self.scales is None:
            return self
        parts = [np.broadcast_to(self.scales[key] / units[key], tuple(shape)).ravel() for key, shape in shapes.items()]
        return type(self)(np.concatenate(parts))

    def within(self, moves: th.Tensor, epsilon: float) -> th.Tensor:
        """
        :param moves: What a learned adversary chooses, in units of ``ε · scale``, shape ``(B, *obs)``.
        :param epsilon: Radius of the ball.
        :return: The perturbations that they mean, shape ``(B, *obs)``; those outside the ball are projected.
        """
        return self.project(epsilon * self.like(moves) * moves, epsilon)

    def moves(self, delta: th.Tensor, epsilon: float) -> th.Tensor:
        """
        :param delta: Perturbations of the ball, shape ``(B, *obs)``.
        :param epsilon: Radius of the ball, above 0.
        :return: What a learned adversary would choose for them: :meth:`within` turned round, 0 where nothing moves.
        """
        return self._in_units_of_scale(delta).reshape(delta.shape) / epsilon

    def whole(self, delta: np.ndarray, epsilon: float, key: str = "") -> np.ndarray:
        """
        :param delta: Perturbations of the ball, shape ``(B, *obs)``.
        :param epsilon: Radius of the ball.
        :param key: Their key in a ``Dict`` space.
        :return: Perturbations of the ball that are whole numbers, near these.
        """
        return np.trunc(np.round(delta, 4))  # rounding errors must not cost a whole step

    def plain_scale(self) -> Any:
        """:return: The scale as JSON can hold it, and the constructor takes it."""
        return self.scale.tolist() if self.scales is None else {key: s.tolist() for key, s in self.scales.items()}

    def spec(self) -> dict[str, Any]:
        """:return: The ball as JSON can hold it; :func:`as_ball` reads it."""
        timing = {} if self.timing is None else {"timing": self.timing.spec()}
        return {"kind": type(self).__name__, "scale": self.plain_scale(), **timing}

    def __repr__(self) -> str:
        timing = "" if self.timing is None else f", timing={self.timing!r}"
        return f"{type(self).__name__}(scale={self.plain_scale()}{timing})"

    @property
    def is_plain(self) -> bool:
        """Whether its radius is ε for all features."""
        return self.scales is None and self.scale.shape == () and self.scale.item() == 1

    def like(self, delta: th.Tensor) -> th.Tensor:
        """:return: The scale, of the type of perturbations and on their device."""
        return th.as_tensor(self.scale, dtype=delta.dtype, device=delta.device)

    def _in_units_of_scale(self, delta: th.Tensor) -> th.Tensor:
        """``delta / scale`` of shape ``(B, features)``; a feature of scale 0 cannot move and counts as 0."""
        scale = self.like(delta)
        units = th.where(scale > 0, delta / scale.clamp(min=th.finfo(delta.dtype).tiny), th.zeros_like(delta))
        return units.flatten(1)

    @abstractmethod
    def norm(self, delta: th.Tensor) -> th.Tensor:
        """
        :param delta: Perturbations, shape ``(B, *obs)``.
        :return: The radius that each row uses, shape ``(B,)``, in units of ε.
        """

    @abstractmethod
    def steepest(self, gradient: th.Tensor) -> th.Tensor:
        """
        :param gradient: Gradient of the objective, shape ``(B, *obs)``.
        :return: The point of the ball of radius 1 in which the linear function with this gradient is largest,
            shape ``(B, *obs)``; 0 where the gradient is 0.
        """

    @abstractmethod
    def project(self, delta: th.Tensor, epsilon: float) -> th.Tensor:
        """
        :param delta: Perturbations, shape ``(B, *obs)``.
        :param epsilon: Radius of the ball.
        :return: The nearest perturbations of the ball, shape ``(B, *obs)``.
        """

    def step(self, delta: th.Tensor, gradient: th.Tensor, length: float, epsilon: float) -> th.Tensor:
        """
        :param delta: Perturbations, shape ``(B, *obs)``.
        :param gradient: Gradient of the objective there, of the same shape.
        :param length: Length of the step.
        :param epsilon: Radius of the ball.
        :return: The perturbations after a step in the steepest direction and projection, shape ``(B, *obs)``.
        """
        return self.project(delta + length * self.steepest(gradient), epsilon)

    @abstractmethod
    def sample(self, like: th.Tensor, generator: th.Generator) -> th.Tensor:
        """
        :param like: A tensor of shape ``(B, *obs)`` that gives shape, type and device.
        :param generator: Source of the randomness.
        :return: Points drawn uniformly from the ball of radius 1, shape ``(B, *obs)``.
        """


class LinfBall(Ball):
    """Every feature moves by at most ``ε · scale``: the ball of the field's attacks (Zhang et al., NeurIPS 2020)."""

    def norm(self, delta: th.Tensor) -> th.Tensor:
        return self._in_units_of_scale(delta).abs().amax(1)

    def steepest(self, gradient: th.Tensor) -> th.Tensor:
        return self.like(gradient) * gradient.sign()

    def project(self, delta: th.Tensor, epsilon: float) -> th.Tensor:
        reach = epsilon * self.like(delta)
        return th.maximum(th.minimum(delta, reach), -reach)

    def step(self, delta: th.Tensor, gradient: th.Tensor, length: float, epsilon: float) -> th.Tensor:
        if self.scale.shape:
            return super().step(delta, gradient, length, epsilon)
        scale = self.scale.item()  # plain numbers: a search spends much of its time here
        return delta.add(gradient.sign(), alpha=length * scale).clamp_(-epsilon * scale, epsilon * scale)

    def whole(self, delta: np.ndarray, epsilon: float, key: str = "") -> np.ndarray:
        reach = np.floor(epsilon * (self.scale if self.scales is None else self.scales.get(key, 0)) + 1e-4)
        return np.asarray(np.clip(np.rint(delta), -reach, reach))

    def sample(self, like: th.Tensor, generator: th.Generator) -> th.Tensor:
        uniform = th.rand(like.shape, generator=generator, dtype=like.dtype, device=like.device)
        return self.like(like) * (2 * uniform - 1)


class L2Ball(Ball):
    """The ellipsoid ``‖delta / scale‖₂ ≤ ε``. Projection moves along the ray to the clean observation."""

    def norm(self, delta: th.Tensor) -> th.Tensor:
        return _lengths(self._in_units_of_scale(delta))

    def steepest(self, gradient: th.Tensor) -> th.Tensor:
        scale = self.like(gradient)
        tiny = th.finfo(gradient.dtype).tiny
        pull = scale * gradient
        # The largest pull becomes 1 first: the squares of a very small or large gradient leave the range of its type.
        pull = pull / self._rows(pull.flatten(1).abs().amax(1), pull).clamp(min=tiny)
        return scale * pull / self._rows(_lengths(pull), pull).clamp(min=tiny)

    def project(self, delta: th.Tensor, epsilon: float) -> th.Tensor:
        shrink = epsilon / self.norm(delta).clamp(min=th.finfo(delta.dtype).tiny)
        return delta * (self.like(delta) > 0) * self._rows(shrink.clamp(max=1.0), delta)

    def sample(self, like: th.Tensor, generator: th.Generator) -> th.Tensor:
        scale = self.like(like)
        free = int((scale > 0).expand(like.shape[1:]).sum())
        normal = th.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device) * (scale > 0)
        uniform = th.rand(len(like), generator=generator, dtype=like.dtype, device=like.device)
        # A Gaussian direction, and a radius whose density grows with the surface of the sphere.
        radius = uniform ** (1 / free) / _lengths(normal).clamp(min=th.finfo(like.dtype).tiny)
        return scale * normal * self._rows(radius, like)

    @staticmethod
    def _rows(values: th.Tensor, like: th.Tensor) -> th.Tensor:
        """Shape ``(B,)`` to ``(B, 1, ...)``, to multiply the rows of ``like``."""
        return values.reshape(-1, *[1] * (like.dim() - 1))


#: The balls of this package by name.
BALLS: dict[str, type[Ball]] = {ball.__name__: ball for ball in (LinfBall, L2Ball)}


def as_ball(spec: Mapping[str, Any]) -> Ball:
    """
    :param spec: What :meth:`Ball.spec` returned, of a ball of this package.
    :return: The ball.
    :raises ValueError: for an unknown kind of ball.
    """
    if spec["kind"] not in BALLS:
        raise ValueError(f"Unknown ball {spec['kind']!r}. Choose from {', '.join(BALLS)}.")
    timing = Timing(**spec["timing"]) if "timing" in spec else None
    return BALLS[spec["kind"]](spec["scale"], timing)
