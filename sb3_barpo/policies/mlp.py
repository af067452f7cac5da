"""
SB3's MLP policies, read once: the networks from a flat observation to the mean action, the logits or the value.

A ten-step search by autograd costs several times SB3's own update; plain matrix products cost a part of that. What is
not exactly what SB3 builds by default is not recognised, and takes the general path by autograd. Both ways give the
same gradient up to rounding, so nothing else needs to know.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import CategoricalDistribution, DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import nn

#: Matrix products with fewer columns than this are slow on CPUs; zeros that fill them up cost less than they save.
MIN_COLUMNS = 16


_sigmoid_backward = th.ops.aten.sigmoid_backward.grad_input
_threshold_backward = th.ops.aten.threshold_backward.grad_input


def through(activation: type[nn.Module] | None, slope: th.Tensor, output: th.Tensor) -> th.Tensor:
    """
    From what follows an activation to what goes into it.

    :param activation: ``nn.Tanh``, computed as a logistic function, ``nn.ReLU``, or ``None``.
    :param slope: Gradient with respect to its output; overwritten.
    :param output: Its output.
    :return: Gradient with respect to its input.
    """
    if activation is nn.Tanh:
        _sigmoid_backward(slope, output, grad_input=slope)
    elif activation is nn.ReLU:
        _threshold_backward(slope, output, 0, grad_input=slope)
    return slope


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


class Buffers:
    """
    Where a network writes its outputs and slopes, for the length of an update: large tensors cost less to fill than to
    allocate.

    :param widths: Widths of the layers' outputs.
    :param rows: Number of rows of the largest batch.
    :param like: A tensor that gives type and device.
    """

    def __init__(self, widths: list[int], rows: int, like: th.Tensor) -> None:
        self._outputs = [like.new_empty(rows, width) for width in widths]
        self._slopes = [like.new_empty(rows, width) for width in widths[:-1]]
        self._cut: dict[tuple[int, int], tuple[list[th.Tensor], list[th.Tensor]]] = {}

    def rows(self, start: int, n: int) -> tuple[list[th.Tensor], list[th.Tensor]]:
        """:return: Outputs of each layer and slopes of each but the last, in ``n`` rows from ``start``."""
        if (start, n) not in self._cut:
            rows = slice(start, start + n)
            self._cut[start, n] = [part[rows] for part in self._outputs], [part[rows] for part in self._slopes]
        return self._cut[start, n]

    def second(self, n: int) -> tuple[list[th.Tensor], list[th.Tensor]]:
        """:return: The second ``n`` rows: a search writes behind the clean rows, so that the cache holds one set."""
        return self.rows(n, n)


class Network:
    """
    Linear layers with activations between them, from the observation to the mean action, the logits or a value.

    A hyperbolic tangent is computed as ``tanh(x) = 2 σ(2x) - 1``, with the factors drawn into the weights on both sides
    of it: PyTorch's logistic function σ takes a third of the time of its tanh.

    :param layers: The layers.
    :param buffers: Where to write, behind the clean rows; by default new tensors each time. With buffers, what
        :meth:`forward` returns lasts until its next call.
    """

    def __init__(self, layers: list[Layer], buffers: Buffers | None = None) -> None:
        self.layers = layers
        self.buffers = buffers

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
            if not layers and (missing := MIN_COLUMNS - weight.shape[1]) > 0:
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
        return Network([*body, Layer(weight, bias * scale, weight.t(), activation)], self.buffers)

    def pulled(self, scale: th.Tensor) -> "Network":
        """
        :param scale: Shape ``(out,)``.
        :return: The network with the same outputs, whose gradients on their way back are times ``scale``.
        """
        *body, last = self.layers
        return Network([*body, last._replace(back=last.back * scale[:, None])], self.buffers)

    def plus(self, shift: th.Tensor) -> "Network":
        """
        :param shift: Shape ``(B, out)``.
        :return: The network with its outputs plus ``shift``.
        """
        *body, last = self.layers
        return Network([*body, last._replace(bias=last.bias + shift)], self.buffers)

    def __call__(self, observations: th.Tensor) -> th.Tensor:
        """
        :param observations: Shape ``(B, *obs)``.
        :return: Outputs of the last layer, shape ``(B, out)``.
        """
        output = self.forward(observations)[-1]
        return output if self.buffers is None else output.clone()

    def forward(self, observations: th.Tensor) -> list[th.Tensor]:
        """:return: The flat input, and the output of each layer, the last one's last."""
        output = observations.flatten(1).float()
        outputs = [output]
        for (weight, bias, _, activation), buffer in zip(self.layers, self._buffers(len(output))[0], strict=True):
            output = th.addmm(bias, output, weight, out=buffer)
            if activation is nn.Tanh:
                output.sigmoid_()
            elif activation is nn.ReLU:
                output.relu_()
            outputs.append(output)
        return outputs

    def _buffers(self, n: int) -> tuple[Sequence[th.Tensor | None], Sequence[th.Tensor | None]]:
        """For outputs and slopes; ``None`` for a new tensor."""
        if self.buffers is not None:
            return self.buffers.second(n)
        return [None] * len(self.layers), [None] * (len(self.layers) - 1)

    def to_input(self, outputs: list[th.Tensor], gradient: th.Tensor) -> th.Tensor:
        """
        :param outputs: What :meth:`forward` returned, shape ``(B, ...)`` each.
        :param gradient: Gradient with respect to the last of them, shape ``(B, out)``.
        :return: Gradient with respect to the flat input, shape ``(B, in)``.
        """
        buffers = self._buffers(len(gradient))[1]
        for i in range(len(self.layers) - 1, -1, -1):
            layer = self.layers[i]
            if layer.activation is not None:
                through(layer.activation, gradient, outputs[i + 1])
            # The last product is a new tensor: whoever asked may keep it while the buffers are used again.
            gradient = th.mm(gradient, layer.back, out=buffers[i - 1] if i else None)
        features = outputs[0].shape[1]
        return gradient if features == gradient.shape[1] else gradient[:, :features]


#: What a policy must have from SB3 as it is, for its networks to say all of it.
_ASKED = (
    "get_distribution",
    "predict_values",
    "evaluate_actions",
    "extract_features",
    "_get_action_dist_from_latent",
)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def modules(policy: object, part: Literal["actor", "critic"]) -> list[nn.Module] | None:
    """
    :param policy: A policy.
    :param part: Which of its networks.
    :return: The modules from the observation to the mean action, the logits or the value, or ``None`` if anything
        between the two is not what SB3 builds by default: a linear layer with a bias, tanh or ReLU, nothing overridden
        by a subclass or on the instance, no hooks. Those are the same in training and in evaluation mode.
    """
    if not isinstance(policy, ActorCriticPolicy):
        return None
    if any(getattr(type(policy), name) is not getattr(ActorCriticPolicy, name) for name in _ASKED):
        return None
    if any(name in vars(policy) for name in _ASKED):
        return None
    if not isinstance(policy.observation_space, spaces.Box):
        return None  # other observations are encoded on their way
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
    if type(body) is not nn.Sequential:
        return None
    found = [*body, head]
    linears, activations = found[::2], found[1::2]
    if any(type(linear) is not nn.Linear or linear.bias is None for linear in linears):
        return None
    if len(linears) != len(activations) + 1 or any(type(module) not in (nn.Tanh, nn.ReLU) for module in activations):
        return None
    called = [policy.mlp_extractor, extractor, extractor.flatten, body, *found]
    return None if any(_is_changed(module) for module in called) else found


def _is_changed(module: nn.Module) -> bool:
    """Whether somebody listens to this module or has changed its methods."""
    return any(getattr(module, hooks) for hooks in _HOOKS) or any(
        name in vars(module) for name in ("forward", "forward_actor", "forward_critic")
    )


def is_mlp(policy: object) -> bool:
    """:return: Whether actor and critic are recognised; such a policy has no training mode of its own."""
    if isinstance(policy, Prepared):
        return True
    return modules(policy, "actor") is not None and modules(policy, "critic") is not None


class Prepared:
    """
    A recognised policy whose networks have been read, to be asked many times while its weights stay the same. All else
    is the policy's own.

    :param policy: The policy.
    :param actor: Its actor.
    :param critic: Its critic.
    :param log_std: Of a Gaussian policy, ``None`` for a categorical one.
    :param before: Called before anything else of the policy is asked, to bring its own weights up to date.
    """

    def __init__(
        self,
        policy: ActorCriticPolicy,
        actor: Network,
        critic: Network,
        log_std: th.Tensor | None,
        before: Callable[[], None],
    ) -> None:
        self.policy = policy
        self.actor = actor
        self.critic = critic
        self.log_std = log_std
        self.action_dist = policy.action_dist
        self._before = before
        #: A batch of observations and the actor's outputs there, where they are known already.
        self.known: tuple[th.Tensor, th.Tensor] | None = None

    def __getattr__(self, name: str) -> Any:
        self._before()
        return getattr(self.policy, name)


def network(policy: object, part: Literal["actor", "critic"]) -> Network | None:
    """
    :param policy: A policy.
    :param part: Which of its networks.
    :return: The network with the policy's present weights, or ``None`` where :func:`modules` finds none.
    """
    if isinstance(policy, Prepared):
        return policy.actor if part == "actor" else policy.critic
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


def actor_output(policy: Any, actor: Network, observations: th.Tensor) -> th.Tensor:
    """
    :param policy: A policy that :func:`modules` recognises.
    :param actor: Its actor.
    :param observations: Shape ``(B, *obs)``.
    :return: The actor's outputs there, shape ``(B, out)``.
    """
    if isinstance(policy, Prepared) and policy.known is not None and policy.known[0] is observations:
        return policy.known[1]
    return actor(observations)
