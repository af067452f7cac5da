"""How far the outputs of a network in single precision can lie from the exact ones."""

from collections.abc import Sequence

import torch as th
from torch import nn

from sb3_barpo.certify.bounds import OutputBounds, affine

#: Half of the distance between 1 and the next number of single precision.
UNIT = 2.0**-24
#: Error of a tanh in single precision, in units of the above; PyTorch's is at most 2.
_TANH = 8


def widened(box: OutputBounds) -> OutputBounds:
    """
    :param box: Inputs, computed in single precision.
    :return: The box in double precision, so much larger that no input leaves it by rounding: neither what is added to
        an observation, nor the sum.
    """
    low, high = (end.double() for end in box)
    slack = 8 * UNIT * th.maximum(low.abs(), high.abs())
    return OutputBounds(low - slack, high + slack)


def rounding(modules: Sequence[nn.Module], box: OutputBounds) -> th.Tensor:
    """
    A bound of the rounding error, layer by layer: a sum of n products is computed with an error of at most
    ``n u / (1 - n u)`` of the sum of their sizes, in whatever order (Higham, "Accuracy and Stability of Numerical
    Algorithms", 2002, section 3.1).

    :param modules: The network: linear layers with tanh or ReLU between them, in double precision.
    :param box: The inputs, in double precision; those within it are exact.
    :return: How far an output computed in single precision, without TF32, can lie from the exact one, shape
        ``(B, out)``.
    """
    error = th.zeros_like(box.low)
    for module in modules:
        if isinstance(module, nn.Linear):
            n = module.in_features + 1
            share = n * UNIT / (1 - n * UNIT)
            weight = module.weight.abs().t()
            sizes = th.maximum(box.low.abs(), box.high.abs()) + error
            error = error @ weight + share * (sizes @ weight + module.bias.abs())
            box = affine(module, box)
        else:
            error = error + _TANH * UNIT * isinstance(module, nn.Tanh)
            box = OutputBounds(module(box.low), module(box.high))
    return error
