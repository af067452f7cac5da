"""
Networks of linear layers by plain matrix products: forward, back to their inputs, into buffers that are filled again.

A hyperbolic tangent is computed as ``tanh(x) = 2 σ(2x) - 1``, with the factors drawn into the weights on both sides of
it: on most processors PyTorch's logistic function σ takes a third of the time of its tanh.
"""

from typing import NamedTuple

import torch as th
from torch import nn

#: Matrix products with fewer columns than this are slow on CPUs; zeros that fill them up cost less than they save.
MIN_COLUMNS = 16
#: Rows of a large batch that go through a network together, so that all they leave behind stays in the cache.
BLOCK = 1024

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

    def forward(self, inputs: th.Tensor, out: th.Tensor | None = None) -> th.Tensor:
        """:return: What follows the layer, shape ``(B, out)``, in ``out`` if it is given."""
        output = th.addmm(self.bias, inputs, self.weight, out=out)
        if self.activation is nn.Tanh:
            output.sigmoid_()
        elif self.activation is nn.ReLU:
            output.relu_()
        return output


class Buffers:
    """
    Where a network writes, for the length of an update: large tensors cost less to fill than to allocate. Narrow ones
    lie column by column: products that write them take half the time, and so does what is done to each row.

    :param widths: Widths of what is written, one for each tensor.
    :param rows: Number of rows of the largest batch.
    :param like: A tensor that gives type and device.
    """

    def __init__(self, widths: list[int], rows: int, like: th.Tensor) -> None:
        self._whole = [
            like.new_empty(width, rows).t() if width < MIN_COLUMNS else like.new_empty(rows, width) for width in widths
        ]
        self._cut: dict[tuple[int, int], list[th.Tensor]] = {}

    def rows(self, start: int, n: int) -> list[th.Tensor]:
        """:return: ``n`` rows of each, from ``start``."""
        cut = self._cut.get((start, n))
        if cut is None:
            cut = self._cut[start, n] = [part[start : start + n] for part in self._whole]
        return cut


class Network:
    """
    Linear layers with activations between them, from the observation to the mean action, the logits or a value.

    :param layers: The layers.
    :param buffers: Where to write outputs, and the slopes of all layers but the last; by default new tensors each time.
        With buffers, what :meth:`forward` returns lasts until its next call.
    """

    def __init__(self, layers: list[Layer], buffers: tuple[Buffers, Buffers] | None = None) -> None:
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

    def minus(self, target: th.Tensor, pull: th.Tensor) -> "Network":
        """
        :param target: Shape ``(B, out)``.
        :param pull: Shape ``(out,)``.
        :return: The network with its outputs less ``target``, whose gradients on their way back are times ``pull``.
        """
        *body, (weight, bias, back, activation) = self.layers
        body.append(Layer(weight, bias - target, back * pull.unsqueeze(1), activation))
        return Network(body, self.buffers)

    def __call__(self, observations: th.Tensor) -> th.Tensor:
        """
        :param observations: Shape ``(B, *obs)``.
        :return: Outputs of the last layer, shape ``(B, out)``.
        """
        output = self.forward(observations)[-1]
        return output if self.buffers is None else output.clone()

    def forward(self, observations: th.Tensor) -> list[th.Tensor]:
        """:return: The flat input, and the output of each layer, the last one's last."""
        output = observations if observations.dim() == 2 else observations.flatten(1)
        if output.dtype is not th.float32:
            output = output.float()
        outputs = [output]
        if self.buffers is None:
            for layer in self.layers:
                outputs.append(output := layer.forward(output))
        else:
            for layer, buffer in zip(self.layers, self.buffers[0].rows(0, output.shape[0]), strict=True):
                outputs.append(output := layer.forward(output, buffer))
        return outputs

    def to_input(self, outputs: list[th.Tensor], gradient: th.Tensor) -> th.Tensor:
        """
        :param outputs: What :meth:`forward` returned, shape ``(B, ...)`` each.
        :param gradient: Gradient with respect to the last of them, shape ``(B, out)``.
        :return: Gradient with respect to the flat input, shape ``(B, in)``.
        """
        slopes = None if self.buffers is None else self.buffers[1].rows(0, gradient.shape[0])
        for i in range(len(self.layers) - 1, -1, -1):
            layer = self.layers[i]
            if layer.activation is not None:
                through(layer.activation, gradient, outputs[i + 1])
            # The last product is a new tensor: whoever asked may keep it while the buffers are used again.
            gradient = th.mm(gradient, layer.back, out=slopes[i - 1] if i and slopes is not None else None)
        features = outputs[0].shape[1]
        return gradient if features == gradient.shape[1] else gradient[:, :features]
