"""
An update by hand: PPO's, with or without an adversary, for policies that are recognised exactly.

It does what :meth:`sb3_barpo.training.robust.RobustUpdate.train` does in general, equal up to rounding, without
autograd, modules and distribution objects. The same minibatches are drawn from the same generators.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer

from sb3_barpo.adversary import Samples
from sb3_barpo.losses import Rows
from sb3_barpo.losses.base import Slopes, Terms
from sb3_barpo.policies.flat import FlatPolicy
from sb3_barpo.policies.heads import head_of
from sb3_barpo.training.inner import Inner, Logs


class Settings(NamedTuple):
    """PPO's settings for one update."""

    batch_size: int
    n_epochs: int
    clip_range: float
    clip_range_vf: float | None
    normalize_advantage: bool
    ent_coef: float
    vf_coef: float
    max_grad_norm: float
    #: Takes the epoch and ``approx_kl``; says whether ``target_kl`` ends the update. ``None`` without one.
    too_far: Callable[[int, th.Tensor], bool] | None


class _Rollout(NamedTuple):
    """
    The rollout, one row a sample: observations ``(N, features)``, the same with zeros behind as the networks are quick
    with, ``(N, width)``, and so on.
    """

    observations: th.Tensor
    inputs: th.Tensor
    actions: th.Tensor
    old_log_prob: th.Tensor
    advantages: th.Tensor
    returns: th.Tensor
    old_values: th.Tensor


class _Done(NamedTuple):
    """What is known of a minibatch before the step: rows, the value's error and slope, and where its search ended."""

    log_prob: th.Tensor
    error: th.Tensor
    to_value: th.Tensor
    entropy: th.Tensor
    slopes: Slopes
    ended: th.Tensor


_NOTHING = th.zeros(0)


def supports(policy: Any, buffer: Any, inner: Inner | None) -> bool:
    """
    :param policy: The policy.
    :param buffer: The rollout.
    :param inner: Adversary and outer loss, ``None`` for plain PPO.
    :return: Whether an update by hand does the same as the general one.
    """
    return (
        type(buffer) is RolloutBuffer
        and not {"get", "_get_samples", "swap_and_flatten", "to_torch"} & vars(buffer).keys()
        and isinstance(policy.observation_space, spaces.Box)
        and np.issubdtype(policy.observation_space.dtype, np.floating)
        and FlatPolicy.supports(policy)
        and (inner is None or inner.is_plain)
    )


class UpdateByHand:
    """
    One update on a rollout.

    :param policy: The policy; see :func:`supports`.
    :param buffer: The rollout.
    :param settings: PPO's settings.
    :param inner: Adversary and outer loss, ``None`` for plain PPO.
    :param logs: Where to log, under PPO's names.
    """

    def __init__(self, policy: Any, buffer: RolloutBuffer, settings: Settings, inner: Inner | None, logs: Logs) -> None:
        self.policy = policy
        self.buffer = buffer
        self.settings = settings
        self.inner = inner
        self.logs = logs
        self.n_epochs_done = 0

    def run(self) -> th.Tensor:
        """:return: The last minibatch's loss. The policy's weights and the optimiser's state are the new ones."""
        self.flat = FlatPolicy(self.policy, self.settings.batch_size)
        self.head = head_of(self.flat)
        try:
            with th.inference_mode():
                return self._epochs(self._rollout())
        finally:
            with th.no_grad():
                self.flat.put_back()

    def _rollout(self) -> _Rollout:
        buffer, device = self.buffer, self.policy.device
        if not buffer.generator_ready:  # as RolloutBuffer.get does it
            for name in ("observations", "actions", "values", "log_probs", "advantages", "returns"):
                setattr(buffer, name, buffer.swap_and_flatten(getattr(buffer, name)))
            buffer.generator_ready = True
        n, actor = len(buffer.observations), self.flat.actor
        inputs = th.zeros(n, actor.width, device=device)
        observations = th.as_tensor(buffer.observations, device=device).flatten(1).float()
        inputs[:, : actor.features] = observations
        actions = th.as_tensor(buffer.actions, device=device)
        discrete = isinstance(self.policy.action_space, spaces.Discrete)
        rest = (
            th.as_tensor(getattr(buffer, name), device=device).flatten().float()
            for name in ("log_probs", "advantages", "returns", "values")
        )
        # Actions of a Box space in the shape that the actor's outputs have.
        return _Rollout(
            observations, inputs, actions.long().view(n, 1) if discrete else actions.float().view(n, -1), *rest
        )

    def _epochs(self, rollout: _Rollout) -> th.Tensor:
        settings, n = self.settings, len(rollout.inputs)
        again = self.inner is not None and settings.n_epochs > 1 and self.inner.adversary.solver.warm
        found = rollout.inputs.new_zeros(n, self.flat.actor.features) if again else None
        self._both = rollout.inputs.new_zeros(2 * settings.batch_size, self.flat.actor.width)
        for epoch in range(settings.n_epochs):
            self.logs["train/approx_kl"].clear()  # PPO logs the last epoch's
            order = th.as_tensor(np.random.permutation(n), device=rollout.inputs.device)
            shuffled = _Rollout(*(part.index_select(0, order) for part in rollout))
            shuffled = shuffled._replace(advantages=self._normalized(shuffled.advantages))
            starts = None if found is None or epoch == 0 else found.index_select(0, order)
            parts = zip(*(th.split(part, settings.batch_size) for part in shuffled), strict=True)
            batches = [_Rollout(*part) for part in parts]
            begun = [None] * len(batches) if starts is None else th.split(starts, settings.batch_size)
            done: list[_Done] = []
            stop = False
            for batch, start in zip(batches, begun, strict=True):
                done.append(self._minibatch(batch, start, record=not done))
                if stop := self._too_far(epoch, done[-1], batch):
                    break
                self._step(batch, done[-1])
            self._record(shuffled, done)
            self.n_epochs_done += 1  # one that was begun counts too, as in PPO
            if stop:
                break
            if found is not None:
                found.index_copy_(0, order, th.cat([one.ended for one in done]))
        last = done[-1]
        value_loss = last.error.square().mean()
        return last.slopes.terms.loss - settings.ent_coef * last.entropy + settings.vf_coef * value_loss

    def _normalized(self, advantages: th.Tensor) -> th.Tensor:
        """Minibatch by minibatch, as PPO does it; one sample has no spread."""
        if not self.settings.normalize_advantage:
            return advantages
        parts = th.split(advantages, self.settings.batch_size)
        whole = len(parts) if len(parts[-1]) == len(parts[0]) else len(parts) - 1
        stacked = advantages[: whole * len(parts[0])].view(whole, -1)
        blocks = [stacked, *(part[None] for part in parts[whole:])]
        return th.cat([_standardized(block).flatten() for block in blocks])

    def _minibatch(self, batch: _Rollout, start: th.Tensor | None, record: bool) -> "_Done":
        """Search and loss."""
        actor, head, n = self.flat.actor, self.head, len(batch.inputs)
        actions = batch.actions.flatten() if batch.actions.dtype == th.long else batch.actions
        samples = Samples(actions, batch.old_log_prob, batch.advantages, self.settings.clip_range)
        output, ended = actor.forward(batch.inputs), _NOTHING
        if self.inner is not None:
            self.flat.prepared.known = batch.observations, output
            ended, perturbed = self.inner.search(self.flat.prepared, batch.observations, samples, start)
            self._both[:n].copy_(batch.inputs)
            moved = self._both[n : 2 * n]
            moved[:, : actor.features].copy_(perturbed)
            actor.forward(moved, n)
            output = actor.output(0, 2 * n)
        log_prob = head.rows(output, batch.actions)
        if record and self.inner is not None:
            self.inner.record_rows(log_prob, head.kl(), ended, samples, self.logs)
        error, to_value = self._value(self.flat.critic.forward(batch.inputs).flatten(), batch)
        return _Done(log_prob, error, to_value, head.entropy(), self._slopes(log_prob, samples), ended)

    def _step(self, batch: _Rollout, done: "_Done") -> None:
        """Gradient and step."""
        n, slopes = len(batch.inputs), done.slopes
        to_output = self.head.to_output(slopes.log_prob, slopes.kl, self.settings.ent_coef)
        if self.inner is None:
            self.flat.actor.to_parameters(batch.inputs, to_output)
        elif slopes.clean or self.settings.ent_coef:
            self.flat.actor.to_parameters(self._both[: 2 * n], to_output)
        else:
            self.flat.actor.to_parameters(self._both[n : 2 * n], to_output[n:], n)
        self.flat.critic.to_parameters(batch.inputs, done.to_value[:, None])
        self.flat.step(self.settings.max_grad_norm)

    def _too_far(self, epoch: int, done: "_Done", batch: _Rollout) -> bool:
        if self.settings.too_far is None:
            return False  # nothing waits for the device
        log_ratio = done.log_prob[0] - batch.old_log_prob
        return self.settings.too_far(epoch, ((log_ratio.exp() - 1) - log_ratio).mean())

    def _record(self, shuffled: _Rollout, done: list["_Done"]) -> None:
        """Log the epoch's minibatches, all at once."""
        size, logs = self.settings.batch_size, self.logs
        log_prob = th.cat([one.log_prob[0] for one in done])
        log_ratio = log_prob - shuffled.old_log_prob[: len(log_prob)]
        ratio = log_ratio.exp()
        rows = {
            "approx_kl": (ratio - 1).sub_(log_ratio),
            "clip_fraction": ((ratio - 1).abs_() > self.settings.clip_range).float(),
            "value_loss": th.cat([one.error for one in done]).square_(),
        }
        for name, values in rows.items():
            logs[f"train/{name}"] += [part.mean() for part in th.split(values, size)]
        for one in done:
            logs["train/policy_gradient_loss"].append(one.slopes.terms.loss)
            logs["train/entropy_loss"].append(-one.entropy)
            for name, value in one.slopes.terms.logs.items():
                logs[f"adversary/{name}"].append(value)

    def _slopes(self, log_prob: th.Tensor, samples: Samples) -> Slopes:
        if self.inner is not None:
            return self.inner.loss.slopes(Rows(log_prob, self.head.kl), samples)
        unclipped = th.exp(log_prob - samples.old_log_prob).mul_(samples.advantages)
        limit = samples.advantages * (1 + samples.clip_range * samples.advantages.sign())
        loss = -th.minimum(unclipped, limit).mean()
        slope = unclipped.masked_fill_(unclipped > limit, 0).div_(-log_prob.shape[1])
        return Slopes(Terms(loss, {}), slope, None)

    def _value(self, values: th.Tensor, batch: _Rollout) -> tuple[th.Tensor, th.Tensor]:
        """The value's error, and the slope of the value loss's share on the values."""
        scale = 2 * self.settings.vf_coef / len(values)
        if (clip := self.settings.clip_range_vf) is None:
            error = values - batch.returns
            return error, error * scale
        moved = values - batch.old_values
        error = batch.old_values + moved.clamp(-clip, clip) - batch.returns
        return error, error * (moved.abs() <= clip) * scale


def _standardized(advantages: th.Tensor) -> th.Tensor:
    """Each row by itself, shape ``(minibatches, samples)``."""
    if advantages.shape[1] == 1:
        return advantages
    return (advantages - advantages.mean(1, keepdim=True)) / (advantages.std(1, keepdim=True) + 1e-8)
