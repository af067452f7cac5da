"""What an objective returns to a solver, and what it may need from a rollout."""

from collections.abc import Callable
from typing import NamedTuple

import torch as th

from sb3_barpo.policies.mlp import Network

#: Maps perturbed observations ``(B, *obs)`` to one value per sample ``(B,)``; row i depends on observation i alone,
#: or for a recurrent policy on the observations before it in its sequence too.
Goal = Callable[[th.Tensor], th.Tensor]


class Samples(NamedTuple):
    """
    What a minibatch of a rollout says of its observations, for objectives that need it.

    :param actions: Actions taken, shape ``(B, *action)``, or ``(B,)`` and integer for ``Discrete``.
    :param old_log_prob: Their log-probabilities under the policy that took them at the clean observation, ``(B,)``.
    :param advantages: Advantages, normalised if the algorithm normalises them, ``(B,)``.
    :param clip_range: PPO's clip range.
    :param mask: Which rows count, bool ``(B,)``; the others fill sequences of a recurrent policy up to one length.
        ``None`` for all.
    """

    actions: th.Tensor
    old_log_prob: th.Tensor
    advantages: th.Tensor
    clip_range: float
    mask: th.Tensor | None = None

    def mean(self, values: th.Tensor) -> th.Tensor:
        """
        :param values: One value per row, shape ``(..., B)``, or ``()`` for one that is the same for all.
        :return: Their mean over the rows that count, shape ``(...)``.
        """
        return (values if self.mask is None else values[..., self.mask]).mean(-1)


class ClosedForm:
    """
    A goal whose gradient is known.

    :param goal: The goal itself.
    :param network: The network on which it depends.
    :param slope: Maps the network's output ``(B, out)`` to the gradient of the goal with respect to it ``(B, out)``.
    """

    def __init__(self, goal: Goal, network: Network, slope: Callable[[th.Tensor], th.Tensor]) -> None:
        self.goal = goal
        self.network = network
        self.slope = slope

    def __call__(self, perturbed: th.Tensor) -> th.Tensor:
        return self.goal(perturbed)

    def gradient(self, perturbed: th.Tensor) -> th.Tensor:
        """
        :param perturbed: Perturbed observations, shape ``(B, *obs)``.
        :return: Gradient of the goal's sum, of the same shape and type.
        """
        outputs = self.network.forward(perturbed.detach())
        gradient = self.network.to_input(outputs, self.slope(outputs[-1]))
        if gradient.shape != perturbed.shape:
            gradient = gradient.reshape(perturbed.shape)
        return gradient.to(perturbed.dtype)


class WeightedSum(ClosedForm):
    """Of goals whose gradients are known."""

    def __init__(self, goal: Goal, parts: list[tuple[float, ClosedForm]]) -> None:
        self.goal = goal
        self.parts = parts

    def gradient(self, perturbed: th.Tensor) -> th.Tensor:
        return th.stack([weight * part.gradient(perturbed) for weight, part in self.parts]).sum(0)
