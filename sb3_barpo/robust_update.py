"""The adversary in PPO's loop: the arguments, the one training loop and the logging that all forms share."""

import copy
from collections import defaultdict
from contextlib import nullcontext
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import explained_variance
from torch.nn import functional as F

from sb3_barpo.adversary import (
    KL,
    Adversary,
    AdversaryLike,
    Bounds,
    DictBounds,
    Samples,
    as_adversary,
    check_observation_space,
    clipped_surrogate,
    is_finite,
    observation_bounds,
)
from sb3_barpo.adversary.adversary import as_it_acts
from sb3_barpo.fast_update import LastVisits, evaluate_actions, fused
from sb3_barpo.schedules import KINDS, ScheduleLike, as_schedule

SelfRobustUpdate = TypeVar("SelfRobustUpdate", bound="RobustUpdate")


class _Update(NamedTuple):
    """What stays the same during one call of ``train``."""

    clip_range: float
    clip_range_vf: float | None
    epsilon: float
    kappa: float
    bounds: Bounds | DictBounds | None


class RobustUpdate(OnPolicyAlgorithm):
    """
    What makes a robust algorithm of SB3's ``PPO`` and of sb3-contrib's ``RecurrentPPO``: to be inherited before them.
    Users take :class:`ARPO`, :class:`BARPO` and their recurrent forms.

    Rollouts are collected by the clean policy. In each minibatch an adversary looks for perturbed observations ``s'``
    within ε of the clean ones ``s``, and the policy loss becomes

        ``-(mean surr(s') + κ mean surr(s)) / (1 + κ)``

    with PPO's clipped surrogate and ``s'`` held fixed. Value loss and entropy bonus stay on clean observations. At
    ``epsilon=0`` this is SB3's PPO, bit for bit. (Li et al., "On the Tension Between Optimality and Adversarial
    Robustness in Policy Optimization", ICLR 2026. Dividing by ``1 + κ`` is ours: it keeps the meaning of ``vf_coef``,
    ``ent_coef`` and ``max_grad_norm``.)

    :param policy: As in PPO.
    :param env: As in PPO; observations must be ``Box``, images among them, or ``Dict``.
    :param args: PPO's further arguments, by position.
    :param epsilon: The strength: radius of the adversary's ball, in units of what the policy sees (after
        ``VecNormalize``). A number, a schedule, a spec or a string (see :mod:`sb3_barpo.schedules`). Its time never
        runs backwards when training is continued by ``learn(..., reset_num_timesteps=False)``.
    :param kappa: Weight κ of the clean surrogate ("SPO guidance"), in the same forms; 0 is "without guidance".
    :param adversary: Who looks for ``s'``; by default the algorithm's own, on ten steps of SGLD at the first
        visit of a sample and two at later ones (:class:`sb3_barpo.adversary.WarmStart`). Also a spec of what differs
        from it, such as ``{"n_steps": 5}``, see :func:`sb3_barpo.adversary.as_adversary`. The model keeps a
        copy, seeded with the model's seed.
    :param kwargs: PPO's further arguments, by name.
    :raises ValueError: for a negative or not finite strength, an unknown spec, a ball of the wrong shape.
    :raises TypeError: for an observation space that is not supported yet, or an adversary that is none.
    """

    #: Default of ``kappa``.
    default_kappa: ClassVar[float] = 0.0
    # PPO's and RecurrentPPO's own.
    batch_size: Any
    n_epochs: int
    clip_range: float | Schedule
    clip_range_vf: float | Schedule | None
    normalize_advantage: bool
    target_kl: float | None

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        *args: Any,
        epsilon: ScheduleLike = "ramp_0.075",
        kappa: ScheduleLike | None = None,
        adversary: AdversaryLike = None,
        _init_setup_model: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(policy, env, *args, _init_setup_model=False, **kwargs)  # type: ignore[misc]  # not in args
        self.epsilon = epsilon
        self.kappa = kappa
        self.adversary = adversary
        # The adversary's clock: the least progress remaining that training has seen.
        self._progress_held = 1.0
        if _init_setup_model:
            self._setup_model()

    def default_adversary(self) -> Adversary:
        """:return: The adversary that is used when none is given."""
        raise NotImplementedError

    def _setup_model(self) -> None:
        self.epsilon = self._plain(self.epsilon)
        self.kappa = self._plain(self.default_kappa if self.kappa is None else self.kappa)
        self._epsilon_schedule = as_schedule(self.epsilon)
        self._kappa_schedule = as_schedule(self.kappa)
        chosen = as_adversary(self.adversary, self.default_adversary())
        chosen.ball.check(check_observation_space(self.observation_space))
        self._adversary = copy.copy(chosen)  # not a plain Adversary of its parts: a subclass stays one
        super()._setup_model()

    @staticmethod
    def _plain(strength: ScheduleLike) -> ScheduleLike:
        """Our schedules as strings, so that PPO.load reads our files where this package is missing."""
        return str(strength) if type(strength) in KINDS.values() else strength

    def set_random_seed(self, seed: int | None = None) -> None:
        super().set_random_seed(seed)
        self._adversary.seed(seed)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_adversary", "_epsilon_schedule", "_kappa_schedule"]

    def learn(
        self: SelfRobustUpdate,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfRobustUpdate:
        if reset_num_timesteps:
            self._progress_held = 1.0
        return super().learn(
            total_timesteps=total_timesteps,
            callback=callback,
            log_interval=log_interval,
            tb_log_name=type(self).__name__ if tb_log_name is None else tb_log_name,
            reset_num_timesteps=reset_num_timesteps,
            progress_bar=progress_bar,
        )

    def train(self) -> None:
        """One update on the rollout: SB3's ``PPO.train``, restated once, with the adversary where it has its place."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        update = self._begin_update()
        logs: dict[str, list[th.Tensor]] = defaultdict(list)
        with fused(self.policy.optimizer) if update.epsilon > 0 else nullcontext():
            loss = self._epochs(update, logs)
        self._record_update(loss, update, logs)

    def _epochs(self, update: _Update, logs: dict[str, list[th.Tensor]]) -> th.Tensor:
        """All minibatches of the update. :return: The last one's loss."""
        parameters = list(self.policy.parameters())
        again = update.epsilon > 0 and self.n_epochs > 1 and self._adversary.solver.warm
        visits = LastVisits(self.rollout_buffer) if again else None
        loss = th.zeros(())
        for epoch in range(self.n_epochs):
            logs["train/approx_kl"].clear()  # PPO logs the last epoch's
            batches = self.rollout_buffer.get if visits is None else visits.get
            for index, rollout_data in enumerate(batches(self.batch_size)):
                samples = self._samples(rollout_data, update)
                policy = self._policy_on(rollout_data)
                perturbed = self._perturb(policy, rollout_data.observations, samples, update, visits)
                if index == 0 and update.epsilon > 0:
                    self._record_adversary(policy, rollout_data.observations, perturbed, samples, logs)
                loss = self._loss(policy, rollout_data, samples, perturbed, update, logs)
                if self._too_far(epoch, logs["train/approx_kl"][-1]):
                    self._n_updates += 1
                    return loss
                for parameter in parameters:
                    parameter.grad = None  # what the optimiser's zero_grad does, without its hooks
                loss.backward()  # type: ignore[no-untyped-call]
                th.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
                self.policy.optimizer.step()
            self._n_updates += 1
        return loss

    def _policy_on(self, rollout_data: Any) -> Any:
        """The policy as it answers to the minibatch's observations."""
        return self.policy

    def _mask(self, rollout_data: Any) -> th.Tensor | None:
        """The rows of the minibatch that count, ``None`` for all."""
        return None

    def _squared_error(self, predicted: th.Tensor, returns: th.Tensor, samples: Samples) -> th.Tensor:
        """The mean over the rows that count, in PPO's way to compute it."""
        return F.mse_loss(returns, predicted)

    def _perturb(
        self, policy: Any, observations: Any, samples: Samples, update: _Update, visits: LastVisits | None
    ) -> Any:
        """The adversary's answer to a minibatch, remembered if its solver will want to start from it."""
        start = None if visits is None else visits.ended()
        perturbed = self._adversary.perturb(policy, observations, update.epsilon, samples, update.bounds, start)
        if visits is not None:
            visits.end(self._adversary.moves(observations, perturbed))
        return perturbed

    def _too_far(self, epoch: int, approx_kl: th.Tensor) -> bool:
        """Whether ``target_kl`` ends the update; without one, nothing waits for the device."""
        if self.target_kl is None or not (kl := approx_kl.cpu().numpy()) > 1.5 * self.target_kl:
            return False
        if self.verbose >= 1:
            print(f"Early stopping at step {epoch} due to reaching max kl: {kl:.2f}")
        return True

    def _begin_update(self) -> _Update:
        """The update's settings, from the present progress."""
        progress = self._current_progress_remaining
        self._progress_held = min(self._progress_held, max(progress, 0.0))
        epsilon, kappa = (
            self._check_strength(name, schedule(self._progress_held))
            for name, schedule in (("epsilon", self._epsilon_schedule), ("kappa", self._kappa_schedule))
        )
        if epsilon > 0 and not is_finite(self.rollout_buffer.observations):
            raise ValueError(
                "An observation of this rollout is NaN or infinite, so no ball can be laid around it. Find the "
                "environment's fault, with stable_baselines3's VecCheckNan for example."
            )
        return _Update(
            clip_range=self.clip_range(progress),  # type: ignore[operator]  # SB3 has made schedules of them
            clip_range_vf=None if self.clip_range_vf is None else self.clip_range_vf(progress),  # type: ignore[operator]
            epsilon=epsilon,
            kappa=kappa,
            bounds=self._bounds(),
        )

    def _bounds(self) -> Bounds | DictBounds | None:
        """The limits of the observations, as the policy sees them."""
        space = check_observation_space(self.observation_space)
        vec_normalize = self.get_vec_normalize_env()
        if vec_normalize is None or not vec_normalize.norm_obs:
            return observation_bounds(space, device=self.device)
        if vec_normalize.observation_space.shape != space.shape:
            return None  # a wrapper around VecNormalize, such as VecFrameStack, has rearranged what it normalised
        return observation_bounds(space, vec_normalize.normalize_obs, self.device)

    @staticmethod
    def _check_strength(name: str, value: float) -> float:
        """A callable of the user's can return anything; our own schedules are checked when they are made."""
        value = float(value)  # an array of one number would not mix with tensors
        if not 0 <= value < np.inf:
            raise ValueError(f"{name} must be finite and at least 0, but its schedule gave {value}. Mend the schedule.")
        return value

    def _samples(self, rollout_data: Any, update: _Update) -> Samples:
        actions = rollout_data.actions
        if isinstance(self.action_space, spaces.Discrete):
            actions = actions.long().flatten()
        advantages, mask = rollout_data.advantages, self._mask(rollout_data)
        counted = advantages if mask is None else advantages[mask]
        # One sample has no spread, see https://github.com/DLR-RM/stable-baselines3/issues/325
        if self.normalize_advantage and len(counted) > 1:
            advantages = (advantages - counted.mean()) / (counted.std() + 1e-8)
        return Samples(actions, rollout_data.old_log_prob, advantages, update.clip_range, mask)

    def _loss(
        self,
        policy: Any,
        rollout_data: Any,
        samples: Samples,
        perturbed: Any,
        update: _Update,
        logs: dict[str, list[th.Tensor]],
    ) -> th.Tensor:
        """PPO's loss, with the robust policy loss in place of the clean one when the adversary has strength."""
        observations, actions = rollout_data.observations, samples.actions
        values, log_prob, entropy = (
            policy.evaluate_actions(observations, actions)
            if update.epsilon == 0
            else evaluate_actions(policy, observations, perturbed, actions)
        )
        surrogate = samples.mean(clipped_surrogate(log_prob, samples))
        if update.epsilon > 0:
            clean, robust = surrogate.unbind()
            logs["adversary/clean_surrogate"].append(clean.detach())
            logs["adversary/robust_surrogate"].append(robust.detach())
            surrogate = (robust + update.kappa * clean) / (1 + update.kappa)
            log_prob = log_prob[0]
        policy_loss = -surrogate

        values_pred = values.flatten()
        if update.clip_range_vf is not None:
            values_pred = rollout_data.old_values + th.clamp(
                values_pred - rollout_data.old_values, -update.clip_range_vf, update.clip_range_vf
            )
        value_loss = self._squared_error(values_pred, rollout_data.returns, samples)
        entropy_loss = -samples.mean(-log_prob if entropy is None else entropy)

        with th.no_grad():
            log_ratio = log_prob - rollout_data.old_log_prob
            ratio = th.exp(log_ratio)
            # http://joschu.net/blog/kl-approx.html
            logs["train/approx_kl"].append(samples.mean((ratio - 1) - log_ratio))
            logs["train/clip_fraction"].append(samples.mean((th.abs(ratio - 1) > update.clip_range).float()))
        logs["train/policy_gradient_loss"].append(policy_loss.detach())
        logs["train/value_loss"].append(value_loss.detach())
        logs["train/entropy_loss"].append(entropy_loss.detach())
        return policy_loss + self.ent_coef * entropy_loss + self.vf_coef * value_loss

    def _record_adversary(
        self,
        policy: Any,
        observations: Any,
        perturbed: Any,
        samples: Samples,
        logs: dict[str, list[th.Tensor]],
    ) -> None:
        """How well the adversary did, on one minibatch an epoch: on all of them it would cost what it tells."""
        adversary = self._adversary
        gain = adversary.gain(policy, observations, perturbed, samples)
        with as_it_acts(policy), th.no_grad():
            kl = KL().prepare(policy, observations)(perturbed)
        radius = adversary.radius(observations, perturbed)
        for name, values in (("gain", gain), ("kl", kl), ("radius_used", radius)):
            logs[f"adversary/{name}"].append(samples.mean(values))

    def _record_update(self, loss: th.Tensor, update: _Update, logs: dict[str, list[th.Tensor]]) -> None:
        """Log what PPO logs, under the same names, and the adversary's part."""
        for name, values in logs.items():
            seen = th.stack(values).cpu()
            # PPO's own types, for their means' rounding: this one it takes from arrays, the others from numbers.
            self.logger.record(name, np.mean(seen.numpy() if name == "train/approx_kl" else seen.tolist()))
        self.logger.record("adversary/epsilon", update.epsilon)
        self.logger.record("adversary/kappa", update.kappa)
        self.logger.record("train/loss", loss.item())
        self.logger.record(
            "train/explained_variance",
            explained_variance(self.rollout_buffer.values.flatten(), self.rollout_buffer.returns.flatten()),
        )
        if hasattr(self.policy, "log_std"):
            self.logger.record("train/std", th.exp(self.policy.log_std).mean().item())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/clip_range", update.clip_range)
        if update.clip_range_vf is not None:
            self.logger.record("train/clip_range_vf", update.clip_range_vf)
