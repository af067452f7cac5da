"""Attacks by a policy that was trained against the victim: SA-RL and PA-AD."""

import io
import math
from abc import abstractmethod
from pydoc import locate
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from tqdm import tqdm

from sb3_barpo.adversary import PGD, Adversary, Ball, Draws, HeldLimits, LinfBall, Towards, bounds_of, layout_of
from sb3_barpo.attacks.learned import LearnedAttack
from sb3_barpo.attacks.memory import Memory, States
from sb3_barpo.attacks.quick_ppo import QuickPPO
from sb3_barpo.policies.evaluate import policy_output
from sb3_barpo.policies.spaces import by_key, by_parts, usual_policy
from sb3_barpo.policies.views import evaluation_mode
from sb3_barpo.vec_envs import Wrapper, seed_if_possible


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
        perturbed = self.attack.respond(clean, th.as_tensor(actions, device=device), policy)
        self._limits.look(self._bounds, self._clean)
        seen = self.attack.shown(perturbed, self._clean, self._limits.hold(self._bounds))
        taken, self._state = self.attack.model.predict(seen, self._state, self._starts, deterministic=True)
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
    :param kwargs: Arguments of the algorithm.
    """

    #: The adversary; ``None`` before it is fitted.
    adversary_model: BaseAlgorithm | None = None

    def __init__(
        self,
        model: OnPolicyAlgorithm,
        epsilon: float,
        algorithm: type[BaseAlgorithm] = PPO,
        policy: str | type[Any] | None = None,
        curriculum: float = 1.0,
        ball: Ball | None = None,
        seed: int | None = None,
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

    def _perturb(self, observations: Any, policy: Any) -> Any:
        assert self.adversary_model is not None
        actions, _ = self.adversary_model.predict(
            by_key(lambda part: part.cpu().numpy(), observations), deterministic=True
        )
        return self.respond(observations, th.as_tensor(actions, device=self.model.device), policy)

    def _fit(self, venv: VecEnv, total_timesteps: int, progress_bar: bool) -> None:
        # One scale for all rewards, whatever the environment's: the value network learns little from large ones.
        env = VecNormalize(RoleReversedVecEnv(venv, self), norm_obs=False, gamma=self.kwargs.get("gamma", 0.99))
        settings = {"seed": self.seed_of_fit, "device": self.model.device, **self.kwargs}
        # The same, faster; in files and to whoever asks it is PPO.
        algorithm = QuickPPO if self.algorithm is PPO else self.algorithm
        adversary = algorithm(self.policy, env, **settings)
        if hasattr(adversary.policy, "lstm_actor"):
            raise TypeError(
                f"{self.algorithm.__name__} keeps a memory between steps, which an attack cannot carry. Choose an "
                "algorithm with a feed-forward policy, PPO for example."
            )
        if not adversary.verbose and adversary.tensorboard_log is None:
            adversary.set_logger(Logger(None, []))  # SB3's default makes a temporary folder, even for no logs
        strength = self.epsilon
        try:
            with tqdm(total=total_timesteps, desc=self.name, unit="step", disable=not progress_bar) as bar:
                adversary.learn(total_timesteps, callback=_Curriculum(self, total_timesteps, bar))
        finally:
            self.epsilon = strength
        adversary.env = adversary._vec_normalize_env = None  # the environments belong to the caller
        self.adversary_model = adversary

    def _settings(self) -> dict[str, Any]:
        # The rest is in the adversary's own file.
        algorithm = f"{self.algorithm.__module__}.{self.algorithm.__qualname__}"
        return {"algorithm": algorithm, "curriculum": self.curriculum}

    def _save_weights(self, file: io.BytesIO) -> None:
        assert self.adversary_model is not None
        self.adversary_model.save(file)

    @classmethod
    def _restore(cls, arguments: dict[str, Any], weights: io.BytesIO) -> "PolicyAttack":
        algorithm = locate(arguments["algorithm"])
        if algorithm is None:
            raise ValueError(f"The attack was trained by {arguments['algorithm']}, which is not installed here.")
        attack = cls(**{**arguments, "algorithm": algorithm})
        attack.adversary_model = attack.algorithm.load(weights, device=attack.model.device)
        return attack


class SARL(PolicyAttack):
    """
    The learned adversary of Zhang et al. (ICLR 2021), called SA-RL or optimal attack: an agent whose action is the
    perturbation itself, in units of ε, clipped to the ball. It needs nothing of the victim but its actions, and is as
    strong as its training.

    The adversary acts deterministically when it attacks.

    :param model: The victim.
    :param epsilon: Strength.
    :param algorithm: The adversary's algorithm, PPO by default.
    :param policy: Its policy, by default the one that SB3 has for the victim's observations.
    :param curriculum: Multiple of ε with which the fit begins; it falls to 1 in the first half. A strong adversary
        meets by chance the failures that a weak one would have to look for.
    :param ball: :class:`LinfBall` by default.
    :param seed: Seed of its training.
    :param kwargs: Arguments of the algorithm, ``learning_rate`` or ``ent_coef`` for example.
    :raises TypeError: if the algorithm is none, or its policy keeps a memory.
    """

    name = "sarl"

    def adversary_space(self) -> spaces.Box:
        images = [part for part in by_parts(self.observation_space).values() if is_image_space(part)]
        if images:
            raise TypeError(
                f"SA-RL's adversary would have to choose {math.prod(images[0].shape)} pixels by one action each, which "
                "does not learn. Take PA-AD, whose director chooses a direction of the victim's actions."
            )
        return spaces.Box(-1.0, 1.0, layout_of(self._example(), self.ball).join(self._example()).shape[1:])

    def respond(self, observations: Any, actions: th.Tensor, policy: Any) -> Any:
        layout = layout_of(observations, self.ball)
        return layout.add(observations, layout.ball.within(actions.float(), self.epsilon / layout.unit))


class PAAD(PolicyAttack):
    """
    PA-AD (Sun et al., ICLR 2022): a director, trained like SA-RL's adversary, chooses in which direction the victim's
    action shall move; an actor, which knows the victim's weights, finds the observation that moves it there, by one
    step of gradient ascent to a corner of the ball. The director's space is that of the victim's actions, often much
    smaller than that of its observations. For discrete actions it is that of their probabilities.

    :param model: The victim.
    :param epsilon: Strength.
    :param algorithm: The director's algorithm, PPO by default.
    :param policy: Its policy, by default the one that SB3 has for the victim's observations.
    :param curriculum: Multiple of ε with which the fit begins; it falls to 1 in the first half. A strong adversary
        meets by chance the failures that a weak one would have to look for.
    :param actor_steps: Number of the actor's gradient steps.
    :param ball: :class:`LinfBall` by default.
    :param seed: Seed of the director's training, and of the actor's starts.
    :param kwargs: Arguments of the algorithm.
    :raises TypeError: if the algorithm is none, or its policy keeps a memory.
    """

    name = "paad"

    def __init__(
        self,
        model: OnPolicyAlgorithm,
        epsilon: float,
        algorithm: type[BaseAlgorithm] = PPO,
        policy: str | type[Any] | None = None,
        curriculum: float = 1.0,
        actor_steps: int = 1,
        ball: Ball | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, epsilon, algorithm, policy, curriculum, ball, seed, **kwargs)
        self.actor_steps = actor_steps
        self._solver = PGD(actor_steps, start_radius=0.1)
        self.seed(seed)

    def seed(self, seed: int | None) -> None:
        self._draws = Draws(seed)

    def _settings(self) -> dict[str, Any]:
        return {"actor_steps": self.actor_steps, **super()._settings()}

    def adversary_space(self) -> spaces.Box:
        # Only the direction matters; the bounds, which SB3 asks for, are so wide that they never clip one.
        policy = self.victim(Memory.of(self.model, n_envs=1))
        with evaluation_mode(self.model.policy), th.no_grad():
            n_outputs = policy_output(policy, self._example()).shape[1]
        return spaces.Box(-100.0, 100.0, (n_outputs,))

    def respond(self, observations: Any, actions: th.Tensor, policy: Any) -> Any:
        actor = Adversary(Towards(actions.float()), self._solver, self.ball, self._draws)
        return actor.perturb(policy, observations, self.epsilon)


class _Curriculum(BaseCallback):
    """Lets ε fall to its value in the first half of a fit, and moves the progress bar."""

    def __init__(self, attack: PolicyAttack, total_timesteps: int, bar: "tqdm[Any]") -> None:
        super().__init__()
        self.attack = attack
        self.epsilon = attack.epsilon
        self.total_timesteps = total_timesteps
        self.bar = bar

    def _on_rollout_start(self) -> None:
        passed = min(2 * self.num_timesteps / self.total_timesteps, 1.0)
        self.attack.epsilon = self.epsilon * (passed + (1 - passed) * self.attack.curriculum)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.bar.update(self.num_timesteps - self.bar.n)
