"""What an objective gives to a solver, and what it may need from a rollout."""

from collections.abc import Callable
from typing import NamedTuple

import torch as th

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
