"""
PPO's update by hand, for policies that are recognised exactly.

It does what ``PPO.train`` does, equal up to rounding, without autograd, modules and distribution objects. The same
minibatches are drawn from the same generators.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer

from sb3_barpo.policies.flat import FlatPolicy
from sb3_barpo.policies.heads import head_of


class Slopes(NamedTuple):
    """
    A policy loss on a minibatch, with its gradient on rows.

    :param loss: The loss, shape ``()``.
    :param logs: What to log, scalars by their whole names.
    :param log_prob: Gradient with respect to the log-probabilities, shape ``(1, B)``, or ``(2, B)`` with perturbed rows
        behind the clean ones.
    :param kl: With respect to the divergences, shape ``(B,)``; ``None`` if the loss does not look at them.
    :param clean: Whether the clean rows matter; if not, their way back is spared.
    """

    loss: th.Tensor
    logs: Mapping[str, th.Tensor]
    log_prob: th.Tensor
    kl: th.Tensor | None = None
    clean: bool = True


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
    too_far: Callable[[int, th.Tensor], bool] | None = None

    @classmethod
    def of(cls, model: Any, clip_range: float, clip_range_vf: float | None) -> "Settings":
        """:return: Those of a PPO, with the present clip ranges, and no ``target_kl``."""
        same = ("normalize_advantage", "ent_coef", "vf_coef", "max_grad_norm")
        rest = {name: getattr(model, name) for name in same}
        return cls(model.batch_size, model.n_epochs, clip_range, clip_range_vf, **rest)


class Rollout(NamedTuple):
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
    """What is known of a minibatch before the step: rows, the value's error and slope, and the policy loss."""

    log_prob: th.Tensor
    error: th.Tensor
    to_value: th.Tensor
    entropy: th.Tensor
    slopes: Slopes


def supports(policy: Any, buffer: Any) -> bool:
    """
    :param policy: The policy.
    :param buffer: The rollout.
    :return: Whether an update by hand does the same as the general one.
    """
    return (
        type(buffer) is RolloutBuffer
        and not {"get", "_get_samples", "swap_and_flatten", "to_torch"} & vars(buffer).keys()
        and isinstance(policy.observation_space, spaces.Box)
        and np.issubdtype(policy.observation_space.dtype, np.floating)
        and FlatPolicy.supports(policy)
    )


class UpdateByHand:
    """
    One update on a rollout.

    :param policy: The policy; see :func:`supports`.
    :param buffer: The rollout.
    :param settings: PPO's settings.
    """

    def __init__(self, policy: Any, buffer: RolloutBuffer, settings: Settings) -> None:
        self.policy = policy
        self.buffer = buffer
        self.settings = settings
        #: What was seen, under the names under which PPO logs the means.
        self.logs: dict[str, list[th.Tensor]] = defaultdict(list)
        self.n_epochs_done = 0

    def run(self) -> th.Tensor:
        """:return: The last minibatch's loss. The policy's weights and the optimiser's state are the new ones."""
        with th.inference_mode():
            self.flat = FlatPolicy(self.policy, self.settings.batch_size)
            self.head = head_of(self.flat)
        try:
            with th.inference_mode():
                return self._epochs(self._rollout()).clone()
        finally:
            self.flat.put_back()

    def _rollout(self) -> Rollout:
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
        return Rollout(
            observations, inputs, actions.long().view(n, 1) if discrete else actions.float().view(n, -1), *rest
        )

    def _epochs(self, rollout: Rollout) -> th.Tensor:
        settings, n = self.settings, len(rollout.inputs)
        for epoch in range(settings.n_epochs):
            self.logs["train/approx_kl"].clear()  # PPO logs the last epoch's
            order = th.as_tensor(np.random.permutation(n), device=rollout.inputs.device)
            shuffled = Rollout(*(part.index_select(0, order) for part in rollout))
            shuffled = shuffled._replace(advantages=self._normalized(shuffled.advantages))
            parts = zip(*(th.split(part, settings.batch_size) for part in shuffled), strict=True)
            self._begin_epoch(epoch, order)
            done: list[_Done] = []
            stop = False
            for index, part in enumerate(parts):
                batch = Rollout(*part)
                done.append(self._minibatch(batch, index))
                if stop := self._too_far(epoch, done[-1], batch):
                    break
                self._step(batch, done[-1])
            self._record(shuffled, done)
            self.n_epochs_done += 1  # one that was begun counts too, as in PPO
            if stop:
                break
            self._end_epoch(order)
        last = done[-1]
        return last.slopes.loss - settings.ent_coef * last.entropy + settings.vf_coef * last.error.square().mean()

    def _begin_epoch(self, epoch: int, order: th.Tensor) -> None:
        """Before an epoch; ``order`` holds the rows of the rollout as they are visited, shape ``(N,)``."""

    def _end_epoch(self, order: th.Tensor) -> None:
        """After an epoch that was not cut short."""

    def _normalized(self, advantages: th.Tensor) -> th.Tensor:
        """Minibatch by minibatch, as PPO does it; one sample has no spread."""
        if not self.settings.normalize_advantage:
            return advantages
        parts = th.split(advantages, self.settings.batch_size)
        whole = len(parts) if len(parts[-1]) == len(parts[0]) else len(parts) - 1
        stacked = advantages[: whole * len(parts[0])].view(whole, -1)
        blocks = [stacked, *(part[None] for part in parts[whole:])]
        return th.cat([_standardized(block).flatten() for block in blocks])

    def _minibatch(self, batch: Rollout, index: int) -> _Done:
        """The loss of a minibatch, which is the ``index``-th of its epoch."""
        log_prob = self.head.rows(self._actor(batch, index), batch.actions)
        error, to_value = self._value(self.flat.critic.forward(batch.inputs).flatten(), batch)
        return _Done(log_prob, error, to_value, self.head.entropy(), self._slopes(log_prob, batch, index))

    def _actor(self, batch: Rollout, index: int) -> th.Tensor:
        """The actor's outputs at all rows, clean ones first."""
        del index
        return self.flat.actor.forward(batch.inputs)

    def _slopes(self, log_prob: th.Tensor, batch: Rollout, index: int) -> Slopes:
        """The policy loss: PPO's."""
        del index
        unclipped = th.exp(log_prob - batch.old_log_prob).mul_(batch.advantages)
        # The surrogate ends here, where the ratio is clipped; beyond it has no slope.
        limit = batch.advantages.add(batch.advantages.abs(), alpha=self.settings.clip_range)
        loss = -th.minimum(unclipped, limit).mean()
        return Slopes(loss, {}, unclipped.masked_fill_(unclipped > limit, 0).div_(-len(limit)))

    def _actor_back(self, batch: Rollout, slopes: Slopes, to_output: th.Tensor) -> None:
        """The actor's gradient from that of its outputs."""
        del slopes
        self.flat.actor.to_parameters(batch.inputs, to_output)

    def _step(self, batch: Rollout, done: _Done) -> None:
        """Gradient and step."""
        to_output = self.head.to_output(done.slopes.log_prob, done.slopes.kl, self.settings.ent_coef)
        self._actor_back(batch, done.slopes, to_output)
        self.flat.critic.to_parameters(batch.inputs, done.to_value[:, None])
        self.flat.step(self.settings.max_grad_norm)

    def _too_far(self, epoch: int, done: _Done, batch: Rollout) -> bool:
        if self.settings.too_far is None:
            return False  # nothing waits for the device
        log_ratio = done.log_prob[0] - batch.old_log_prob
        return self.settings.too_far(epoch, ((log_ratio.exp() - 1) - log_ratio).mean())

    def _record(self, shuffled: Rollout, done: list[_Done]) -> None:
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
            whole = len(values) // size * size
            logs[f"train/{name}"] += [*values[:whole].view(-1, size).mean(1)]
            logs[f"train/{name}"] += [values[whole:].mean()] if whole < len(values) else []
        for one in done:
            logs["train/policy_gradient_loss"].append(one.slopes.loss)
            logs["train/entropy_loss"].append(-one.entropy)
            for name, value in one.slopes.logs.items():
                logs[name].append(value)

    def _value(self, values: th.Tensor, batch: Rollout) -> tuple[th.Tensor, th.Tensor]:
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
