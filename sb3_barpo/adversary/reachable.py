"""What an attack can reach within one step when the rate of its change is limited."""

from collections.abc import Mapping, Sequence

import torch as th

from sb3_barpo.adversary.balls import Ball


class ReachableBall(Ball):
    """
    What can be reached from the last step's perturbation: the points of a ball that are not further away from it than
    a limited rate allows, in the ball's own norm.

    :param ball: The ball.
    :param last: The last step's perturbations, which lie in it, shape ``(B, *obs)``.
    :param rate: How far a perturbation may be from them.
    """

    def __init__(self, ball: Ball, last: th.Tensor, rate: float) -> None:
        self.ball = ball
        self.scale, self.scales = ball.scale, ball.scales
        self.last = last
        self.rate = rate

    def joined(self, shapes: Mapping[str, Sequence[int]], units: Mapping[str, float]) -> "Ball":
        return ReachableBall(self.ball.joined(shapes, units), self.last, self.rate)

    def norm(self, delta: th.Tensor) -> th.Tensor:
        return self.ball.norm(delta)

    def steepest(self, gradient: th.Tensor) -> th.Tensor:
        return self.ball.steepest(gradient)

    def project(self, delta: th.Tensor, epsilon: float) -> th.Tensor:
        """Into the ball, and from there towards the last perturbation: both lie in it, and so does all between them."""
        return self.last + self.ball.project(self.ball.project(delta, epsilon) - self.last, self.rate)

    def sample(self, like: th.Tensor, generator: th.Generator) -> th.Tensor:
        return self.ball.sample(like, generator)
