"""Lines below and above an activation, over an interval of its inputs."""

from typing import NamedTuple

import torch as th
from torch import nn

#: Below this width a chord's slope is mostly rounding.
_NARROW = 1e-3
#: Halvings of an interval, until the point where a tangent touches is known well enough.
_HALVINGS = 8


class Relaxation(NamedTuple):
    """
    ``lower x + lower_bias ≤ activation(x) ≤ upper x + upper_bias`` for each unit, shape ``(B, units)`` each.
    """

    lower: th.Tensor
    lower_bias: th.Tensor
    upper: th.Tensor
    upper_bias: th.Tensor


def relax(activation: nn.Module, low: th.Tensor, high: th.Tensor) -> Relaxation:
    """
    :param activation: A tanh or a ReLU.
    :param low: Lower ends of the inputs, shape ``(B, units)``.
    :param high: Upper ends.
    :return: Lines, with gradient.
    """
    return _tanh(low, high) if isinstance(activation, nn.Tanh) else _relu(low, high)


def _relu(low: th.Tensor, high: th.Tensor) -> Relaxation:
    """The chord above; below 0 or x, whichever leaves the smaller area."""
    crosses = (low < 0) & (high > 0)
    chord = th.where(crosses, high / (high - low).clamp(min=th.finfo(low.dtype).tiny), (low >= 0).to(low))
    lower = th.where(crosses, (high > -low).to(low), chord)
    return Relaxation(lower, th.zeros_like(low), chord, th.where(crosses, -chord * low, 0.0))


def _tanh(low: th.Tensor, high: th.Tensor) -> Relaxation:
    """Chords where they bound, tangents elsewhere. The lower line is the upper one of the mirrored interval."""
    slopes, biases = _above_tanh(th.stack([low, -high]), th.stack([high, -low]))
    return Relaxation(slopes[1], -biases[1], slopes[0], biases[0])


def _above_tanh(low: th.Tensor, high: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """Slope and bias of a line above tanh over the interval."""
    at_low, at_high = th.tanh(low), th.tanh(high)
    width = high - low
    narrow = width < _NARROW
    chord = (at_high - at_low) / width.clamp(min=_NARROW)
    crosses = (low < 0) & (high > 0)  # few do; of the others those from 0 on have a tangent, in their middle
    touch = ((low + high) / 2).masked_scatter(crosses, _touch(low[crosses], high[crosses]))
    at_touch = th.tanh(touch)
    tangent = 1 - at_touch**2
    # The chord lies above on the convex side, and where the curve comes from below to its upper end.
    by_chord = (high <= 0) | (low < 0) & (1 - at_high**2 >= chord)
    slope = th.where(by_chord, chord, tangent)
    bias = th.where(by_chord, at_low - chord * low, at_touch - tangent * touch)
    if not narrow.any():
        return slope, bias
    # From the lower end with the steepest slope inside: as good where it is narrow, and without a division.
    steepest = 1 - th.tanh(th.minimum(th.maximum(low, th.zeros_like(low)), high)) ** 2
    return th.where(narrow, steepest, slope), th.where(narrow, at_low - steepest * low, bias)


@th.no_grad()
def _touch(low: th.Tensor, high: th.Tensor) -> th.Tensor:
    """
    For an interval around 0, a little right of the point whose tangent goes through the curve at the lower end; the
    tangent of every point right of that one lies above tanh. A constant: bounds stay bounds wherever it touches.
    """
    at_low = th.tanh(low)
    left, right = th.zeros_like(low), high.clamp(min=0)
    for _ in range(_HALVINGS):
        middle = (left + right) / 2
        at_middle = th.tanh(middle)
        passes = at_middle + (1 - at_middle.square()) * (low - middle) >= at_low
        left, right = th.where(passes, left, middle), th.where(passes, middle, right)
    return right
