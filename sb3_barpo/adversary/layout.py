"""
Layouts: how observations lie in one tensor, on which objectives, solvers and balls work.

That tensor is in the units of the networks, which divide bytes by 255: a solver's noise is meant for these. An
observation of a ``Box`` space is such a tensor already, but for the unit. Of a ``Dict`` space, those keys are joined
that may move.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch as th
from stable_baselines3.common.distributions import Distribution

from sb3_barpo.adversary.balls import Ball

#: A batch of observations as SB3's policies take them: a tensor ``(B, *obs)``, or one for each key of a ``Dict`` space.
Observations: TypeAlias = th.Tensor | Mapping[str, th.Tensor]


def _unit(observations: th.Tensor) -> float:
    return 255.0 if observations.dtype == th.uint8 else 1.0


class Layout:
    """
    Of a ``Box`` space.

    :param ball: The ball of the joined observations.
    :param unit: How much of an observation is 1 in the joined ones. ε is divided by it.
    """

    def __init__(self, ball: Ball, unit: float = 1.0) -> None:
        self.ball = ball
        self.unit = unit

    def join(self, observations: Any) -> th.Tensor:
        """
        :param observations: Of the space, of any type.
        :return: What may move, as networks see it: floating, shape ``(B, *obs)``.
        """
        joined: th.Tensor = observations.float()
        return joined if self.unit == 1 else joined / self.unit

    def add(self, observations: Any, delta: th.Tensor) -> Any:
        """
        :param observations: Of the space.
        :param delta: What is added, as :meth:`join` lays it.
        :return: Perturbed observations of the space, of a floating type where they moved, without gradient.
        """
        return (observations + (delta if self.unit == 1 else self.unit * delta)).detach()

    def difference(self, perturbed: Any, observations: Any) -> th.Tensor:
        """:return: What was added, as :meth:`join` lays it."""
        delta: th.Tensor = perturbed - observations.to(perturbed.dtype)
        return delta if self.unit == 1 else delta / self.unit

    def rebuild(self, joined: th.Tensor, observations: Any) -> Any:
        """:return: Observations of the space that hold the joined ones, and of the clean ones what does not move."""
        del observations
        return joined * self.unit

    def policy(self, policy: Any, observations: Any) -> Any:
        """
        :param policy: The policy.
        :param observations: The clean observations, which hold what does not move.
        :return: The policy as it answers to joined observations.
        """
        return policy if self.unit == 1 else _OnJoined(policy, self, observations)


class DictLayout(Layout):
    """
    Of a ``Dict`` space: the keys that move, each flattened, one after the other, shape ``(B, features)``.

    :param ball: The ball, its scale by key or one for all keys.
    :param observations: A batch, which gives shapes and units.
    """

    def __init__(self, ball: Ball, observations: Mapping[str, th.Tensor]) -> None:
        moving = {key: observations[key] for key in ball.moving(observations)}
        self.shapes = {key: value.shape[1:] for key, value in moving.items()}
        self.units = {key: _unit(value) for key, value in moving.items()}
        super().__init__(ball.joined(self.shapes, self.units))

    def join(self, observations: Any) -> th.Tensor:
        parts = [observations[key].flatten(1).float() / unit for key, unit in self.units.items()]
        return th.cat(parts, dim=1)

    def split(self, joined: th.Tensor) -> dict[str, th.Tensor]:
        """:return: The keys that move, each in its own shape and unit."""
        parts = th.split(joined, [shape.numel() for shape in self.shapes.values()], dim=1)
        return {
            key: self.units[key] * part.reshape(-1, *shape)
            for (key, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def add(self, observations: Any, delta: th.Tensor) -> Any:
        return {**observations, **{key: (observations[key] + d).detach() for key, d in self.split(delta).items()}}

    def difference(self, perturbed: Any, observations: Any) -> th.Tensor:
        return self.join(perturbed) - self.join(observations)

    def rebuild(self, joined: th.Tensor, observations: Any) -> Any:
        return {**observations, **self.split(joined)}

    def policy(self, policy: Any, observations: Any) -> Any:
        return _OnJoined(policy, self, observations)


class _OnJoined:
    """A policy that takes joined observations."""

    def __init__(self, policy: Any, layout: Layout, observations: Any) -> None:
        self._policy = policy
        self._layout = layout
        self._observations = observations

    def get_distribution(self, joined: th.Tensor) -> Distribution:
        distribution: Distribution = self._policy.get_distribution(self._layout.rebuild(joined, self._observations))
        return distribution

    def predict_values(self, joined: th.Tensor) -> th.Tensor:
        values: th.Tensor = self._policy.predict_values(self._layout.rebuild(joined, self._observations))
        return values


def layout_of(observations: Observations, ball: Ball) -> Layout:
    """
    :param observations: A batch.
    :param ball: The ball.
    :return: The layout of such observations.
    """
    if isinstance(observations, Mapping):
        return DictLayout(ball, observations)
    return Layout(ball, _unit(observations))
