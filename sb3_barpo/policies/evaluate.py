"""What objectives, losses and attacks ask of a policy: its distributions, its outputs, its evaluation of actions."""

import math
from typing import Any, NamedTuple, Protocol

import torch as th
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_barpo.policies import mlp


class Policy(Protocol):
    """What objectives ask of a policy. SB3's ``ActorCriticPolicy`` fulfils it."""

    training: bool

    def get_distribution(self, obs: th.Tensor) -> Distribution:
        """:return: The action distribution at the observations ``(B, *obs)``."""

    def predict_values(self, obs: th.Tensor) -> th.Tensor:
        """:return: The values of the observations ``(B, *obs)``, shape ``(B, 1)``."""

    def set_training_mode(self, mode: bool) -> None:
        """Switch dropout, batch normalisation and the like."""


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


def small_kl_divergence(p: list[th.distributions.Distribution], q: list[th.distributions.Distribution]) -> th.Tensor:
    """
    The same as :func:`kl_divergence`, at the ends of the numbers. Torch's formula for Gaussians adds the squared shift
    to 1 and takes the 1 away again: of a nearly flat policy nothing would remain. Its formula for choices is infinite
    where a probability falls to 0 in single precision, however small it was: a nearly certain policy that becomes more
    certain would count as moved furthest.
    """
    parts = []
    for p_i, q_i in zip(p, q, strict=True):
        if isinstance(p_i, th.distributions.Normal) and isinstance(q_i, th.distributions.Normal):
            ratio = (p_i.scale / q_i.scale).square()
            shift = ((p_i.loc - q_i.loc) / q_i.scale).square()
            part = (ratio - 1 - ratio.log() + shift) / 2
        elif isinstance(p_i, th.distributions.Categorical) and isinstance(q_i, th.distributions.Categorical):
            part = p_i.probs * (p_i.logits - q_i.logits)
        else:
            part = th.distributions.kl_divergence(p_i, q_i)
        parts.append(part.reshape(len(part), -1).sum(1))
    return th.stack(parts).sum(0)


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


class Evaluated(NamedTuple):
    """
    What a policy says of a minibatch.

    :param values: At the clean observations, shape ``(B, 1)``.
    :param log_prob: Of the actions, at the clean and at the perturbed observations, shape ``(2, B)``.
    :param entropy: At the clean observations, shape ``(B,)``, or ``()`` if it is the same for all; ``None`` where there
        is no closed form.
    """

    values: th.Tensor
    log_prob: th.Tensor
    entropy: th.Tensor | None


def evaluate_actions(policy: ActorCriticPolicy, observations: Any, perturbed: Any, actions: th.Tensor) -> Evaluated:
    """
    ``policy.evaluate_actions`` at the clean, and the log-probabilities at the perturbed observations. For SB3's own
    MLP policies it is one pass over both, without distribution objects.

    :param policy: The policy.
    :param observations: Clean observations, shape ``(B, *obs)``.
    :param perturbed: Perturbed ones, of the same shape.
    :param actions: Shape ``(B, *action)``, or ``(B,)`` and integer for ``Discrete``.
    :return: The evaluation, with gradient.
    """
    if not mlp.is_mlp(policy):
        values, log_prob, entropy = policy.evaluate_actions(observations, actions)
        robust_log_prob = policy.get_distribution(perturbed).log_prob(actions)
        return Evaluated(values, th.stack([log_prob, robust_log_prob]), entropy)
    seen = th.cat([observations, perturbed]).flatten(1).float()
    extractor = policy.mlp_extractor
    output = policy.action_net(extractor.forward_actor(seen)).unflatten(0, (2, -1))
    values = policy.value_net(extractor.forward_critic(seen[: len(observations)]))
    if hasattr(policy, "log_std"):
        normaliser = policy.log_std.sum() + math.log(2 * math.pi) / 2 * output.shape[-1]
        log_prob = ((actions - output) * th.exp(-policy.log_std)).square().sum(-1) / -2 - normaliser
        return Evaluated(values, log_prob, normaliser + output.shape[-1] / 2)
    log_probs = output.log_softmax(-1)
    log_prob = log_probs.gather(-1, actions.expand(2, -1).unsqueeze(-1)).squeeze(-1)
    return Evaluated(values, log_prob, -(log_probs[0].exp() * log_probs[0]).sum(-1))
