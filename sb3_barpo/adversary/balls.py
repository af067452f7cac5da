"""
Balls: the sets in which an adversary may move an observation.

A ball is a norm with a scale per feature. Its radius, the strength ε, comes with each call, because it changes during
training. All methods work on perturbations ``delta = perturbed - clean`` of shape ``(B, *obs)``, every row by itself.
"""

from abc import ABC, abstractmethod

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import ArrayLike


def _lengths(rows: th.Tensor) -> th.Tensor:
    """Euclidean length of each row, shape ``(B,)``."""
    return rows.flatten(1).square().sum(1).sqrt()


class Ball(ABC):
    """
    The set ``{delta : ‖delta / scale‖ ≤ ε}``.

    :param scale: Radius of each feature relative to ε: a number, or an array of the observation's shape ``obs``.
        A feature of scale 0 stays clean.
    :raises ValueError: if the scale is negative, not finite, or zero everywhere.
    """

    def __init__(self, scale: ArrayLike = 1.0) -> None:
        self.scale = np.asarray(scale, dtype=np.float32)
        if not (np.all(np.isfinite(self.scale)) and np.all(self.scale >= 0) and np.any(self.scale > 0)):
            raise ValueError(
                f"The scale of a ball must be finite, at least 0, and above 0 somewhere, but it is {scale!r}. "
                "Give the radius of each feature relative to epsilon, 0 for a feature that stays clean."
            )

    def check(self, observation_space: spaces.Box) -> None:
        """
        :param observation_space: Space of the observations that will be perturbed.
        :raises ValueError: if the scale has neither the space's shape nor a single value.
        """
        if self.scale.shape not in ((), observation_space.shape):
            raise ValueError(
                f"The scale of a ball must be a number or have the observation's shape {observation_space.shape}, "
                f"but its shape is {self.scale.shape}. Give one value per feature."
            )

    def within(self, moves: th.Tensor, epsilon: float) -> th.Tensor:
        """
        :param moves: What a learned adversary chooses, in units of ``ε · scale``, shape ``(B, *obs)``.
        :param epsilon: Radius of the ball.
        :return: The perturbations that they mean, shape ``(B, *obs)``; those outside the ball are projected.
        """
        return self.project(epsilon * self._scale_like(moves) * moves, epsilon)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(scale={self.scale.tolist()})"

    def _scale_like(self, delta: th.Tensor) -> th.Tensor:
        return th.as_tensor(self.scale, dtype=delta.dtype, device=delta.device)

    def _in_units_of_scale(self, delta: th.Tensor) -> th.Tensor:
        """``delta / scale`` of shape ``(B, features)``; a feature of scale 0 cannot move and counts as 0."""
        scale = self._scale_like(delta)
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
        return self._scale_like(gradient) * gradient.sign()

    def project(self, delta: th.Tensor, epsilon: float) -> th.Tensor:
        reach = epsilon * self._scale_like(delta)
        return th.maximum(th.minimum(delta, reach), -reach)

    def step(self, delta: th.Tensor, gradient: th.Tensor, length: float, epsilon: float) -> th.Tensor:
        if self.scale.shape:
            return super().step(delta, gradient, length, epsilon)
        scale = self.scale.item()  # plain numbers: a search spends much of its time here
        return delta.add(gradient.sign(), alpha=length * scale).clamp_(-epsilon * scale, epsilon * scale)

    def sample(self, like: th.Tensor, generator: th.Generator) -> th.Tensor:
        uniform = th.rand(like.shape, generator=generator, dtype=like.dtype, device=like.device)
        return self._scale_like(like) * (2 * uniform - 1)


class L2Ball(Ball):
    """The ellipsoid ``‖delta / scale‖₂ ≤ ε``. Projection moves along the ray to the clean observation."""

    def norm(self, delta: th.Tensor) -> th.Tensor:
        return _lengths(self._in_units_of_scale(delta))

    def steepest(self, gradient: th.Tensor) -> th.Tensor:
        scale = self._scale_like(gradient)
        tiny = th.finfo(gradient.dtype).tiny
        pull = scale * gradient
        # The largest pull becomes 1 first: the squares of a very small or large gradient leave the range of its type.
        pull = pull / self._rows(pull.flatten(1).abs().amax(1), pull).clamp(min=tiny)
        return scale * pull / self._rows(_lengths(pull), pull).clamp(min=tiny)

    def project(self, delta: th.Tensor, epsilon: float) -> th.Tensor:
        shrink = epsilon / self.norm(delta).clamp(min=th.finfo(delta.dtype).tiny)
        return delta * (self._scale_like(delta) > 0) * self._rows(shrink.clamp(max=1.0), delta)

    def sample(self, like: th.Tensor, generator: th.Generator) -> th.Tensor:
        scale = self._scale_like(like)
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
