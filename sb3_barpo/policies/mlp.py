"""
SB3's MLP policies, read once: the networks from a flat observation to the mean action, the logits or the value.

A ten-step search by autograd costs several times SB3's own update; plain matrix products cost a part of that. What is
not exactly what SB3 builds by default is not recognised, and takes the general path by autograd. Both ways give the
same gradient up to rounding, so nothing else needs to know.
"""

from typing import Any, Literal, NamedTuple

import torch as th
from stable_baselines3.common.distributions import CategoricalDistribution, DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import nn

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


def is_mlp(policy: object) -> bool:
    """:return: Whether actor and critic are recognised; such a policy has no training mode of its own."""
    return modules(policy, "actor") is not None and modules(policy, "critic") is not None


def network(policy: object, part: Literal["actor", "critic"]) -> Network | None:
    """
    :param policy: A policy.
    :param part: Which of its networks.
    :return: The network with the policy's present weights, or ``None`` where :func:`modules` finds none.
    """
    found = modules(policy, part)
    return None if found is None else Network.of(found)


def gaussian_std(policy: Any) -> th.Tensor | None:
    """
    :param policy: A policy that :func:`modules` recognises.
    :return: Standard deviations of a Gaussian policy's actions, shape ``(actions,)``; ``None`` for a categorical one.
    """
    if type(policy.action_dist) is CategoricalDistribution:
        return None
    log_std: th.Tensor = policy.log_std.detach()
    return log_std.exp()
