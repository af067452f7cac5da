"""
Objectives: what an adversary raises, one value per sample.

An objective is prepared on a minibatch, where it computes once what does not depend on the perturbation, and gives the
function that a solver climbs. It asks the policy only for its action distribution and its value, so whatever SB3
policy can answer can be attacked.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch as th

from sb3_barpo.adversary.goals import ClosedForm, Goal, Samples, WeightedSum
from sb3_barpo.adversary.q_network import QNetwork
from sb3_barpo.policies import mlp
from sb3_barpo.policies.evaluate import Policy, action_distributions, kl_divergence, policy_output, small_kl_divergence
from sb3_barpo.policies.networks import Network


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


class Objective(ABC):
    """What an adversary raises."""

    #: The gradient vanishes at the clean observation, so a solver that starts there would not move.
    stationary_at_clean: bool = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """What is known of an objective's gain is not known of a child's with a goal of its own."""
        super().__init_subclass__(**kwargs)
        if "prepare" in cls.__dict__ and "gain" not in cls.__dict__:
            cls.gain = Objective.gain  # type: ignore[method-assign]

    @abstractmethod
    def prepare(self, policy: Policy, observations: th.Tensor, samples: Samples | None = None) -> Goal:
        """
        :param policy: The policy under attack; its parameters are never changed and get no gradient.
        :param observations: Clean observations, shape ``(B, *obs)``.
        :param samples: The minibatch to which the observations belong, if there is one.
        :return: The function that a solver climbs.
        :raises ValueError: if the objective needs samples and there are none.
        """

    def gain(self, log_prob: th.Tensor, kl: th.Tensor, samples: Samples) -> th.Tensor | None:
        """
        The objective at the perturbed minus at the clean observations, if it is known without asking the policy again.

        :param log_prob: Log-probabilities of the samples' actions, clean and perturbed, shape ``(2, B)``.
        :param kl: ``D_KL(π(·|s) ‖ π(·|s'))``, shape ``(B,)``.
        :param samples: The minibatch.
        :return: Shape ``(B,)``, or ``None`` if these do not tell.
        """
        del log_prob, kl, samples
        return None

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class KL(Objective):
    """
    ``D_KL(π(·|s) ‖ π(·|s'))``: how far the action distribution moves. The inner objective of BARPO (Li et al., ICLR
    2026, section 4) and of SA-PPO, and the MAD attack (both Zhang et al., NeurIPS 2020).
    """

    stationary_at_clean = True

    def gain(self, log_prob: th.Tensor, kl: th.Tensor, samples: Samples) -> th.Tensor | None:
        return kl

    def prepare(self, policy: Policy, observations: th.Tensor, samples: Samples | None = None) -> Goal:
        clean: list[th.distributions.Distribution] = []  # a search by closed form never asks for it

        def goal(perturbed: th.Tensor) -> th.Tensor:
            if not clean:
                with th.no_grad():
                    clean.extend(action_distributions(policy, observations))
            # Where nobody climbs, values are compared, however small. Observations by key do not tell.
            climbs = getattr(perturbed, "requires_grad", False)
            divergence = kl_divergence if climbs else small_kl_divergence
            return divergence(clean, action_distributions(policy, perturbed))

        actor = mlp.network(policy, "actor")
        if actor is None:
            return goal
        clean_output = mlp.actor_output(policy, actor, observations)
        if (gaussian := mlp.gaussian_of(policy)) is not None:
            # Half the squared length of (μ(s') - μ(s)) / σ: the shift itself, pulled by 1 / σ².
            return ClosedForm(goal, actor.minus(clean_output, gaussian.precision), lambda shift: shift)
        probabilities = clean_output.softmax(1)
        return ClosedForm(goal, actor, lambda logits: logits.softmax(1) - probabilities)


class Surrogate(Objective):
    """
    ``-surr(s')``: PPO's own loss at the perturbed observation, with the clean old log-probability in the denominator.
    The inner objective of ARPO (Li et al., ICLR 2026) and of CAR-PPO (arXiv 2502.16734). A sample whose ratio is
    clipped has no gradient and moves only by the solver's start and noise.
    """

    def gain(self, log_prob: th.Tensor, kl: th.Tensor, samples: Samples) -> th.Tensor | None:
        surrogate = clipped_surrogate(log_prob, samples)
        return surrogate[0] - surrogate[1]

    def prepare(self, policy: Policy, observations: th.Tensor, samples: Samples | None = None) -> Goal:
        if samples is None:
            raise ValueError(
                "The Surrogate objective needs the actions and advantages of a rollout, but got samples=None. "
                "Outside training use KL() or Value()."
            )

        def goal(perturbed: th.Tensor) -> th.Tensor:
            return -clipped_surrogate(policy.get_distribution(perturbed).log_prob(samples.actions), samples)

        return _surrogate_in_closed_form(goal, policy, samples)


def _surrogate_in_closed_form(goal: Goal, policy: Policy, samples: Samples) -> Goal:
    """The same goal with its gradient, if the policy is recognised."""
    actor = mlp.network(policy, "actor")
    if actor is None:
        return goal
    actions, old_log_prob, advantages, limit = samples.actions, samples.old_log_prob, samples.advantages, samples.ends()

    def by_log_prob(log_ratio: th.Tensor) -> th.Tensor:
        unclipped = log_ratio.exp_().mul_(advantages)
        return unclipped.masked_fill_(unclipped > limit, 0).unsqueeze(1)

    if (gaussian := mlp.gaussian_of(policy)) is not None:
        # log π(a|s') is minus half the squared length of (μ(s') - a) / σ, and a constant.
        pull = gaussian.precision * -0.5
        constant = (old_log_prob + gaussian.normaliser).neg_().to(pull.dtype)

        def of_mean(distance: th.Tensor) -> th.Tensor:
            return by_log_prob(th.addmv(constant, distance.square(), pull)) * distance

        return ClosedForm(goal, actor.minus(actions, gaussian.precision), of_mean)

    def categorical(logits: th.Tensor) -> th.Tensor:
        log_probs = logits.log_softmax(1)
        log_ratio = log_probs.gather(1, actions[:, None]).squeeze(1) - old_log_prob
        return by_log_prob(log_ratio) * (log_probs.exp() - taken)

    taken = th.nn.functional.one_hot(actions, actor.layers[-1].weight.shape[1])
    return ClosedForm(goal, actor, categorical)


class Value(Objective):
    """``-V(s')``: the perturbed observation that looks worst to the critic (Pattanaik et al., AAMAS 2018)."""

    def prepare(self, policy: Policy, observations: th.Tensor, samples: Samples | None = None) -> Goal:
        def goal(perturbed: th.Tensor) -> th.Tensor:
            return -policy.predict_values(perturbed).flatten()

        critic = mlp.network(policy, "critic")
        return goal if critic is None else ClosedForm(goal, critic, lambda output: -th.ones_like(output))


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

            return _towards_in_closed_form(expected, policy, -values)

        def goal(perturbed: th.Tensor) -> th.Tensor:
            return -self.q.forward(observations, policy_output(policy, perturbed))

        actor = mlp.network(policy, "actor")
        if actor is None or not isinstance(self.q, QNetwork) or mlp.gaussian_of(policy) is None:
            return goal
        judge = Network.of([*self.q.net])
        seen = observations.flatten(1).float()

        def slope(mean: th.Tensor) -> th.Tensor:
            outputs = judge.forward(th.cat([seen, mean], dim=1))
            return -judge.to_input(outputs, th.ones_like(outputs[-1]))[:, seen.shape[1] :]

        return ClosedForm(goal, actor, slope)


class Towards(Objective):
    """
    ``⟨m(s') - m(s), d⟩ / ‖d‖`` with m the mean action, or the probabilities of the actions: how far the policy moves
    in a direction. PA-AD's actor (Sun et al., ICLR 2022) raises it; the implementation notes tell why in this form.

    :param directions: The direction d of each row, shape ``(B, outputs)``.
    """

    def __init__(self, directions: th.Tensor) -> None:
        self.directions = directions

    def prepare(self, policy: Policy, observations: th.Tensor, samples: Samples | None = None) -> Goal:
        if len(self.directions) != len(observations):
            raise ValueError(
                f"The Towards objective needs one direction for each of the {len(observations)} observations, but its "
                f"directions have the shape {tuple(self.directions.shape)}. Make an objective for each batch, with "
                "directions of shape (B, outputs)."
            )
        with th.no_grad():
            clean = policy_output(policy, observations)
        direction = th.nn.functional.normalize(self.directions.flatten(1).to(clean), dim=1)

        def goal(perturbed: th.Tensor) -> th.Tensor:
            return ((policy_output(policy, perturbed) - clean) * direction).sum(1)

        return _towards_in_closed_form(goal, policy, direction)


def _towards_in_closed_form(goal: Goal, policy: Policy, direction: th.Tensor) -> Goal:
    """The goal ``⟨m(s') - m(s), direction⟩`` with its gradient, if the policy is recognised."""
    actor = mlp.network(policy, "actor")
    if actor is None:
        return goal
    direction = direction.float()  # as the network is, whatever the type of the observations
    if mlp.gaussian_of(policy) is not None:
        return ClosedForm(goal, actor, lambda _: direction)

    def slope(logits: th.Tensor) -> th.Tensor:
        probabilities = logits.softmax(1)
        return probabilities * (direction - (probabilities * direction).sum(1, keepdim=True))

    return ClosedForm(goal, actor, slope)


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

        known = [(weight, part) for weight, part in goals if isinstance(part, ClosedForm)]
        return WeightedSum(goal, known) if len(known) == len(goals) else goal

    def __repr__(self) -> str:
        return f"Weighted({self.parts!r})"
