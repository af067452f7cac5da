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
from sb3_barpo.policies.networks import BLOCK


class Slopes(NamedTuple):
    """
    A policy loss on a minibatch, with its gradient on rows.

    :param loss: The loss, shape ``()``; ``None`` if it is computed for all minibatches of an epoch at once.
    :param logs: What to log, scalars by their whole names.
    :param log_prob: Gradient with respect to the log-probabilities, shape ``(1, B)``, or ``(2, B)`` with perturbed rows
        behind the clean ones.
    :param kl: With respect to the divergences, shape ``(B,)``; ``None`` if the loss does not look at them.
    :param clean: Whether the clean rows matter; if not, their way back is spared.
    """

    loss: th.Tensor | None
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
    The rollout, one row a sample: observations with zeros behind as the networks are quick with, ``(N, width)``, and so
    on. ``limits`` is where the clipped surrogate ends: beyond it has no slope.
    """

    inputs: th.Tensor
    actions: th.Tensor
    old_log_prob: th.Tensor
    returns: th.Tensor
    old_values: th.Tensor
    advantages: th.Tensor
    limits: th.Tensor


class _Done(NamedTuple):
    """What is known of a minibatch before the step: rows, the value's error, and the policy loss."""

    log_prob: th.Tensor
    error: th.Tensor
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
        inputs[:, : actor.features] = th.as_tensor(buffer.observations, device=device).flatten(1).float()
        actions = th.as_tensor(buffer.actions, device=device)
        discrete = isinstance(self.policy.action_space, spaces.Discrete)
        old_log_prob, returns, old_values, advantages = (
            th.as_tensor(getattr(buffer, name), device=device).flatten().float()
            for name in ("log_probs", "returns", "values", "advantages")
        )
        # Actions of a Box space in the shape that the actor's outputs have.
        actions = actions.long().view(n, 1) if discrete else actions.float().view(n, -1)
        return Rollout(inputs, actions, old_log_prob, returns, old_values, advantages, advantages)

    def _epochs(self, rollout: Rollout) -> th.Tensor:
        for epoch in range(self.settings.n_epochs):
            self.logs["train/approx_kl"].clear()  # PPO logs the last epoch's
            order = np.random.permutation(len(rollout.inputs))
            shuffled = self._shuffled(rollout, th.as_tensor(order, device=rollout.inputs.device))
            self._begin_epoch(shuffled, order)
            done, stop = self._minibatches(shuffled, epoch)
            self._record(shuffled, done)
            self.n_epochs_done += 1  # one that was begun counts too, as in PPO
            if stop:
                break
        last = done[-1]
        loss = self.logs["train/policy_gradient_loss"][-1] - self.settings.ent_coef * last.entropy
        return loss + self.settings.vf_coef * last.error.square().mean()

    def _minibatches(self, shuffled: Rollout, epoch: int) -> tuple[list[_Done], bool]:
        """One epoch. :return: What was done, and whether ``target_kl`` ends the update."""
        done: list[_Done] = []
        parts = (th.split(part, self.settings.batch_size) for part in shuffled)
        for index, part in enumerate(zip(*parts, strict=True)):
            batch = Rollout(*part)
            log_prob = self.head.rows(self._actor(batch, index), batch.actions)
            slopes = self._slopes(log_prob, batch, index)
            done.append(_Done(log_prob, self._critic(batch), self.head.entropy(), slopes))
            if self._too_far(epoch, done[-1], batch):
                return done, True
            to_output = self.head.to_output(slopes.log_prob, slopes.kl, self.settings.ent_coef)
            self._actor_back(batch, slopes, to_output)
            self.flat.step(self.settings.max_grad_norm)
        return done, False

    def _begin_epoch(self, shuffled: Rollout, order: np.ndarray) -> None:
        """Before an epoch; ``order`` holds the rows of the rollout as they are visited, shape ``(N,)``."""

    def _shuffled(self, rollout: Rollout, order: th.Tensor) -> Rollout:
        """The samples in another order, with what an epoch needs: normalised advantages and where surrogates end."""
        shuffled = Rollout(*(part.index_select(0, order) for part in rollout))
        advantages = shuffled.advantages
        if self.settings.normalize_advantage:  # minibatch by minibatch, as PPO does it
            advantages = th.cat([_standardized(block).flatten() for block in self._by_minibatch(advantages)])
        limits = advantages.add(advantages.abs(), alpha=self.settings.clip_range)
        actions = shuffled.actions.t().contiguous().t()  # column by column, as the actor's outputs
        return shuffled._replace(actions=actions, advantages=advantages, limits=limits)

    def _by_minibatch(self, rows: th.Tensor) -> list[th.Tensor]:
        """Rows ``(..., N)`` as ``(..., minibatches, B)``, and the rest, a shorter minibatch, as ``(..., 1, rest)``."""
        size = self.settings.batch_size
        whole = rows.shape[-1] // size * size
        parts = [rows[..., :whole].view(*rows.shape[:-1], -1, size)] if whole else []
        return [*parts, rows[..., None, whole:]] if whole < rows.shape[-1] else parts

    def _actor(self, batch: Rollout, index: int) -> th.Tensor:
        """The actor's outputs at all rows, clean ones first. ``index`` counts the minibatches of an epoch."""
        del index
        return self.flat.actor.forward(batch.inputs)

    def _slopes(self, log_prob: th.Tensor, batch: Rollout, index: int) -> Slopes:
        """The slope of the policy loss: PPO's."""
        del index
        unclipped = (log_prob - batch.old_log_prob).exp_().mul_(batch.advantages)
        slope = unclipped.masked_fill_(unclipped > batch.limits, 0).div_(-batch.limits.shape[0])
        return Slopes(None, {}, slope)

    def _losses(self, log_prob: th.Tensor, batches: Rollout) -> tuple[th.Tensor, Mapping[str, th.Tensor]]:
        """
        The policy loss of several minibatches of one size: PPO's.

        :param log_prob: Shape ``(1, minibatches, B)``, or ``(2, minibatches, B)`` with perturbed rows.
        :param batches: The rest of them, rows of shape ``(minibatches, B)``.
        :return: The losses, and what to log, shape ``(minibatches,)``.
        """
        surrogate = (log_prob[0] - batches.old_log_prob).exp_().mul_(batches.advantages)
        return -th.minimum(surrogate, batches.limits).mean(-1), {}

    def _actor_back(self, batch: Rollout, slopes: Slopes, to_output: th.Tensor) -> None:
        """The actor's gradient from that of its outputs."""
        del slopes
        self.flat.actor.to_parameters(batch.inputs, to_output)

    def _critic(self, batch: Rollout) -> th.Tensor:
        """The critic's gradient, block by block. :return: Its error, shape ``(B,)``."""
        n = batch.inputs.shape[0]
        if n <= BLOCK:
            return self._critic_on(batch, n, more=False)
        blocks = zip(*(th.split(part, BLOCK) for part in batch), strict=True)
        return th.cat([self._critic_on(Rollout(*block), n, more=i > 0) for i, block in enumerate(blocks)])

    def _critic_on(self, batch: Rollout, n: int, more: bool) -> th.Tensor:
        """The same for a block of a minibatch of ``n`` samples; ``more`` adds its gradient to that of others."""
        settings, critic = self.settings, self.flat.critic
        values = critic.forward(batch.inputs).flatten()
        scale = 2 * settings.vf_coef / n
        if (clip := settings.clip_range_vf) is None:
            error = values - batch.returns
            slope = error * scale
        else:
            moved = values - batch.old_values
            error = batch.old_values + moved.clamp(-clip, clip) - batch.returns
            slope = error * (moved.abs() <= clip) * scale
        critic.to_parameters(batch.inputs, slope.unsqueeze(1), more=more)
        return error

    def _too_far(self, epoch: int, done: _Done, batch: Rollout) -> bool:
        if self.settings.too_far is None:
            return False  # nothing waits for the device
        log_ratio = done.log_prob[0] - batch.old_log_prob
        return self.settings.too_far(epoch, ((log_ratio.exp() - 1) - log_ratio).mean())

    def _record(self, shuffled: Rollout, done: list[_Done]) -> None:
        """Log the epoch's minibatches, all at once."""
        logs = self.logs
        log_prob = th.cat([one.log_prob for one in done], dim=1)
        shuffled = Rollout(*(part[: log_prob.shape[1]] for part in shuffled))
        log_ratio = log_prob[0] - shuffled.old_log_prob
        ratio = log_ratio.exp()
        rows = {
            "train/approx_kl": (ratio - 1).sub_(log_ratio),
            "train/clip_fraction": ((ratio - 1).abs_() > self.settings.clip_range).float(),
            "train/value_loss": th.cat([one.error for one in done]).square_(),
        }
        for name, values in rows.items():
            for part in self._by_minibatch(values):
                logs[name] += part.mean(-1).unbind()
        logs["train/entropy_loss"] += th.stack([one.entropy for one in done]).neg_().unbind()
        if done[0].slopes.loss is None:
            self._record_losses(log_prob, shuffled)
        for one in done:
            for name, value in {"train/policy_gradient_loss": one.slopes.loss, **one.slopes.logs}.items():
                if value is not None:
                    logs[name].append(value)

    def _record_losses(self, log_prob: th.Tensor, shuffled: Rollout) -> None:
        """Those that were left out minibatch by minibatch."""
        rows = {name: self._by_minibatch(getattr(shuffled, name)) for name in ("old_log_prob", "advantages", "limits")}
        for i, part in enumerate(self._by_minibatch(log_prob)):
            loss, logs = self._losses(part, shuffled._replace(**{name: parts[i] for name, parts in rows.items()}))
            for name, values in {"train/policy_gradient_loss": loss, **logs}.items():
                self.logs[name] += values.unbind()


def _standardized(advantages: th.Tensor) -> th.Tensor:
    """Each row by itself, shape ``(minibatches, samples)``; one sample has no spread."""
    n = advantages.shape[1]
    if n == 1:
        return advantages
    centred = advantages - advantages.mean(1, keepdim=True)
    return centred / ((centred.square().sum(1, keepdim=True) / (n - 1)).sqrt_() + 1e-8)
