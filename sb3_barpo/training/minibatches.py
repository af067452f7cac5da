"""Minibatches that remember where the search for each sample ended."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer


def knows_rows(buffer: RolloutBuffer) -> bool:
    """
    :param buffer: A rollout.
    :return: Whether :class:`LastVisits` can tell which of its rows a minibatch holds. The values of a buffer of one's
        own must not be replaced: its ``get`` may read them.
    """
    return f"{type(buffer).__module__}.{type(buffer).__name__}" in _KNOWN and "get" not in vars(buffer)


_KNOWN = {
    "stable_baselines3.common.buffers.RolloutBuffer",
    "stable_baselines3.common.buffers.DictRolloutBuffer",
    "sb3_contrib.common.recurrent.buffers.RecurrentRolloutBuffer",
    "sb3_contrib.common.recurrent.buffers.RecurrentDictRolloutBuffer",
}


class LastVisits:
    """
    Where the search for each sample of a rollout ended at its last visit.

    :param buffer: The rollout.
    """

    def __init__(self, buffer: RolloutBuffer) -> None:
        self.buffer = buffer
        self._values = np.insert(buffer.values.ravel(), 0, 0)  # row 0 is what sequences are padded with
        self._numbers = np.arange(1, len(self._values)).reshape(buffer.values.shape)
        self._epoch = 0
        #: Which samples the present minibatch holds, counted from 1; 0 is what sequences are padded with.
        self.rows = th.zeros(0, dtype=th.long)
        self._found: th.Tensor | None = None

    def get(self, batch_size: int) -> Iterator[Any]:
        """
        The minibatches of ``buffer.get``, which does not tell what rows they hold: however it shuffles, cuts and pads,
        the rows' numbers go through it in the place of the old values, which are put back before anyone sees them.

        :param batch_size: Number of samples in each.
        :return: All samples once.
        """
        self._epoch += 1
        buffer = self.buffer
        old_values = th.as_tensor(self._values, device=buffer.device)
        buffer.values = self._numbers
        try:
            for batch in buffer.get(batch_size):
                self.rows = batch.old_values.long()
                yield batch._replace(old_values=old_values[self.rows])
        finally:
            self._numbers = buffer.values  # in the shape that the buffer has brought them into
            buffer.values = self._values[self._numbers]

    def ended(self) -> th.Tensor | None:
        """:return: For the present minibatch, perturbations ``(B, *obs)``; ``None`` at the first visit."""
        return None if self._found is None or self._epoch == 1 else self._found[self.rows].float()

    def end(self, found: th.Tensor) -> None:
        """:param found: Where the present minibatch's search ended, perturbations of shape ``(B, *obs)``."""
        if self._found is None:
            self._found = found.new_zeros(len(self._values), *found.shape[1:])
        self._found[self.rows] = found
