"""What an objective returns to a solver, and what it may need from a rollout."""

from collections.abc import Callable
from typing import NamedTuple

import torch as th

from sb3_barpo.policies.networks import Network

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
    :param limit: Where the clipped surrogate of each row ends, ``(B,)``, if it is known already; see :meth:`ends`.
    """

    actions: th.Tensor
    old_log_prob: th.Tensor
    advantages: th.Tensor
    clip_range: float
    mask: th.Tensor | None = None
    limit: th.Tensor | None = None

    def ends(self) -> th.Tensor:
        """:return: ``A + c |A|``, shape ``(B,)``: a ratio times its advantage above this is clipped, without slope."""
        if self.limit is not None:
            return self.limit
        return self.advantages.add(self.advantages.abs(), alpha=self.clip_range)

    def rows(self, rows: slice) -> "Samples":
        """:return: Some of the rows."""
        return Samples(
            self.actions[rows],
            self.old_log_prob[rows],
            self.advantages[rows],
            self.clip_range,
            None if self.mask is None else self.mask[rows],
            None if self.limit is None else self.limit[rows],
        )

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
        outputs = self.network.forward(perturbed.detach() if perturbed.requires_grad else perturbed)
        gradient = self.network.to_input(outputs, self.slope(outputs[-1]))
        if perturbed.dim() > 2:
            gradient = gradient.reshape(perturbed.shape)
        return gradient if gradient.dtype is perturbed.dtype else gradient.to(perturbed.dtype)


class WeightedSum(ClosedForm):
    """Of goals whose gradients are known."""

    def __init__(self, goal: Goal, parts: list[tuple[float, ClosedForm]]) -> None:
        self.goal = goal
        self.parts = parts

    def gradient(self, perturbed: th.Tensor) -> th.Tensor:
        return th.stack([weight * part.gradient(perturbed) for weight, part in self.parts]).sum(0)


class Blocks:
    """
    A goal of many rows in blocks. A search that climbs them one after the other finds all it needs in the cache.

    :param parts: The same goal, prepared on each block of rows.
    :param size: Number of rows of all blocks but perhaps the last.
    """

    def __init__(self, parts: list[Goal], size: int) -> None:
        self.parts = parts
        self.size = size

    def __call__(self, perturbed: th.Tensor) -> th.Tensor:
        return th.cat([part(rows) for part, rows in zip(self.parts, th.split(perturbed, self.size), strict=True)])
