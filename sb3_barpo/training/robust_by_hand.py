"""The update by hand with an adversary and an outer loss."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer

from sb3_barpo.adversary import Samples
from sb3_barpo.losses import Rows
from sb3_barpo.losses.base import named
from sb3_barpo.policies.by_hand import Rollout, Settings, Slopes, UpdateByHand
from sb3_barpo.training.inner import Inner


class RobustUpdateByHand(UpdateByHand):
    """
    What :meth:`sb3_barpo.training.robust.RobustUpdate.train` does in general, for policies that are recognised.

    :param policy: The policy.
    :param buffer: The rollout.
    :param settings: PPO's settings.
    :param inner: Adversary and outer loss.
    """

    def __init__(self, policy: Any, buffer: RolloutBuffer, settings: Settings, inner: Inner) -> None:
        super().__init__(policy, buffer, settings)
        self.inner = inner
        self._again = settings.n_epochs > 1 and inner.adversary.solver.warm
        #: Where the epoch's searches started and ended, a tensor ``(B, features)`` for each minibatch.
        self._starts: list[th.Tensor] = []
        self._ended: list[th.Tensor] = []
        #: Where in the last epoch each row of the rollout was visited, shape ``(N,)``.
        self._visited: np.ndarray = np.zeros(0, dtype=np.int64)

    def _rollout(self) -> Rollout:
        rollout = super()._rollout()
        self._both = rollout.inputs.new_zeros(2 * self.settings.batch_size, rollout.inputs.shape[1])
        return rollout

    def _begin_epoch(self, shuffled: Rollout, order: np.ndarray) -> None:
        size, features = self.settings.batch_size, self.flat.actor.features
        if self._again and self._ended:
            now = th.as_tensor(self._visited[order], device=shuffled.inputs.device)
            self._starts = [*th.split(th.cat(self._ended).index_select(0, now), size)]
        self._visited = np.empty_like(order)
        self._visited[order] = np.arange(len(order))
        self._ended = []
        # Contiguous: steps of a search are quick on these.
        self._clean = th.split(shuffled.inputs[:, :features].contiguous(), size)

    def _actor(self, batch: Rollout, index: int) -> th.Tensor:
        actor, n = self.flat.actor, batch.inputs.shape[0]
        clean, moved = self._both[:n], self._both[n : 2 * n]
        clean.copy_(batch.inputs)
        self._samples = self._samples_of(batch)
        start = self._starts[index] if self._starts else None
        self.flat.prepared.known = self._clean[index], actor.forward(clean)
        found = self.inner.search(self.flat.prepared, self._clean[index], self._samples, start)
        self._ended.append(found.delta)
        moved[:, : actor.features].copy_(found.observations)
        actor.forward(moved, n)
        return actor.output(0, 2 * n)

    def _slopes(self, log_prob: th.Tensor, batch: Rollout, index: int) -> Slopes:
        if index == 0:
            kl, clean, ended = self.head.kl(), self._clean[index], self._ended[-1]
            self.inner.record_rows(self.flat.prepared, clean, ended, log_prob, kl, self._samples, self.logs)
        return self.inner.loss.slopes(Rows(log_prob, self.head.kl), self._samples)

    def _losses(self, log_prob: th.Tensor, batches: Rollout) -> tuple[th.Tensor, Mapping[str, th.Tensor]]:
        terms = self.inner.loss(Rows(log_prob, self.head.kl), self._samples_of(batches))
        return terms.loss, named(terms.logs)

    def _actor_back(self, batch: Rollout, slopes: Slopes, to_output: th.Tensor) -> None:
        n = batch.inputs.shape[0]
        if slopes.clean or self.settings.ent_coef:
            self.flat.actor.to_parameters(self._both[: 2 * n], to_output)
        else:
            self.flat.actor.to_parameters(self._both[n : 2 * n], to_output[n:], n)

    def _samples_of(self, batch: Rollout) -> Samples:
        actions = batch.actions.flatten() if batch.actions.dtype is th.long else batch.actions
        clip_range = self.settings.clip_range
        return Samples(actions, batch.old_log_prob, batch.advantages, clip_range, limit=batch.limits)
