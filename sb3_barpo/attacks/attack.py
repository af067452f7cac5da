"""What every attack is: a model to examine, a strength, and a way to perturb a batch of observations."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor

from sb3_barpo.adversary import Adversary, Ball, Bounds, DictBounds, LinfBall
from sb3_barpo.attacks.memory import Memory
from sb3_barpo.attacks.pace import Pace
from sb3_barpo.checks import require_model
from sb3_barpo.policies import mlp
from sb3_barpo.policies.spaces import by_parts, check_observation_space, in_type_of, is_finite
from sb3_barpo.policies.views import is_recurrent, uncompiled

if TYPE_CHECKING:
    from typing_extensions import Self


def check_epsilon(epsilon: float) -> float:
    """
    :return: The strength as a float.
    :raises ValueError: if it is negative, NaN, infinite, or no number.
    """
    if not isinstance(epsilon, int | float | np.integer | np.floating) or not 0 <= epsilon < math.inf:
        raise ValueError(
            f"epsilon must be a finite number, at least 0, but it is {epsilon!r}. It is the largest change of an "
            "observation, in units of what the policy sees; 0.075 is usual for Hopper."
        )
    return float(epsilon)


class Attack(ABC):
    """
    Perturbs what a policy sees. State, reward and dynamics of the environment stay as they are.

    :param model: The victim, any SB3 on-policy agent, sb3-contrib's ``RecurrentPPO`` among them. It is read, never
        changed.
    :param epsilon: Strength: radius of the ball, in units of what the policy sees (after ``VecNormalize``).
    :raises TypeError: if the model or its observation space is not supported yet.
    :raises ValueError: if ε is negative, NaN or infinite.
    """

    #: Name in tables and on the command line.
    name: ClassVar[str]
    #: Where the perturbations lie.
    ball: Ball = LinfBall()
    #: The victim's policy with its networks read, while it is frozen.
    _frozen: Any = None
    #: What it remembers of the episodes under attack, for a ball with a timing.
    _pace: Pace | None = None
    #: Further arguments with which a search built it, such as JSON can hold.
    settings: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, model: OnPolicyAlgorithm, epsilon: float) -> None:
        require_model(model)
        model = uncompiled(model)
        policy = getattr(model, "policy", None)
        if not isinstance(policy, ActorCriticPolicy):
            raise TypeError(
                "An attack needs an on-policy SB3 agent (PPO, A2C, RecurrentPPO, ARPO, BARPO), "
                f"but got {type(model).__name__} with policy {type(policy).__name__}."
            )
        self.observation_space: Any = check_observation_space(model.observation_space)  # a Box or a Dict
        self.model = model
        self.epsilon = check_epsilon(epsilon)

    def seed(self, seed: int | None) -> None:
        """
        :param seed: Seed of the attack's own randomness; ``None`` draws one from the operating system.
        """
        del seed  # a deterministic attack has no use for it

    def begin(self, episode_starts: np.ndarray) -> None:
        """
        What the wrappers tell an attack before each batch; one that keeps something through an episode resets it there,
        and calls this method too.

        :param episode_starts: In which rows of the next batch an episode starts, shape ``(B,)``.
        """
        if self._pace is not None and self._pace.n_envs == len(episode_starts):
            self._pace.start(episode_starts)

    def victim(self, memory: Memory | None = None) -> Any:
        """
        :param memory: What a recurrent victim remembers.
        :return: The victim's policy as it answers at the present step: a recurrent one with what it remembers then.
        :raises ValueError: if a recurrent victim's memory is missing.
        """
        if not is_recurrent(self.model.policy):
            return self.model.policy if self._frozen is None else self._frozen
        if memory is None:
            raise ValueError(
                f"The victim, {type(self.model).__name__}, has a memory, so what it does depends on what it was shown "
                "before. Attack it through UnderAttack, VecAttackObservation or AttackObservation, which carry its "
                "memory, or pass a Memory to perturb()."
            )
        return memory.policy

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Within, the victim's weights stay as they are: its networks are read once, not at each call."""
        before, self._frozen = self._frozen, mlp.prepared(self.model.policy)
        try:
            yield
        finally:
            self._frozen = before

    def perturb(
        self, observations: Any, bounds: Bounds | DictBounds | None = None, memory: Memory | None = None
    ) -> Any:
        """
        :param observations: Clean observations as the policy sees them: an array of shape ``(B, *obs)``, or arrays by
            key of a ``Dict`` space.
        :param bounds: Limits that the perturbed observations must keep, those of the space for example.
        :param memory: What a recurrent victim remembers. It is not changed: let it advance by what was shown.
        :return: Perturbed observations of the same shapes and types, within ε. Whole numbers, such as pixels, stay
            whole, truth values too, and within their type's range.
        :raises ValueError: if the shape is not that of the space, a value is NaN or infinite, or a recurrent
            victim's memory is missing.
        """
        self.check_batch(observations)
        if self.epsilon == 0:
            return observations
        clean: Any = obs_as_tensor(observations, self.model.device)
        policy = self.victim(memory)
        return self.shown(self._perturb(clean, policy), observations, bounds, policy)

    def shown(
        self, perturbed: Any, observations: Any, bounds: Bounds | DictBounds | None = None, policy: Any = None
    ) -> Any:
        """
        What the victim is shown. With a timing this is a step of the episodes: it is called once for each.

        :param perturbed: What the attack has found, tensors.
        :param observations: The clean observations, arrays.
        :param bounds: Limits to keep.
        :param policy: The victim's policy as it answers to the observations, for a timing with a trigger.
        :return: The perturbed observations within the limits, arrays of the clean ones' types.
        """
        clean: Any = obs_as_tensor(observations, self.model.device)
        pace = self.pace(clean)
        if pace is not None:
            perturbed = pace.slowed(perturbed, clean, self.epsilon)
        if bounds is not None:
            limits: Any = bounds
            perturbed = limits.clip(perturbed, clean)
        if pace is not None:
            perturbed = pace.chosen(perturbed, clean, policy)
        if isinstance(perturbed, Mapping):
            return {key: self._typed(value, observations[key], key) for key, value in perturbed.items()}
        return self._typed(perturbed, observations)

    def pace(self, observations: Any) -> Pace | None:
        """
        :param observations: The present observations, tensors of shape ``(B, *obs)`` or by key.
        :return: What keeps the attack within its timing, ``None`` without one. Where the size of the batch changes,
            an episode starts in all rows.
        """
        if self.ball.timing is None:
            return None
        n_envs = len(next(iter(by_parts(observations).values())))
        if self._pace is None or self._pace.n_envs != n_envs:
            self._pace = Pace(self.ball, n_envs)
        return self._pace

    def reachable(self, observations: Any) -> Ball:
        """
        :param observations: The present observations, tensors of shape ``(B, *obs)`` or by key.
        :return: Where a search of the present step stays: the ball, or the part of it that a limited rate allows.
        """
        pace = self.pace(observations)
        return self.ball if pace is None else pace.reachable(observations)

    def _typed(self, perturbed: th.Tensor, clean: np.ndarray, key: str = "") -> Any:
        values = perturbed.cpu().numpy()
        if values.dtype == clean.dtype:
            return values
        if not np.issubdtype(clean.dtype, np.floating):
            values = clean + self.ball.whole(values - clean, self.epsilon, key)
        return in_type_of(clean, values)

    def check_batch(self, observations: Any) -> None:
        """
        :param observations: Arrays that should be a batch of the space's observations.
        :raises ValueError: if they are not, or a value is NaN or infinite.
        """
        parts, spaces = by_parts(observations), by_parts(self.observation_space)
        if parts.keys() != spaces.keys() or any(
            part.ndim == 0 or part.shape[1:] != spaces[key].shape for key, part in parts.items()
        ):
            expected, got = (
                ", ".join(f"{key} {shape}".strip() for key, shape in shapes)
                for shapes in (
                    [(key, f"(B, *{space.shape})") for key, space in spaces.items()],
                    [(key, part.shape) for key, part in parts.items()],
                )
            )
            raise ValueError(
                f"An attack takes a batch of observations of shape {expected}, but got {got}. Was it built for another "
                "space?"
            )
        if not is_finite(observations):
            raise ValueError(
                "An observation is NaN or infinite, so it cannot be perturbed. Find the environment's fault, "
                "with stable_baselines3's VecCheckNan for example."
            )

    def at(self, epsilon: float) -> "Self":
        """
        :param epsilon: Another strength.
        :return: The same attack at this strength. One that was fitted keeps what it learned at its own strength.
        :raises ValueError: if ε is negative, NaN or infinite.
        """
        other = copy.copy(self)
        other.epsilon = check_epsilon(epsilon)
        other._pace = None
        return other

    @abstractmethod
    def _perturb(self, observations: Any, policy: Any) -> Any:
        """
        :param observations: Clean observations on the model's device, a tensor ``(B, *obs)`` or tensors by key.
        :param policy: The victim's policy as it answers to them, a recurrent one with what it remembers.
        :return: Perturbed observations without gradient, of the same shapes.
        """

    def __repr__(self) -> str:
        return f"{type(self).__name__}(epsilon={self.epsilon})"


class GradientAttack(Attack):
    """
    An attack by an adversary: an objective, a solver and a ball of one's choice.

    :param model: The victim.
    :param epsilon: Strength.
    :param adversary: Who looks for the perturbation. Its objective must do without samples of a rollout.
    :param seed: Seed of the adversary's randomness.
    :raises ValueError: if the ball's scale does not have the observation's shape.

    Example::

        strong = GradientAttack(model, 0.075, Adversary(KL(), PGD(n_steps=50, restarts=5)))
    """

    name = "gradient"

    def __init__(self, model: OnPolicyAlgorithm, epsilon: float, adversary: Adversary, seed: int | None = None) -> None:
        super().__init__(model, epsilon)
        adversary.ball.check(self.observation_space)
        self.adversary = adversary
        self.ball = adversary.ball
        self.seed(seed)

    def seed(self, seed: int | None) -> None:
        self.adversary.seed(seed)

    def _perturb(self, observations: Any, policy: Any) -> Any:
        if self.ball.timing is None:
            return self.adversary.perturb(policy, observations, self.epsilon)
        adversary = copy.copy(self.adversary)  # it shares its random numbers
        adversary.ball = self.reachable(observations)
        return adversary.perturb(policy, observations, self.epsilon)
