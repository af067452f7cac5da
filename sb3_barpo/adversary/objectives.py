"""
Objectives: what an adversary raises, one value per sample.

An objective is prepared on a minibatch, where it computes once what does not depend on the perturbation, and gives the
function that a solver climbs. It asks the policy only for its action distribution and its value, so whatever SB3
policy can answer can be attacked.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import torch as th
from stable_baselines3.common.distributions import Distribution

from sb3_barpo.adversary import closed_form
from sb3_barpo.adversary.goals import Goal, Samples
from sb3_barpo.adversary.q_network import QNetwork


class Policy(Protocol):
    """What objectives ask of a policy. SB3's ``ActorCriticPolicy`` fulfils it."""

    training: bool

    def get_distribution(self, obs: th.Tensor) -> Distribution:
        """:return: The action distribution at the observations ``(B, *obs)``."""

    def predict_values(self, obs: th.Tensor) -> th.Tensor:
        """:return: The values of the observations ``(B, *obs)``, shape ``(B, 1)``."""

    def set_training_mode(self, mode: bool) -> None:
        """Switch dropout, batch normalisation and the like."""


def clipped_surrogate(log_prob: th.Tensor, samples: Samples) -> th.Tensor:
    """
    PPO's clipped surrogate, in the order of operations of SB3's PPO, so that its mean is the same bit for bit.

    :param log_prob: Log-probabilities of the samples' actions under the present policy, shape ``(B,)``.
    :param samples: The minibatch.
    :return: ``min(r A, clip(r, 1 - c, 1 + c) A)``, shape ``(B,)``.
    """
    ratio = th.exp(log_prob - samples.old_log_prob)
    clipped = th.clamp(ratio, 1 - samples.clip_range, 1 + samples.clip_range)
    return th.min(samples.advantages * ratio, samples.advantages * clipped)


def action_distributions(policy: Policy, observations: th.Tensor) -> list[th.distributions.Distribution]:
    """
    The torch distributions behind SB3's wrapper. The wrapper itself cannot be kept: a policy has one and refills it.

    :param policy: The policy.
    :param observations: Shape ``(B, *obs)``.
    :return: One distribution, or one per action for ``MultiDiscrete``.
    """
    distribution = policy.get_distribution(observations).distribution
    return distribution if isinstance(distribution, list) else [distribution]


def kl_divergence(p: list[th.distributions.Distribution], q: list[th.distributions.Distribution]) -> th.Tensor:
    """
    :param p: Distributions from :func:`action_distributions`.
    :param q: The same at other observations.
    :return: Exact ``D_KL(p ‖ q)`` of the joint actions, shape ``(B,)``. A tanh squash leaves it as it is.
    """
    parts = [th.distributions.kl_divergence(p_i, q_i) for p_i, q_i in zip(p, q, strict=True)]
    return th.stack([part.reshape(len(part), -1).sum(1) for part in parts]).sum(0)


def policy_output(policy: Policy, observations: th.Tensor) -> th.Tensor:
    """
    What an adversary pulls at, as one vector.

    :param policy: The policy.
    :param observations: Shape ``(B, *obs)``.
    :return: The mean of a Gaussian (before a squash), the probabilities of everything else, shape ``(B, outputs)``.
    """
    parts: list[th.Tensor] = [
        distribution.probs
        if isinstance(distribution, th.distributions.Categorical | th.distributions.Bernoulli)
        else distribution.mean
        for distribution in action_distributions(policy, observations)
    ]
    return th.cat([part.flatten(1) for part in parts], dim=1)


class Objective(ABC):
    """What an adversary raises."""

    #: The gradient vanishes at the clean observation, so a solver that starts there would not move.
    stationary_at_clean: bool = False

    @abstractmethod
    def prepare(self, policy: Policy, observations: th.Tensor, samples: Samples | None = None) -> Goal:
        """
        :param policy: The policy under attack; its parameters are never changed and get no gradient.
        :param observations: Clean observations, shape ``(B, *obs)``.
        :param samples: The minibatch to which the observations belong, if there is one.
        :return: The function that a solver climbs.
        :raises ValueError: if the objective needs samples and there are none.
        """

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class KL(Objective):
    """
    ``D_KL(π(·|s) ‖ π(·|s'))``: how far the action distribution moves. The inner objective of BARPO (Li et al., ICLR
    2026, section 4) and of SA-PPO, and the MAD attack (both Zhang et al., NeurIPS 2020).
    """

    stationary_at_clean = True

    def prepare(self, policy: Policy, observations: th.Tensor, samples: Samples | None = None) -> Goal:
        @functools.cache  # a search by closed form never asks for it
        def clean() -> list[th.distributions.Distribution]:
            with th.no_grad():
                return action_distributions(policy, observations)

        def goal(perturbed: th.Tensor) -> th.Tensor:
            return kl_divergence(clean(), action_distributions(policy, perturbed))

        return closed_form.kl(goal, policy, observations)


class Surrogate(Objective):
    """
    ``-surr(s')``: PPO's own loss at the perturbed observation, with the clean old log-probability in the denominator.
    The inner objective of ARPO (Li et al., ICLR 2026) and of CAR-PPO (arXiv 2502.16734). A sample whose ratio is
    clipped has no gradient and moves only by the solver's start and noise.
    """

    def prepare(self, policy: Policy, observations: th.Tensor, samples: Samples | None = None) -> Goal:
        if samples is None:
            raise ValueError(
                "The Surrogate objective needs the actions and advantages of a rollout, but got samples=None. "
                "Outside training use KL() or Value()."
            )

        def goal(perturbed: th.Tensor) -> th.Tensor:
            return -clipped_surrogate(policy.get_distribution(perturbed).log_prob(samples.actions), samples)

        return closed_form.surrogate(goal, policy, samples)


class Value(Objective):
    """``-V(s')``: the perturbed observation that looks worst to the critic (Pattanaik et al., AAMAS 2018)."""

    def prepare(self, policy: Policy, observations: th.Tensor, samples: Samples | None = None) -> Goal:
        def goal(perturbed: th.Tensor) -> th.Tensor:
            return -policy.predict_values(perturbed).flatten()

        return closed_form.value(goal, policy)


class ActionValue(Objective):
    """
    ``-Q(s, μ(s'))``: the victim does what is worth least where it truly is (Robust Sarsa, Zhang et al., NeurIPS 2020).
    For ``Discrete`` actions, the expectation ``-Σ π(a|s') Q(s, a)``.

    :param q: The action value of the victim.
    """

    def __init__(self, q: QNetwork) -> None:
        self.q = q

    def prepare(self, policy: Policy, observations: th.Tensor, samples: Samples | None = None) -> Goal:
        if self.q.n_actions is not None:
            with th.no_grad():
                values = self.q.of_each_action(observations)

            def expected(perturbed: th.Tensor) -> th.Tensor:
                return -(policy_output(policy, perturbed) * values).sum(1)

            return closed_form.towards(expected, policy, -values)

        def goal(perturbed: th.Tensor) -> th.Tensor:
            return -self.q.forward(observations, policy_output(policy, perturbed))

        return closed_form.action_value(goal, policy, observations, self.q)


class Towards(Objective):
    """
    ``⟨m(s') - m(s), d⟩ / ‖d‖`` with m the mean action, or the probabilities of the actions: how far the policy moves
    in a direction. PA-AD's actor (Sun et al., ICLR 2022) raises it; the implementation notes tell why in this form.

    :param directions: The direction d of each row, shape ``(B, outputs)``; set anew for each batch.
    """

    def __init__(self, directions: th.Tensor | None = None) -> None:
        self.directions = directions

    def prepare(self, policy: Policy, observations: th.Tensor, samples: Samples | None = None) -> Goal:
        if self.directions is None or len(self.directions) != len(observations):
            got = None if self.directions is None else tuple(self.directions.shape)
            raise ValueError(
                f"The Towards objective needs one direction for each of the {len(observations)} observations, but its "
                f"directions are {got}. Set them to a tensor of shape (B, outputs) before each search."
            )
        with th.no_grad():
            clean = policy_output(policy, observations)
        direction = th.nn.functional.normalize(self.directions.flatten(1).to(clean), dim=1)

        def goal(perturbed: th.Tensor) -> th.Tensor:
            return ((policy_output(policy, perturbed) - clean) * direction).sum(1)

        return closed_form.towards(goal, policy, direction)


class Weighted(Objective):
    """
    A weighted sum of objectives.

    :param parts: Weights and objectives.
    """

    def __init__(self, parts: Sequence[tuple[float, Objective]]) -> None:
        self.parts = list(parts)

    @property
    def stationary_at_clean(self) -> bool:  # type: ignore[override]
        """Whether no part that counts has a gradient at the clean observation."""
        return all(part.stationary_at_clean for weight, part in self.parts if weight != 0)

    def prepare(self, policy: Policy, observations: th.Tensor, samples: Samples | None = None) -> Goal:
        goals = [(weight, part.prepare(policy, observations, samples)) for weight, part in self.parts]

        def goal(perturbed: th.Tensor) -> th.Tensor:
            return th.stack([weight * part(perturbed) for weight, part in goals]).sum(0)

        return closed_form.weighted(goal, goals)

    def __repr__(self) -> str:
        return f"Weighted({self.parts!r})"
