"""Attacks that search without noise: the largest change of the policy, and pushes of its action to the limits."""

import copy
from typing import Any

import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_barpo.adversary import KL, ActionValue, Adversary, AutoPGD, Ball, Limit, TowardsWorst, limits_of
from sb3_barpo.attacks.attack import GradientAttack
from sb3_barpo.attacks.sarsa import RobustSarsa


class MaxKL(GradientAttack):
    """
    MAD's objective, the KL divergence, by :class:`sb3_barpo.adversary.AutoPGD`: no noise, several starts, steps that
    adapt. MAD's noise outweighs the gradient where a policy hardly reacts, so that it may move it less than a random
    draw does; this never does so, up to the number of its draws.

    :param model: The victim.
    :param epsilon: Strength.
    :param n_steps: Steps of each start.
    :param restarts: Number of starts.
    :param ball: :class:`LinfBall` by default.
    :param seed: Seed of the starts.
    """

    name = "max_kl"

    def __init__(
        self,
        model: OnPolicyAlgorithm,
        epsilon: float,
        n_steps: int = 10,
        restarts: int = 2,
        ball: Ball | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(model, epsilon, Adversary(KL(), AutoPGD(n_steps, restarts), ball), seed)


class Push(GradientAttack):
    """
    Pushes the action to one of its limits, the same one at every step: what harms a victim is often not the largest
    change, but a steady one to the wrong side. For a ``Discrete`` action a limit is one of the choices.

    :param model: The victim.
    :param epsilon: Strength.
    :param limit: Which of :func:`sb3_barpo.adversary.limits_of` the action space. Evaluations that are given the name
        ``"push"`` look for the one that harms most.
    :param n_steps: Number of steps.
    :param ball: :class:`LinfBall` by default.
    :param seed: Seed of the starts.
    :raises ValueError: if there is no such limit.
    """

    name = "push"

    def __init__(
        self,
        model: OnPolicyAlgorithm,
        epsilon: float,
        limit: int = 0,
        n_steps: int = 6,
        ball: Ball | None = None,
        seed: int | None = None,
    ) -> None:
        limits = limits_of(model.action_space)
        if not 0 <= limit < len(limits):
            raise ValueError(f"The limits of {model.action_space} are 0 to {len(limits) - 1}, but limit={limit!r}.")
        super().__init__(model, epsilon, Adversary(Limit(*limits[limit]), AutoPGD(n_steps, restarts=1), ball), seed)
        self.settings = {"limit": limit}

    @classmethod
    def each(cls, model: OnPolicyAlgorithm, epsilon: float, **kwargs: Any) -> "list[Push]":
        """
        :param model: The victim.
        :param epsilon: Strength.
        :param kwargs: Further arguments, the same for all.
        :return: A push to each limit of the actions.
        """
        return [cls(model, epsilon, limit, **kwargs) for limit in range(len(limits_of(model.action_space)))]


class WorstQ(RobustSarsa):
    """
    Pushes the action, at each step, towards the worst of all by Robust Sarsa's action value, and goes on from there to
    the observation whose action is worth least. Take a fitted Q over by :meth:`from_sarsa`, or fit its own.

    :param model: The victim.
    :param epsilon: Strength.
    :param kwargs: See :class:`RobustSarsa`.
    """

    name = "worst_q"

    def __init__(self, model: OnPolicyAlgorithm, epsilon: float, **kwargs: Any) -> None:
        super().__init__(model, epsilon, **kwargs)
        solver = AutoPGD(max(self.n_steps // 2, 1), restarts=1)
        self.first = Adversary(TowardsWorst(self.q, model.action_space), solver, self.ball)
        self.adversary = Adversary(ActionValue(self.q), solver, self.ball)
        self.seed(self.seed_of_fit)

    def seed(self, seed: int | None) -> None:
        super().seed(seed)
        if hasattr(self, "first"):  # not while the base class is built
            self.first.seed(seed)

    def _perturb(self, observations: Any, policy: Any) -> Any:
        first, then = copy.copy(self.first), copy.copy(self.adversary)  # they share their random numbers
        first.ball = then.ball = self.reachable(observations)
        pushed: th.Tensor = first.search(policy, observations, self.epsilon).delta
        return then.perturb(policy, observations, self.epsilon, start=pushed)
