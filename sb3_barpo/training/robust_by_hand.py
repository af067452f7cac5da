"""The update by hand with an adversary and an outer loss."""

from typing import Any

import torch as th
from stable_baselines3.common.buffers import RolloutBuffer

from sb3_barpo.adversary import Samples
from sb3_barpo.losses import Rows
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
        #: Where searches ended, by the rollout's rows, shape ``(N, features)``.
        self._found: th.Tensor | None = None
        self._starts: list[th.Tensor] = []
        self._ended: list[th.Tensor] = []

    def _begin_epoch(self, epoch: int, order: th.Tensor) -> None:
        self._ended = []
        self._starts = []
        if self._found is not None:
            self._starts = [*th.split(self._found.index_select(0, order), self.settings.batch_size)]

    def _end_epoch(self, order: th.Tensor) -> None:
        if self._again:
            ended = th.cat(self._ended)
            self._found = th.empty_like(ended).index_copy_(0, order, ended)

    def _actor(self, batch: Rollout, index: int) -> th.Tensor:
        actor, n = self.flat.actor, len(batch.inputs)
        self.flat.prepared.known = batch.observations, actor.forward(batch.inputs)
        start = self._starts[index] if self._starts else None
        ended, perturbed = self.inner.search(self.flat.prepared, batch.observations, self._samples(batch), start)
        self._ended.append(ended)
        self._both[:n].copy_(batch.inputs)
        moved = self._both[n : 2 * n]
        moved[:, : actor.features].copy_(perturbed)
        actor.forward(moved, n)
        return actor.output(0, 2 * n)

    def _slopes(self, log_prob: th.Tensor, batch: Rollout, index: int) -> Slopes:
        samples = self._samples(batch)
        if index == 0:
            kl, ended = self.head.kl(), self._ended[-1]
            self.inner.record_rows(self.flat.prepared, batch.observations, ended, log_prob, kl, samples, self.logs)
        return self.inner.loss.slopes(Rows(log_prob, self.head.kl), samples)

    def _actor_back(self, batch: Rollout, slopes: Slopes, to_output: th.Tensor) -> None:
        n = len(batch.inputs)
        if slopes.clean or self.settings.ent_coef:
            self.flat.actor.to_parameters(self._both[: 2 * n], to_output)
        else:
            self.flat.actor.to_parameters(self._both[n : 2 * n], to_output[n:], n)

    def _rollout(self) -> Rollout:
        rollout = super()._rollout()
        self._both = rollout.inputs.new_zeros(2 * self.settings.batch_size, rollout.inputs.shape[1])
        return rollout

    def _samples(self, batch: Rollout) -> Samples:
        actions = batch.actions.flatten() if batch.actions.dtype == th.long else batch.actions
        return Samples(actions, batch.old_log_prob, batch.advantages, self.settings.clip_range)
