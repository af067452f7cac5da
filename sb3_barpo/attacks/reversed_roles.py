"""Attacks by a policy that is trained against the victim, on its environments with roles reversed."""

import io
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from pydoc import locate
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from sb3_barpo.adversary import Ball, HeldLimits, LinfBall, bounds_of
from sb3_barpo.attacks.attack import Attack
from sb3_barpo.attacks.imitation import demonstrate, imitate
from sb3_barpo.attacks.learned import LearnedAttack, check_clean_env
from sb3_barpo.attacks.memory import Memory, States
from sb3_barpo.attacks.quick_ppo import QuickPPO
from sb3_barpo.attacks.victim import undisturbed
from sb3_barpo.policies.rollout import bare_predictor
from sb3_barpo.policies.spaces import by_key, by_parts, usual_policy
from sb3_barpo.vec_envs import Wrapper, seed_if_possible

if TYPE_CHECKING:
    from typing_extensions import Self

#: Environment steps of a stage of a fit, after which it can be stored.
STAGE = 50_000


class RoleReversedVecEnv(Wrapper):
    """
    The adversary's side of an environment. It sees what the victim should see, clean; its action decides what the
    victim sees instead; its reward is what the victim loses. The victim is part of the environment and acts
    deterministically, with its memory if it has one.

    ``Monitor`` still reports the victim's returns: in the adversary's logs ``rollout/ep_rew_mean`` falls.

    :param venv: The victim's environments, clean.
    :param attack: The attack that turns the adversary's actions into observations.
    """

    def __init__(self, venv: VecEnv, attack: "PolicyAttack") -> None:
        super().__init__(venv, action_space=attack.adversary_space())
        self.attack = attack
        self._bounds = bounds_of(attack.observation_space, venv, attack.model.device)
        self._limits = HeldLimits(attack.model)
        self._victim = bare_predictor(attack.model)

    def seed(self, seed: int | None = None) -> list[int | None]:
        """SB3's algorithms seed their environments; those that take no seed go without."""
        seed_if_possible(self.venv, seed)
        return [None] * self.num_envs

    def reset(self) -> VecEnvObs:
        self._clean = self.venv.reset()
        self._state: States | None = None
        self._starts = np.ones(self.num_envs, dtype=bool)
        self._memory = Memory.of(self.attack.model, self.num_envs)
        return self._clean

    def step_async(self, actions: np.ndarray) -> None:
        device = self.attack.model.device
        clean = obs_as_tensor(self._clean, device)  # type: ignore[arg-type]  # no tuple
        policy = self.attack.victim(self._memory)
        self.attack.begin(self._starts)
        perturbed = self.attack.respond(clean, th.as_tensor(actions, device=device), policy)
        self._limits.look(self._bounds, self._clean)
        seen = self.attack.shown(perturbed, self._clean, self._limits.hold(self._bounds), policy)
        taken, self._state = self._victim.predict(seen, self._state, self._starts, self.attack.deterministic)
        if self._memory is not None:
            self._memory.advance(seen)
        self.venv.step_async(taken)

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = self.venv.step_wait()
        self._clean, self._starts = observations, dones
        if self._memory is not None:
            self._memory.forget(dones)
        return self._clean, -rewards, dones, infos


class PolicyAttack(LearnedAttack):
    """
    An attack by an adversary that is itself an agent, trained on :class:`RoleReversedVecEnv`.

    :param model: The victim.
    :param epsilon: Strength.
    :param algorithm: The adversary's algorithm, any of SB3 or sb3-contrib for continuous actions whose policy keeps no
        memory.
    :param policy: Its policy, by default the one that SB3 has for the victim's observations.
    :param curriculum: Multiple of ε with which the fit begins; it falls to 1 in the first half. A strong adversary
        meets by chance the failures that a weak one would have to look for.
    :param ball: :class:`LinfBall` by default.
    :param seed: Seed of the adversary's training.
    :param deterministic: Whether the victim takes its most likely action while the adversary learns.
    :param kwargs: Arguments of the algorithm.
    """

    #: The adversary; ``None`` before it is fitted.
    adversary_model: BaseAlgorithm | None = None
    #: Steps of its first fit, in the first half of which a curriculum ends.
    _horizon: int | None = None
    #: Statistics of its discounted rewards.
    _rewards: RunningMeanStd | None = None

    def __init__(
        self,
        model: OnPolicyAlgorithm,
        epsilon: float,
        algorithm: type[BaseAlgorithm] = PPO,
        policy: str | type[Any] | None = None,
        curriculum: float = 1.0,
        ball: Ball | None = None,
        seed: int | None = None,
        deterministic: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, epsilon)
        if not 1 <= curriculum < math.inf:
            raise ValueError(
                f"The curriculum must be finite and at least 1, but it is {curriculum!r}. It is the multiple of "
                "epsilon with which a fit begins; 1 is none."
            )
        if not (isinstance(algorithm, type) and issubclass(algorithm, BaseAlgorithm)):
            raise TypeError(f"The adversary's algorithm must be a class of SB3 or sb3-contrib, not {algorithm!r}.")
        self.ball = LinfBall() if ball is None else ball
        self.ball.check(self.observation_space)
        self.algorithm = algorithm
        self.policy = usual_policy(self.observation_space) if policy is None else policy
        self.curriculum = curriculum
        self.seed_of_fit = seed
        self.deterministic = deterministic
        self.kwargs = kwargs

    def _example(self) -> Any:
        """A batch of one observation."""
        zeros = {key: np.zeros((1, *part.shape), part.dtype) for key, part in by_parts(self.observation_space).items()}
        return obs_as_tensor(zeros if isinstance(self.observation_space, spaces.Dict) else zeros[""], self.model.device)

    @abstractmethod
    def adversary_space(self) -> spaces.Box:
        """:return: The space of the adversary's actions."""

    @abstractmethod
    def respond(self, observations: Any, actions: th.Tensor, policy: Any) -> Any:
        """
        :param observations: Clean observations, a tensor ``(B, *obs)`` or tensors by key.
        :param actions: The adversary's actions, shape ``(B, *action)``.
        :param policy: The victim's policy as it answers to the observations.
        :return: What the victim sees, of the same shapes.
        """

    @abstractmethod
    def action_for(self, observations: Any, perturbed: Any, policy: Any) -> th.Tensor:
        """
        :param observations: Clean observations, a tensor ``(B, *obs)`` or tensors by key.
        :param perturbed: What another attack made of them.
        :param policy: The victim's policy as it answers to the observations.
        :return: The adversary's actions to which :meth:`respond` answers alike, shape ``(B, *action)``.
        """

    def imitate(self, other: Attack, venv: VecEnv, n_steps: int = 8192) -> "Self":
        """
        Begin with what another attack does: the adversary learns from its episodes to do the same, and what the victim
        loses by it. :meth:`fit` continues from there.

        :param other: Another attack on the same victim, ready.
        :param venv: The victim's environments, as in :meth:`fit`.
        :param n_steps: Steps of the other attack's episodes; they are not counted as this one's.
        :return: The attack itself, still to be fitted.
        :raises ValueError: if it has learned before.
        :raises TypeError: if the adversary's algorithm has no actor and critic in one policy, as SB3's on-policy ones.
        """
        if self.adversary_model is not None:
            raise ValueError(f"{type(self).__name__} has learned before, so it cannot begin by imitating {other!r}.")
        check_clean_env(self.model, venv)
        with undisturbed(self.model, venv):
            self._seed_all(venv)
            other.seed(self.seed_of_fit)
            adversary = self.adversary_on(self.environments(venv))
            if not isinstance(adversary.policy, ActorCriticPolicy):
                raise TypeError(
                    f"Only adversaries of SB3's on-policy algorithms can imitate, but this one is trained by "
                    f"{self.algorithm.__name__}. Choose PPO."
                )
            self._seed_all(venv)
            gamma = self.kwargs.get("gamma", 0.99)
            with other.frozen():
                shown, self._rewards = demonstrate(other, venv, n_steps, self.action_for, gamma, self.deterministic)
            imitate(adversary.policy, shown)
        adversary.env = adversary._vec_normalize_env = None
        self.adversary_model = adversary
        return self

    def _perturb(self, observations: Any, policy: Any) -> Any:
        assert self.adversary_model is not None
        actions, _ = self.adversary_model.predict(
            by_key(lambda part: part.cpu().numpy(), observations), deterministic=True
        )
        return self.respond(observations, th.as_tensor(actions, device=self.model.device), policy)

    def _fit(self, venv: VecEnv, total_timesteps: int, tell: Callable[[float], object]) -> Iterator[int]:
        end = self.n_fitted + total_timesteps
        if self._horizon is None:
            self._horizon = end
        while self.n_fitted < end:
            steps = min(STAGE - self.n_fitted % STAGE, end - self.n_fitted)
            self._seed_all(venv)
            self._learn(venv, self.n_fitted + steps, end, tell)
            yield steps

    def _learn(self, venv: VecEnv, until: int, end: int, tell: Callable[[float], object]) -> None:
        """A stage: learn until so many steps are done, of those at the end of the fit."""
        env = self.environments(venv)
        adversary = self.adversary_on(env)
        if not adversary.verbose and adversary.tensorboard_log is None:
            adversary.set_logger(Logger(None, []))  # SB3's default makes a temporary folder, even for no logs
        strength = self.epsilon
        try:
            # To SB3 it is one training up to the end of the fit, on which schedules of learning rates depend.
            left = max(end - adversary.num_timesteps, 1)
            with self.frozen():
                adversary.learn(left, callback=_Stage(self, until, tell), reset_num_timesteps=False)
        except _StageOver:
            pass
        finally:
            self.epsilon = strength
        adversary.env = adversary._vec_normalize_env = None  # the environments belong to the caller
        self.adversary_model, self._rewards = adversary, env.ret_rms

    def environments(self, venv: VecEnv) -> VecNormalize:
        """
        :param venv: The victim's environments.
        :return: The adversary's. One scale for all rewards, whatever the environment's: the value network learns little
            from large ones.
        """
        env = VecNormalize(RoleReversedVecEnv(venv, self), norm_obs=False, gamma=self.kwargs.get("gamma", 0.99))
        if self._rewards is not None:
            env.ret_rms = self._rewards
        return env

    def adversary_on(self, env: VecEnv) -> BaseAlgorithm:
        """
        :param env: Environments of the adversary.
        :return: The adversary on them, a new one if it has not learned anything yet.
        :raises TypeError: if its policy keeps a memory.
        :raises ValueError: if it learned on another number of environments.
        """
        adversary = self.adversary_model
        if adversary is None:
            settings = {"seed": self.seed_of_fit, "device": self.model.device, **self.kwargs}
            adversary = quick(self.algorithm)(self.policy, env, **settings)
        elif adversary.n_envs != env.num_envs:
            raise ValueError(
                f"{type(self).__name__} was fitted on {adversary.n_envs} environments, so it cannot continue on "
                f"{env.num_envs}. Give it as many as before."
            )
        else:
            adversary.set_env(env)
        if hasattr(adversary.policy, "lstm_actor"):
            raise TypeError(
                f"{self.algorithm.__name__} keeps a memory between steps, which an attack cannot carry. Choose an "
                "algorithm with a feed-forward policy, PPO for example."
            )
        return adversary

    def _state(self) -> dict[str, Any]:
        rewards = self._rewards
        told = None if rewards is None else [float(rewards.mean), float(rewards.var), float(rewards.count)]
        return {"horizon": self._horizon, "rewards": told}

    def _resume(self, state: dict[str, Any]) -> None:
        self._horizon = state.get("horizon", self.n_fitted)
        if state.get("rewards") is not None:
            mean, var, count = state["rewards"]
            self._rewards = RunningMeanStd()
            self._rewards.mean, self._rewards.var, self._rewards.count = np.array(mean), np.array(var), count

    def _settings(self) -> dict[str, Any]:
        # The rest is in the adversary's own file.
        algorithm = f"{self.algorithm.__module__}.{self.algorithm.__qualname__}"
        return {"algorithm": algorithm, "curriculum": self.curriculum, "deterministic": self.deterministic}

    def _save_weights(self, file: io.BytesIO) -> None:
        assert self.adversary_model is not None
        self.adversary_model.save(file)

    @classmethod
    def _restore(cls, arguments: dict[str, Any], weights: io.BytesIO) -> "PolicyAttack":
        algorithm = locate(arguments["algorithm"])
        if algorithm is None:
            raise ValueError(f"The attack was trained by {arguments['algorithm']}, which is not installed here.")
        attack = cls(**{**arguments, "algorithm": algorithm})
        attack.adversary_model = quick(attack.algorithm).load(weights, device=attack.model.device)
        return attack


def quick(algorithm: type[BaseAlgorithm]) -> type[BaseAlgorithm]:
    """:return: The same, faster where it can be; in files and to whoever asks it is PPO."""
    return QuickPPO if algorithm is PPO else algorithm


class _StageOver(Exception):  # noqa: N818  # nothing is wrong
    """Raised before a rollout begins: nothing has changed since the last update."""


class _Stage(BaseCallback):
    """Ends a stage, lets ε fall to its value in the first half of the first fit, and tells of the steps."""

    def __init__(self, attack: PolicyAttack, until: int, tell: Callable[[float], object]) -> None:
        super().__init__()
        self.attack = attack
        self.epsilon = attack.epsilon
        self.until = until
        self.tell = tell

    def _on_training_start(self) -> None:
        self.told = self.model.num_timesteps

    def _on_rollout_start(self) -> None:
        if self.num_timesteps >= self.until:
            raise _StageOver
        passed = min(2 * self.num_timesteps / (self.attack._horizon or 1), 1.0)
        self.attack.epsilon = self.epsilon * (passed + (1 - passed) * self.attack.curriculum)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.tell(self.num_timesteps - self.told)
        self.told = self.num_timesteps
