"""The adversary in PPO's loop: the arguments, the one training loop and the logging that all forms share."""

import copy
import dataclasses
import inspect
from collections import defaultdict
from contextlib import nullcontext
from typing import Any, ClassVar, TypeVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from torch.nn import functional as F

from sb3_barpo.adversary import (
    Adversary,
    AdversaryLike,
    Bounds,
    DictBounds,
    HeldLimits,
    Samples,
    as_adversary,
    clipped_surrogate,
)
from sb3_barpo.checks import require_margin
from sb3_barpo.losses import Defence, OuterLoss
from sb3_barpo.losses.base import plain, strength_at
from sb3_barpo.policies import by_hand
from sb3_barpo.policies.rollout import bare_forward
from sb3_barpo.policies.spaces import check_observation_space
from sb3_barpo.schedules import ScheduleLike
from sb3_barpo.sensors import SensorsLike
from sb3_barpo.training.controlled import check_controllers, present, present_loss, step_controllers
from sb3_barpo.training.inner import Inner, Logs
from sb3_barpo.training.optim import fused
from sb3_barpo.training.records import Update, record_update
from sb3_barpo.training.robust_by_hand import RobustUpdateByHand
from sb3_barpo.training.sheets import WithSheet
from sb3_barpo.training.signature import signature_of
from sb3_barpo.training.trap import TrapWatch
from sb3_barpo.vec_envs import quick_infos

SelfRobustUpdate = TypeVar("SelfRobustUpdate", bound="RobustUpdate")


class RobustUpdate(WithSheet):
    """
    What makes a robust algorithm of SB3's ``PPO`` and of sb3-contrib's ``RecurrentPPO``: to be inherited before them.
    Users take :class:`ARPO`, :class:`BARPO` and their recurrent forms.

    Rollouts are collected by the clean policy. In each minibatch an adversary looks for perturbed observations ``s'``
    within ε of the clean ones ``s``, and the outer loss of :attr:`defence` replaces PPO's policy loss
    ``-mean surr(s)``, with ``s'`` held fixed. Value loss and entropy bonus stay on clean observations. At
    ``epsilon=0`` this is SB3's PPO, bit for bit.

    ``epsilon``, ``margin`` and the settings of the loss, such as ``kappa``, may be set at any time: the next update
    takes them.

    :param policy: As in PPO.
    :param env: As in PPO; observations must be ``Box``, images among them, or ``Dict``.
    :param args: PPO's further arguments, by position.
    :param epsilon: The strength to be withstood: radius of the ball of the attacks, in units of what the policy sees
        (after ``VecNormalize``), or share of the sheet. A number, a schedule or controller, a spec or a string (see
        :mod:`sb3_barpo.schedules` and :mod:`sb3_barpo.controllers`), by default ``"ramp_0.075"``, with ``sensors``
        ``"ramp_1.0"``. Its time never runs backwards when training is continued by
        ``learn(..., reset_num_timesteps=False)``.
    :param margin: Training is at ``margin * epsilon``; evaluations are at ε by default. Above 1, an agent trained
        against a stronger adversary than the one that it will be judged by.
    :param adversary: Who looks for ``s'``; defaults to the algorithm's own, by ten steps of SGLD at a sample's first
        visit and one at later ones (:class:`sb3_barpo.adversary.WarmStart`). Also a spec of what differs from it, such
        as ``{"n_steps": 5}`` (:func:`sb3_barpo.adversary.as_adversary`). The model keeps a copy, with the model's seed.
    :param sensors: A spec sheet (:class:`sb3_barpo.sensors.Sensors`), its YAML file, or it as plain data. The bounds of
        its sensors are the radii of the ball, by the statistics of ``VecNormalize`` at each update. It is saved.
    :param kwargs: Settings of the outer loss by name, ``kappa`` for :class:`sb3_barpo.losses.WorstCase`; and PPO's
        further arguments.
    :raises ValueError: for a negative or not finite strength, a margin that is not above 0, an unknown spec, a ball of
        the wrong shape, a sheet that does not fit the observations, or one beside an adversary's own ball.
    :raises TypeError: for an observation space that is not supported, or an ``adversary`` or ``sensors`` of another
        type.
    """

    #: The algorithm in one line: what its adversary raises, and what the policy descends on.
    defence: ClassVar[Defence]
    # PPO's and RecurrentPPO's own.
    batch_size: Any
    n_epochs: int
    clip_range: float | Schedule
    clip_range_vf: float | Schedule | None
    normalize_advantage: bool
    target_kl: float | None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """``help`` shows PPO's arguments and ours, not ``*args, **kwargs``."""
        super().__init_subclass__(**kwargs)
        passes_on = {"args", "kwargs"} <= {*inspect.signature(cls.__init__).parameters}
        if cls.__init__ is not RobustUpdate.__init__ and not ("defence" in cls.__dict__ and passes_on):
            cls.__signature__ = None  # type: ignore[attr-defined]  # that of its own constructor
        elif "defence" in cls.__dict__:
            cls.__signature__ = signature_of(cls, RobustUpdate)  # type: ignore[attr-defined]

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        *args: Any,
        epsilon: ScheduleLike | None = None,
        margin: float = 1.0,
        adversary: AdversaryLike = None,
        sensors: SensorsLike | None = None,
        _init_setup_model: bool = True,
        **kwargs: Any,
    ) -> None:
        settings = {name: kwargs.pop(name, None) for name in self._loss_settings()}
        super().__init__(policy, env, *args, _init_setup_model=False, **kwargs)  # type: ignore[misc]  # not in args
        self.epsilon = epsilon
        self.margin = margin
        self.adversary = adversary
        self.sensors = sensors
        #: Tells files of one algorithm from those of another.
        self.algorithm = type(self).__name__
        for name, value in settings.items():
            setattr(self, name, value)
        # The adversary's clock: the least progress remaining that training has seen.
        self._progress_held = 1.0
        #: States of the controllers, see :mod:`sb3_barpo.controllers`.
        self.controls: dict[str, float] = {}
        if _init_setup_model:
            self._setup_model()

    @classmethod
    def _loss_settings(cls) -> list[str]:
        return [field.name for field in dataclasses.fields(cls.defence.loss)]

    def default_adversary(self) -> Adversary:
        """:return: The adversary that is used when none is given."""
        return self.defence.adversary()

    def outer_loss(self) -> OuterLoss:
        """
        :return: The outer loss with the model's present settings.
        :raises ValueError: if one of them does not fit.
        """
        given = {name: getattr(self, name) for name in self._loss_settings()}
        # None means the default, as in the constructor: `load(path, kappa=None)` asks for it.
        return dataclasses.replace(self.defence.loss, **{k: value for k, value in given.items() if value is not None})

    def _setup_model(self) -> None:
        self._read_sheet()
        self.epsilon = plain(self.epsilon)
        # Strings, so that PPO.load reads our files where this package is missing.
        for name, value in self.outer_loss().spec().items():
            setattr(self, name, value)
        require_margin("margin", self.margin)
        chosen = self._within_sheet(as_adversary(self.adversary, self.default_adversary()))
        chosen.ball.check(check_observation_space(self.observation_space))
        if chosen.ball.timing is not None:
            raise ValueError(
                f"An update of training shuffles steps, so its adversary cannot keep {chosen.ball.timing!r}. Leave "
                "timing out of its ball; attacks of evaluation take it."
            )
        self._adversary = copy.copy(chosen)  # not a plain Adversary of its parts: a subclass stays one
        self._limits = HeldLimits(self)
        self._memory_of_loss: dict[str, Any] = {}
        self._trap = TrapWatch()
        super()._setup_model()
        self.outer_loss().check(self.policy, self._adversary)
        check_controllers(self)
        if self.env is not None and (self.num_timesteps == 0 or not hasattr(self, "vec_normalize")):
            #: Whether it is trained under ``VecNormalize``: saved, so that nobody judges the agent without statistics.
            self.vec_normalize = self.get_vec_normalize_env() is not None

    def set_random_seed(self, seed: int | None = None) -> None:
        super().set_random_seed(seed)
        self._adversary.seed(seed)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_adversary", "_limits", "_memory_of_loss", "_sheet", "_trap"]

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
            self._progress_held, self.controls, self._trap = 1.0, {}, TrapWatch()
        return super().learn(
            total_timesteps=total_timesteps,
            callback=callback,
            log_interval=log_interval,
            tb_log_name=type(self).__name__ if tb_log_name is None else tb_log_name,
            reset_num_timesteps=reset_num_timesteps,
            progress_bar=progress_bar,
        )

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> bool:
        """As SB3 does it, bit for bit; policies that are recognised answer by bare operations."""
        with bare_forward(self.policy), quick_infos(self.env):
            return super().collect_rollouts(*args, **kwargs)

    def train(self) -> None:
        """One update on the rollout: SB3's ``PPO.train``, restated once, with the adversary where it has its place."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        update = self._begin_update()
        self._trap.before(self, update)
        logs: Logs = defaultdict(list)
        inner = update.inner
        if inner is not None and self._goes_by_hand(inner):
            loss = self._by_hand(update, inner, logs)
        else:
            with nullcontext() if inner is None else fused(self.policy.optimizer):
                loss = self._epochs(update, logs)
        record_update(self, loss, update, logs)
        step_controllers(self, logs)
        self._trap.after(self, update, logs)

    def _epochs(self, update: Update, logs: Logs) -> th.Tensor:
        """All minibatches of the update. :return: The last one's loss."""
        parameters = list(self.policy.parameters())
        get = self.rollout_buffer.get if update.inner is None else update.inner.get
        loss = th.zeros(())
        for epoch in range(self.n_epochs):
            logs["train/approx_kl"].clear()  # PPO logs the last epoch's
            for index, rollout_data in enumerate(get(self.batch_size)):
                loss = self._loss(rollout_data, update, logs, first=index == 0)
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

    def _goes_by_hand(self, inner: Inner) -> bool:
        """Whether an update by hand does the same: where nobody has changed policy, buffer, optimiser or loop."""
        loop = ("train", "_epochs", "_loss", "_samples", "_policy_on", "_mask", "_squared_error")
        return (
            all(getattr(type(self), name) is getattr(RobustUpdate, name) for name in loop)
            and inner.is_plain
            and by_hand.supports(self.policy, self.rollout_buffer)
        )

    def _by_hand(self, update: Update, inner: Inner, logs: Logs) -> th.Tensor:
        settings = by_hand.Settings.of(self, update.clip_range, update.clip_range_vf)
        if self.target_kl is not None:
            settings = settings._replace(too_far=self._too_far)
        hand = RobustUpdateByHand(self.policy, self.rollout_buffer, settings, inner)
        loss = hand.run()
        logs.update(hand.logs)
        self._n_updates += hand.n_epochs_done
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

    def _too_far(self, epoch: int, approx_kl: th.Tensor) -> bool:
        """Whether ``target_kl`` ends the update; without one, nothing waits for the device."""
        if self.target_kl is None or not (kl := approx_kl.cpu().numpy()) > 1.5 * self.target_kl:
            return False
        if self.verbose >= 1:
            print(f"Early stopping at step {epoch} due to reaching max kl: {kl:.2f}")
        return True

    def training_epsilon(self) -> float:
        """
        :return: The strength that the next update trains against, ``margin`` times the present ε.
        :raises ValueError: for an invalid margin or strength: both may be set at any time.
        """
        require_margin("margin", self.margin)
        progress = min(self._progress_held, max(self._current_progress_remaining, 0.0))
        return self.margin * strength_at("epsilon", present(self, "epsilon"), progress)

    def _begin_update(self) -> Update:
        """The update's settings, from the present progress. Here alone it is asked whether this is PPO."""
        self._fit_sheet()
        progress = self._current_progress_remaining
        epsilon = self.training_epsilon()
        self._progress_held = min(self._progress_held, max(progress, 0.0))
        loss = present_loss(self, self._progress_held)
        is_ppo = epsilon == 0 or loss.is_ppo
        return Update(
            clip_range=self.clip_range(progress),  # type: ignore[operator]  # SB3 has made schedules of them
            clip_range_vf=None if self.clip_range_vf is None else self.clip_range_vf(progress),  # type: ignore[operator]
            epsilon=epsilon,
            target_epsilon=strength_at("epsilon", self.epsilon, 0.0),
            loss=loss,
            inner=None if is_ppo else Inner.begin(self, self._adversary, loss, epsilon, self._bounds()),
        )

    def _bounds(self) -> Bounds | DictBounds | None:
        """The limits of the observations, as the policy sees them, as far as the rollout keeps them."""
        seen = self.rollout_buffer.observations if self.rollout_buffer.full else None
        return self._limits.after_rollout(check_observation_space(self.observation_space), self.env, seen)

    def _samples(self, rollout_data: Any, update: Update) -> Samples:
        actions = rollout_data.actions
        if isinstance(self.action_space, spaces.Discrete):
            actions = actions.long().flatten()
        advantages, mask = rollout_data.advantages, self._mask(rollout_data)
        counted = advantages if mask is None else advantages[mask]
        # One sample has no spread, see https://github.com/DLR-RM/stable-baselines3/issues/325
        if self.normalize_advantage and len(counted) > 1:
            advantages = (advantages - counted.mean()) / (counted.std() + 1e-8)
        return Samples(actions, rollout_data.old_log_prob, advantages, update.clip_range, mask)

    def _loss(self, rollout_data: Any, update: Update, logs: Logs, first: bool) -> th.Tensor:
        """PPO's loss, with the outer loss in place of its policy loss when the adversary has strength."""
        samples = self._samples(rollout_data, update)
        policy = self._policy_on(rollout_data)
        if update.inner is None:
            values, log_prob, entropy = policy.evaluate_actions(rollout_data.observations, samples.actions)
            policy_loss = -samples.mean(clipped_surrogate(log_prob, samples))
        else:
            seen, policy_loss = update.inner(policy, rollout_data.observations, samples, logs, record=first)
            values, entropy, log_prob = seen.values, seen.entropy, seen.log_prob[0]

        values_pred = values.flatten()
        if update.clip_range_vf is not None:
            values_pred = rollout_data.old_values + th.clamp(
                values_pred - rollout_data.old_values, -update.clip_range_vf, update.clip_range_vf
            )
        value_loss = self._squared_error(values_pred, rollout_data.returns, samples)
        entropy_loss = -samples.mean(-log_prob if entropy is None else entropy)

        with th.no_grad():  # http://joschu.net/blog/kl-approx.html
            log_ratio = log_prob - rollout_data.old_log_prob
            ratio = th.exp(log_ratio)
            logs["train/approx_kl"].append(samples.mean((ratio - 1) - log_ratio))
            logs["train/clip_fraction"].append(samples.mean((th.abs(ratio - 1) > update.clip_range).float()))
        logs["train/policy_gradient_loss"].append(policy_loss.detach())
        logs["train/value_loss"].append(value_loss.detach())
        logs["train/entropy_loss"].append(entropy_loss.detach())
        return policy_loss + self.ent_coef * entropy_loss + self.vf_coef * value_loss
