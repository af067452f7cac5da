"""
Gradients in closed form, for the policies that SB3 users train most: MLPs on flat observations.

A ten-step search by autograd costs several times SB3's own update; plain matrix products cost a part of that.
Objectives pass their goals through this module; for a policy that it does not serve it gives them back as they are.
Both ways give the same gradient up to rounding, so nothing else needs to know.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch as th
from stable_baselines3.common.distributions import CategoricalDistribution, DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import nn

from sb3_barpo.adversary.goals import Goal, Samples
from sb3_barpo.adversary.q_network import QNetwork


class Layer(NamedTuple):
    """
    One linear layer and what follows it.

    :param weight: Shape ``(out, in)``.
    :param bias: Shape ``(out,)``.
    :param activation: ``nn.Tanh``, ``nn.ReLU``, or ``None`` for the last layer.
    """

    weight: th.Tensor
    bias: th.Tensor
    activation: type[nn.Module] | None


class ClosedForm:
    """
    A goal whose gradient is known.

    :param goal: The goal itself.
    :param layers: The network on which it depends.
    :param slope: Maps the network's output ``(B, out)`` to the gradient of the goal with respect to it ``(B, out)``.
    """

    def __init__(
        self,
        goal: Goal,
        layers: list[Layer],
        slope: Callable[[th.Tensor], th.Tensor],
    ) -> None:
        self.goal = goal
        self.layers = layers
        self.slope = slope

    def __call__(self, perturbed: th.Tensor) -> th.Tensor:
        return self.goal(perturbed)

    def gradient(self, perturbed: th.Tensor) -> th.Tensor:
        """
        :param perturbed: Perturbed observations, shape ``(B, *obs)``.
        :return: Gradient of the goal's sum, of the same shape and type.
        """
        with th.no_grad():
            outputs = _forward(self.layers, perturbed)
            gradient = _backward(self.layers, outputs, self.slope(outputs[-1]))
            return gradient.reshape(perturbed.shape).to(perturbed.dtype)


def network(policy: object, part: Literal["actor", "critic"]) -> list[Layer] | None:
    """
    :param policy: A policy.
    :param part: Which of its networks.
    :return: The layers from the observation to the mean action, the logits or the value, or ``None`` if anything
        between the two is not what SB3 builds by default: a linear layer, tanh or ReLU.
    """
    if not isinstance(policy, ActorCriticPolicy):
        return None
    asked = ("get_distribution", "predict_values", "extract_features", "_get_action_dist_from_latent")
    if any(getattr(type(policy), name) is not getattr(ActorCriticPolicy, name) for name in asked):
        return None
    if any(module._forward_hooks or module._forward_pre_hooks for module in policy.modules()):
        return None
    extractor = policy.pi_features_extractor if part == "actor" else policy.vf_features_extractor
    if type(extractor) is not FlattenExtractor or type(policy.mlp_extractor) is not MlpExtractor:
        return None
    if part == "actor" and type(policy.action_dist) not in (DiagGaussianDistribution, CategoricalDistribution):
        return None
    body, head = (
        (policy.mlp_extractor.policy_net, policy.action_net)
        if part == "actor"
        else (policy.mlp_extractor.value_net, policy.value_net)
    )
    return _layers([*body, head])


def _layers(modules: list[nn.Module]) -> list[Layer] | None:
    """Linear layers with activations between them, or ``None`` if there is anything else."""
    linears = [linear for linear in modules[::2] if type(linear) is nn.Linear]
    activations = [type(activation) for activation in modules[1::2] if type(activation) in (nn.Tanh, nn.ReLU)]
    if len(linears) + len(activations) != len(modules):
        return None
    return [
        Layer(linear.weight.detach(), linear.bias.detach(), activation)
        for linear, activation in zip(linears, [*activations, None], strict=True)
    ]


def _forward(layers: list[Layer], observations: th.Tensor) -> list[th.Tensor]:
    """The flat input and the output of each layer, the last one's last."""
    outputs = [observations.flatten(1).float()]
    for weight, bias, activation in layers:
        output = th.addmm(bias, outputs[-1], weight.t())
        outputs.append(output.tanh_() if activation is nn.Tanh else output.relu_() if activation else output)
    return outputs


def _backward(layers: list[Layer], outputs: list[th.Tensor], gradient: th.Tensor) -> th.Tensor:
    """From the gradient with respect to the last of the outputs to that with respect to the first, the flat input."""
    for (weight, _, activation), output in zip(reversed(layers), reversed(outputs), strict=False):
        if activation is nn.Tanh:
            gradient = th.ops.aten.tanh_backward(gradient, output)
        elif activation is nn.ReLU:
            gradient = th.ops.aten.threshold_backward(gradient, output, 0)
        gradient = gradient @ weight
    return gradient


def kl(goal: Goal, policy: object, observations: th.Tensor) -> Goal:
    """
    :param goal: ``KL(π(·|s) ‖ π(·|s'))`` as a function of ``s'``.
    :param policy: The policy π.
    :param observations: The clean observations ``s``, shape ``(B, *obs)``.
    :return: The same goal, with its gradient in closed form if the policy allows it.
    """
    layers = network(policy, "actor")
    if layers is None:
        return goal
    clean = _forward(layers, observations)[-1]
    if (variance := _variance(policy)) is not None:
        return ClosedForm(goal, layers, lambda mean: (mean - clean) / variance)
    probabilities = clean.softmax(1)
    return ClosedForm(goal, layers, lambda logits: logits.softmax(1) - probabilities)


def surrogate(goal: Goal, policy: object, samples: Samples) -> Goal:
    """
    :param goal: ``-surr(s')``.
    :param policy: The policy.
    :param samples: The minibatch.
    :return: The same goal, with its gradient in closed form if the policy allows it.
    """
    layers = network(policy, "actor")
    if layers is None:
        return goal
    actions, old_log_prob, advantages, clip_range = samples
    variance = _variance(policy)

    def slope(output: th.Tensor) -> th.Tensor:
        if variance is not None:
            towards = (actions - output) / variance
            normaliser = (2 * math.pi * variance).log().sum()
            log_prob = -((actions - output) * towards).sum(1).add(normaliser) / 2
        else:
            log_probs = output.log_softmax(1)
            towards = nn.functional.one_hot(actions, output.shape[1]) - log_probs.exp()
            log_prob = log_probs.gather(1, actions[:, None]).squeeze(1)
        ratio = (log_prob - old_log_prob).exp()
        unclipped = advantages * ratio
        moves = unclipped <= advantages * ratio.clamp(1 - clip_range, 1 + clip_range)
        return -(unclipped * moves)[:, None] * towards

    return ClosedForm(goal, layers, slope)


def value(goal: Goal, policy: object) -> Goal:
    """
    :param goal: ``-V(s')``.
    :param policy: The policy with the critic V.
    :return: The same goal, with its gradient in closed form if the policy allows it.
    """
    layers = network(policy, "critic")
    return goal if layers is None else ClosedForm(goal, layers, lambda output: -th.ones_like(output))


def towards(goal: Goal, policy: object, direction: th.Tensor) -> Goal:
    """
    :param goal: ``⟨m(s') - m(s), direction⟩``, with m the mean action or the probabilities of the actions.
    :param policy: The policy.
    :param direction: Shape ``(B, outputs)``.
    :return: The same goal, with its gradient in closed form if the policy allows it.
    """
    layers = network(policy, "actor")
    if layers is None:
        return goal
    direction = direction.float()  # as the network is, whatever the type of the observations
    if _variance(policy) is not None:
        return ClosedForm(goal, layers, lambda _: direction)

    def slope(logits: th.Tensor) -> th.Tensor:
        probabilities = logits.softmax(1)
        return probabilities * (direction - (probabilities * direction).sum(1, keepdim=True))

    return ClosedForm(goal, layers, slope)


def action_value(goal: Goal, policy: object, observations: th.Tensor, q: object) -> Goal:
    """
    :param goal: ``-Q(s, m(s'))`` for continuous actions, with m the mean action.
    :param policy: The policy.
    :param observations: The clean observations ``s``, shape ``(B, *obs)``.
    :param q: The action value Q.
    :return: The same goal, with its gradient in closed form if policy and Q allow it.
    """
    layers = network(policy, "actor")
    q_layers = _layers([*q.net]) if isinstance(q, QNetwork) else None
    if layers is None or q_layers is None or _variance(policy) is None:
        return goal
    seen = observations.flatten(1).float()

    def slope(mean: th.Tensor) -> th.Tensor:
        outputs = _forward(q_layers, th.cat([seen, mean], dim=1))
        return -_backward(q_layers, outputs, th.ones_like(outputs[-1]))[:, seen.shape[1] :]

    return ClosedForm(goal, layers, slope)


class _WeightedSum(ClosedForm):
    """Of goals whose gradients are known."""

    def __init__(self, goal: Goal, parts: list[tuple[float, ClosedForm]]) -> None:
        self.goal = goal
        self.parts = parts

    def gradient(self, perturbed: th.Tensor) -> th.Tensor:
        return th.stack([weight * part.gradient(perturbed) for weight, part in self.parts]).sum(0)


def weighted(goal: Goal, parts: list[tuple[float, Goal]]) -> Goal:
    """
    :param goal: The weighted sum of the parts.
    :param parts: Weights and goals.
    :return: The same goal, with its gradient in closed form if those of all parts are.
    """
    known = [(weight, part) for weight, part in parts if isinstance(part, ClosedForm)]
    return _WeightedSum(goal, known) if len(known) == len(parts) else goal


def _variance(policy: Any) -> th.Tensor | None:
    """The variance of each action of a Gaussian policy, shape ``(actions,)``; ``None`` for a categorical one."""
    if type(policy.action_dist) is CategoricalDistribution:
        return None
    log_std: th.Tensor = policy.log_std.detach()
    return (2 * log_std).exp()
