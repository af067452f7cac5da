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
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import nn

from sb3_barpo.adversary.goals import Goal, Samples
from sb3_barpo.adversary.q_network import QNetwork

#: Matrix products with fewer columns than this are slow on CPUs; zeros that fill them up cost less than they save.
_MIN_COLUMNS = 16


class Layer(NamedTuple):
    """
    One linear layer and what follows it.

    :param weight: Shape ``(in, out)``, as the forward pass multiplies.
    :param bias: Shape ``(out,)``, or ``(B, out)`` for one of each row.
    :param back: Shape ``(out, in)``, as the backward pass multiplies; more columns are zero.
    :param activation: ``nn.Tanh``, ``nn.ReLU``, or ``None`` for the last layer.
    """

    weight: th.Tensor
    bias: th.Tensor
    back: th.Tensor
    activation: type[nn.Module] | None


class Network:
    """
    Linear layers with activations between them, from the observation to the mean action, the logits or a value.

    A hyperbolic tangent is computed as ``tanh(x) = 2 σ(2x) - 1``, with the factors drawn into the weights on both sides
    of it: PyTorch's logistic function σ takes a third of the time of its tanh.

    :param layers: The layers.
    """

    def __init__(self, layers: list[Layer]) -> None:
        self.layers = layers

    @classmethod
    def of(cls, modules: list[nn.Module]) -> "Network":
        """
        :param modules: Linear layers, each but the last followed by a tanh or a ReLU.
        :return: The network with the present weights.
        """
        layers: list[Layer] = []
        before: type[nn.Module] | None = None
        for linear, activation in zip(modules[::2], [*map(type, modules[1::2]), None], strict=True):
            assert isinstance(linear, nn.Linear)  # as `modules` has found; for the types' sake
            weight, bias = linear.weight.detach(), linear.bias.detach()
            if before is nn.Tanh:
                bias = bias - weight.sum(1)
            if activation is nn.Tanh:
                bias = 2 * bias
            if (factor := (1 + (before is nn.Tanh)) * (1 + (activation is nn.Tanh))) > 1:
                weight = factor * weight
            back = weight
            if not layers and (missing := _MIN_COLUMNS - weight.shape[1]) > 0:
                back = nn.functional.pad(weight, (0, missing))
            layers.append(Layer(weight.t(), bias, back, activation))
            before = activation
        return cls(layers)

    def scaled(self, scale: th.Tensor) -> "Network":
        """
        :param scale: Shape ``(out,)``.
        :return: The network with its outputs times ``scale``.
        """
        *body, (weight, bias, _, activation) = self.layers
        weight = weight * scale
        return Network([*body, Layer(weight, bias * scale, weight.t(), activation)])

    def plus(self, shift: th.Tensor) -> "Network":
        """
        :param shift: Shape ``(B, out)``.
        :return: The network with its outputs plus ``shift``.
        """
        *body, last = self.layers
        return Network([*body, last._replace(bias=last.bias + shift)])

    def __call__(self, observations: th.Tensor) -> th.Tensor:
        """
        :param observations: Shape ``(B, *obs)``.
        :return: Outputs of the last layer, shape ``(B, out)``.
        """
        return self.forward(observations)[-1]

    def forward(self, observations: th.Tensor) -> list[th.Tensor]:
        """:return: The flat input, and the output of each layer, the last one's last."""
        outputs = [observations.flatten(1).float()]
        for weight, bias, _, activation in self.layers:
            output = th.addmm(bias, outputs[-1], weight)
            if activation is not None:
                output = output.sigmoid_() if activation is nn.Tanh else output.relu_()
            outputs.append(output)
        return outputs

    def backward(self, outputs: list[th.Tensor], gradient: th.Tensor) -> th.Tensor:
        """From the gradient with respect to the last of the outputs to that with respect to the flat input."""
        for (_, _, back, activation), output in zip(reversed(self.layers), reversed(outputs), strict=False):
            if activation is nn.Tanh:
                gradient = th.ops.aten.sigmoid_backward.default(gradient, output)
            elif activation is nn.ReLU:
                gradient = th.ops.aten.threshold_backward.default(gradient, output, 0)
            gradient = th.mm(gradient, back)
        features = outputs[0].shape[1]
        return gradient if features == gradient.shape[1] else gradient[:, :features]


class ClosedForm:
    """
    A goal whose gradient is known.

    :param goal: The goal itself.
    :param network: The network on which it depends.
    :param slope: Maps the network's output ``(B, out)`` to the gradient of the goal with respect to it ``(B, out)``.
    """

    def __init__(self, goal: Goal, network: Network, slope: Callable[[th.Tensor], th.Tensor]) -> None:
        self.goal = goal
        self.network = network
        self.slope = slope

    def __call__(self, perturbed: th.Tensor) -> th.Tensor:
        return self.goal(perturbed)

    def gradient(self, perturbed: th.Tensor) -> th.Tensor:
        """
        :param perturbed: Perturbed observations, shape ``(B, *obs)``.
        :return: Gradient of the goal's sum, of the same shape and type.
        """
        outputs = self.network.forward(perturbed.detach())
        gradient = self.network.backward(outputs, self.slope(outputs[-1]))
        return gradient.reshape(perturbed.shape).to(perturbed.dtype)


def modules(policy: object, part: Literal["actor", "critic"]) -> list[nn.Module] | None:
    """
    :param policy: A policy.
    :param part: Which of its networks.
    :return: The modules from the observation to the mean action, the logits or the value, or ``None`` if anything
        between the two is not what SB3 builds by default: a linear layer, tanh or ReLU. Those are the same in training
        and in evaluation mode.
    """
    if not isinstance(policy, ActorCriticPolicy):
        return None
    asked = ("get_distribution", "predict_values", "extract_features", "_get_action_dist_from_latent")
    if any(getattr(type(policy), name) is not getattr(ActorCriticPolicy, name) for name in asked):
        return None
    if is_image_space(policy.observation_space) and policy.normalize_images:
        return None  # pixels are divided by 255 on their way
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
    found = [*body, head]
    linears, activations = found[::2], found[1::2]
    if any(type(linear) is not nn.Linear for linear in linears):
        return None
    if len(linears) != len(activations) + 1 or any(type(module) not in (nn.Tanh, nn.ReLU) for module in activations):
        return None
    called = [extractor, extractor.flatten, body, *found]
    return None if any(module._forward_hooks or module._forward_pre_hooks for module in called) else found


def serves(policy: object) -> bool:
    """:return: Whether actor and critic are what this module serves; such a policy has no training mode of its own."""
    return modules(policy, "actor") is not None and modules(policy, "critic") is not None


def network(policy: object, part: Literal["actor", "critic"]) -> Network | None:
    """
    :param policy: A policy.
    :param part: Which of its networks.
    :return: The network with the policy's present weights, or ``None`` where :func:`modules` finds none.
    """
    found = modules(policy, part)
    return None if found is None else Network.of(found)


def kl(goal: Goal, policy: object, observations: th.Tensor) -> Goal:
    """
    :param goal: ``KL(π(·|s) ‖ π(·|s'))`` as a function of ``s'``.
    :param policy: The policy π.
    :param observations: The clean observations ``s``, shape ``(B, *obs)``.
    :return: The same goal, with its gradient in closed form if the policy allows it.
    """
    actor = network(policy, "actor")
    if actor is None:
        return goal
    if (std := _std(policy)) is not None:
        # Half the squared length of (μ(s') - μ(s)) / σ, which is its own gradient.
        actor = actor.scaled(1 / std)
        return ClosedForm(goal, actor.plus(-actor(observations)), lambda shift: shift)
    probabilities = actor(observations).softmax(1)
    return ClosedForm(goal, actor, lambda logits: logits.softmax(1) - probabilities)


def surrogate(goal: Goal, policy: object, samples: Samples) -> Goal:
    """
    :param goal: ``-surr(s')``.
    :param policy: The policy.
    :param samples: The minibatch.
    :return: The same goal, with its gradient in closed form if the policy allows it.
    """
    actor = network(policy, "actor")
    if actor is None:
        return goal
    actions, old_log_prob, advantages, clip_range, _ = samples
    # Where the ratio times the advantage exceeds this, the surrogate is clipped and has no gradient.
    limit = advantages * (1 + clip_range * advantages.sign())

    def by_log_prob(log_ratio: th.Tensor) -> th.Tensor:
        unclipped = advantages * log_ratio.exp_()
        return (unclipped * (unclipped <= limit))[:, None]

    if (std := _std(policy)) is not None:
        # log π(a|s') is minus half the squared length of (a - μ(s')) / σ, and a constant.
        constant = -old_log_prob - std.log().add(math.log(2 * math.pi) / 2).sum()

        def gaussian(distance: th.Tensor) -> th.Tensor:
            return by_log_prob(th.sub(constant, distance.square().sum(1), alpha=0.5)) * distance

        return ClosedForm(goal, actor.scaled(-1 / std).plus(actions / std), gaussian)

    def categorical(logits: th.Tensor) -> th.Tensor:
        log_probs = logits.log_softmax(1)
        log_ratio = log_probs.gather(1, actions[:, None]).squeeze(1) - old_log_prob
        return by_log_prob(log_ratio) * (log_probs.exp() - taken)

    taken = nn.functional.one_hot(actions, actor.layers[-1].weight.shape[1])
    return ClosedForm(goal, actor, categorical)


def value(goal: Goal, policy: object) -> Goal:
    """
    :param goal: ``-V(s')``.
    :param policy: The policy with the critic V.
    :return: The same goal, with its gradient in closed form if the policy allows it.
    """
    critic = network(policy, "critic")
    return goal if critic is None else ClosedForm(goal, critic, lambda output: -th.ones_like(output))


def towards(goal: Goal, policy: object, direction: th.Tensor) -> Goal:
    """
    :param goal: ``⟨m(s') - m(s), direction⟩``, with m the mean action or the probabilities of the actions.
    :param policy: The policy.
    :param direction: Shape ``(B, outputs)``.
    :return: The same goal, with its gradient in closed form if the policy allows it.
    """
    actor = network(policy, "actor")
    if actor is None:
        return goal
    direction = direction.float()  # as the network is, whatever the type of the observations
    if _std(policy) is not None:
        return ClosedForm(goal, actor, lambda _: direction)

    def slope(logits: th.Tensor) -> th.Tensor:
        probabilities = logits.softmax(1)
        return probabilities * (direction - (probabilities * direction).sum(1, keepdim=True))

    return ClosedForm(goal, actor, slope)


def action_value(goal: Goal, policy: object, observations: th.Tensor, q: object) -> Goal:
    """
    :param goal: ``-Q(s, m(s'))`` for continuous actions, with m the mean action.
    :param policy: The policy.
    :param observations: The clean observations ``s``, shape ``(B, *obs)``.
    :param q: The action value Q.
    :return: The same goal, with its gradient in closed form if policy and Q allow it.
    """
    actor = network(policy, "actor")
    if actor is None or not isinstance(q, QNetwork) or _std(policy) is None:
        return goal
    judge = Network.of([*q.net])
    seen = observations.flatten(1).float()

    def slope(mean: th.Tensor) -> th.Tensor:
        outputs = judge.forward(th.cat([seen, mean], dim=1))
        return -judge.backward(outputs, th.ones_like(outputs[-1]))[:, seen.shape[1] :]

    return ClosedForm(goal, actor, slope)


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


def _std(policy: Any) -> th.Tensor | None:
    """The standard deviation of each action of a Gaussian policy, ``(actions,)``; ``None`` for a categorical one."""
    if type(policy.action_dist) is CategoricalDistribution:
        return None
    log_std: th.Tensor = policy.log_std.detach()
    return log_std.exp()
