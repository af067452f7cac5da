"""What every attack is: a model to examine, a strength, and a way to perturb a batch of observations."""

import copy
import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_barpo.adversary import Adversary, Bounds, check_observation_space

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

    :param model: The victim, any SB3 on-policy agent with a feed-forward policy. It is read, never changed.
    :param epsilon: Strength: radius of the ball, in units of what the policy sees (after ``VecNormalize``).
    :raises TypeError: if the model or its observation space is not supported yet.
    :raises ValueError: if ε is negative, NaN or infinite.
    """

    #: Name in tables and on the command line.
    name: ClassVar[str]

    def __init__(self, model: OnPolicyAlgorithm, epsilon: float) -> None:
        policy = getattr(model, "policy", None)
        if not isinstance(policy, ActorCriticPolicy) or hasattr(policy, "lstm_actor"):
            raise TypeError(
                "An attack needs an on-policy SB3 agent with a feed-forward policy (PPO, A2C, ARPO, BARPO), "
                f"but got {type(model).__name__} with policy {type(policy).__name__}."
            )
        self.observation_space = check_observation_space(model.observation_space)
        self.model = model
        self.epsilon = check_epsilon(epsilon)

    def seed(self, seed: int | None) -> None:
        """
        :param seed: Seed of the attack's own randomness; ``None`` draws one from the operating system.
        """
        del seed  # a deterministic attack has no use for it

    def perturb(self, observations: np.ndarray, bounds: Bounds | None = None) -> np.ndarray:
        """
        :param observations: Clean observations as the policy sees them, shape ``(B, *obs)``.
        :param bounds: Limits that the perturbed observations must keep, those of the space for example.
        :return: Perturbed observations of the same shape and type, within ε.
        :raises ValueError: if the shape is not that of the space, or a value is NaN or infinite.
        """
        if observations.ndim == 0 or observations.shape[1:] != self.observation_space.shape:
            raise ValueError(
                f"An attack takes a batch of observations of shape (B, *{self.observation_space.shape}), "
                f"but got {observations.shape}. Was it built for another space?"
            )
        if not np.isfinite(observations).all():
            raise ValueError(
                "An observation is NaN or infinite, so no ball can be laid around it. Find the environment's fault, "
                "with stable_baselines3's VecCheckNan for example."
            )
        if self.epsilon == 0:
            return observations
        clean = th.as_tensor(observations, device=self.model.device)
        perturbed = self._perturb(clean)
        if bounds is not None:
            perturbed = bounds.clip(perturbed, clean)
        return perturbed.cpu().numpy().astype(observations.dtype, copy=False)

    def at(self, epsilon: float) -> "Self":
        """
        :param epsilon: Another strength.
        :return: The same attack at this strength. One that was fitted keeps what it learned at its own strength.
        :raises ValueError: if ε is negative, NaN or infinite.
        """
        other = copy.copy(self)
        other.epsilon = check_epsilon(epsilon)
        return other

    @abstractmethod
    def _perturb(self, observations: th.Tensor) -> th.Tensor:
        """
        :param observations: Clean observations on the model's device, shape ``(B, *obs)``.
        :return: Perturbed observations without gradient, of the same shape.
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
        self.seed(seed)

    def seed(self, seed: int | None) -> None:
        self.adversary.seed(seed)

    def _perturb(self, observations: th.Tensor) -> th.Tensor:
        return self.adversary.perturb(self.model.policy, observations, self.epsilon)
