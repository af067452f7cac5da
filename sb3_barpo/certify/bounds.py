"""
Bounds of the outputs of SB3's MLPs over a box of inputs, by intervals and by CROWN, with gradient to the weights.

All functions take the modules of a network in order, linear layers with tanh or ReLU between them, as
:func:`sb3_barpo.policies.mlp.modules` finds them. Bounds hold up to rounding: of single precision, relative to the
size of the numbers that are summed up.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch as th
from torch import nn

from sb3_barpo.adversary.balls import Ball
from sb3_barpo.adversary.limits import Bounds, DictBounds
from sb3_barpo.certify.relaxations import Relaxation, relax
from sb3_barpo.policies import mlp


class OutputBounds(NamedTuple):
    """
    A box: of inputs, or what contains all outputs of a network there.

    :param low: Lower ends, shape ``(B, features)``.
    :param high: Upper ends, shape ``(B, features)``.
    """

    low: th.Tensor
    high: th.Tensor


def box_around(
    observations: th.Tensor,
    epsilon: float | th.Tensor,
    ball: Ball | None = None,
    limits: Bounds | DictBounds | None = None,
) -> OutputBounds:
    """
    :param observations: Clean observations, shape ``(B, *obs)``.
    :param epsilon: Radius of the ball: one for all, or one for each row, shape ``(B,)``.
    :param ball: The ball, of the largest norm by default; of any other one the smallest box around it.
    :param limits: Limits of the observations, see :func:`sb3_barpo.adversary.observation_bounds`.
    :return: The box of all perturbed observations, flat.
    """
    seen = observations.float()
    if isinstance(epsilon, th.Tensor):
        epsilon = epsilon.to(seen).reshape(-1, *[1] * (seen.dim() - 1))
    reach = epsilon if ball is None else epsilon * th.as_tensor(ball.scale, dtype=seen.dtype, device=seen.device)
    low, high = seen - reach, seen + reach
    if isinstance(limits, Bounds):
        low, high = limits.clip(low, seen), limits.clip(high, seen)
    return OutputBounds(low.flatten(1), high.flatten(1))


def actor_modules(policy: Any) -> list[nn.Module]:
    """
    :param policy: One of SB3's MLP policies on flat observations, with Gaussian or categorical actions.
    :return: The modules from the observation to the mean action or the logits.
    :raises TypeError: for other policies.
    """
    modules = mlp.modules(policy, "actor")
    if modules is None:
        raise TypeError(
            "Bounds are computed for SB3's MLP policies on Box observations with tanh or ReLU, and Gaussian or "
            f"categorical actions without gSDE; {type(policy).__name__} is none, or was changed. Use a defence that "
            "searches: BARPO, ARPO, SAPPO, CARPPO."
        )
    return modules


def actor_bounds(policy: Any, box: OutputBounds, share: float = 0.0) -> OutputBounds:
    """
    :param policy: See :func:`actor_modules`.
    :param box: The observations.
    :param share: Share of the interval bounds, see :func:`enclose`.
    :return: Bounds of the mean action or of the logits, with gradient, shape ``(B, out)``.
    :raises TypeError: for other policies.
    """
    return enclose(actor_modules(policy), box, share)


def enclose(modules: Sequence[nn.Module], box: OutputBounds, share: float = 0.0) -> OutputBounds:
    """
    A mixture of both kinds of bounds, as the field trains with it: intervals are cheap and loose, CROWN is tight.

    :param modules: The network.
    :param box: The inputs.
    :param share: Share of the interval bounds, from 0 (CROWN alone) to 1 (intervals alone).
    :return: Bounds of the outputs, with gradient.
    """
    if share >= 1:
        return intervals(modules, box)
    tight = crown(modules, box)
    if share <= 0:
        return tight
    loose = intervals(modules, box)
    return OutputBounds(*(share * one + (1 - share) * other for one, other in zip(loose, tight, strict=True)))


def intervals(modules: Sequence[nn.Module], box: OutputBounds) -> OutputBounds:
    """
    Interval propagation (Gowal et al., "On the Effectiveness of Interval Bound Propagation for Training Verifiably
    Robust Models", 2018): each layer's box is enclosed in a box.

    :param modules: The network.
    :param box: The inputs.
    :return: Bounds of the outputs, with gradient.
    """
    for module in modules:
        # tanh and ReLU are monotone
        box = affine(module, box) if isinstance(module, nn.Linear) else OutputBounds(module(box.low), module(box.high))
    return box


def crown(modules: Sequence[nn.Module], box: OutputBounds) -> OutputBounds:
    """
    CROWN (Zhang et al., "Efficient Neural Network Robustness Certification with General Activation Functions", NeurIPS
    2018): every activation lies between two lines, and the outputs between two linear functions of the inputs. What the
    lines may assume of their units is bounded in the same way, layer by layer.

    All bounds are intersected with those by intervals from the layer before, so they are never looser. For an untrained
    actor of two layers of 64 tanh units and ε = 0.075 the mean width is about 0.06, by intervals alone about 2.7.

    :param modules: The network.
    :param box: The inputs.
    :return: Bounds of the outputs, with gradient.
    """
    lines: list[tuple[nn.Linear, Relaxation]] = []
    seen = box
    for linear, activation in zip(modules[::2], [*modules[1::2], None], strict=True):
        assert isinstance(linear, nn.Linear)  # as `mlp.modules` has found; for the types' sake
        found = affine(linear, seen)
        if lines:
            low, high = _back(linear, lines, box)
            found = OutputBounds(th.maximum(found.low, low), th.minimum(found.high, high))
        if activation is None:
            break
        lines.append((linear, relax(activation, *found)))
        seen = OutputBounds(activation(found.low), activation(found.high))
    return found


def affine(linear: nn.Linear, box: OutputBounds) -> OutputBounds:
    """:return: The box around what a linear layer makes of a box."""
    centre, reach = (box.low + box.high) / 2, (box.high - box.low) / 2
    centre, reach = linear(centre), reach @ linear.weight.abs().t()
    return OutputBounds(centre - reach, centre + reach)


def _back(linear: nn.Linear, lines: list[tuple[nn.Linear, Relaxation]], box: OutputBounds) -> OutputBounds:
    """The layer's outputs as linear functions of the inputs, and the ends of those over the box."""
    # Rows come last in here: loops over elements are long ones then, and faster.
    low, high = (end.t().contiguous() for end in box)
    centre, reach = (low + high) / 2, (high - low) / 2
    *others, (last, line) = lines
    # A weight takes the line above where it is positive and the one below where negative: w · middle + |w| · half.
    shared, size, (middle, half) = linear.weight, linear.weight.abs(), _halves(line)
    mean, spread = _product(shared, middle.slope, last.weight), _product(size, half.slope, last.weight)
    weight = th.stack([mean - spread, mean + spread])  # for the lower and the upper end, shape (2, out, units, B)
    mean = linear.bias.unsqueeze(1) + shared @ (middle.slope * last.bias.unsqueeze(1) + middle.bias)
    spread = size @ (half.slope * last.bias.unsqueeze(1) + half.bias)
    bias = th.stack([mean - spread, mean + spread])
    sign = th.tensor([-1.0, 1.0], device=bias.device).reshape(2, 1, 1)
    for below, relaxed in reversed(others):
        size, (middle, half) = sign.unsqueeze(3) * weight.abs(), _halves(relaxed)
        bias = bias + (weight * middle.bias + size * half.bias).sum(2)
        weight = weight * middle.slope + size * half.slope
        bias = bias + below.bias @ weight
        weight = below.weight.t() @ weight
    bias = bias + (weight * centre).sum(2) + sign * (weight.abs() * reach).sum(2)
    return OutputBounds(*bias.mT)


class _Line(NamedTuple):
    """Shape ``(units, B)`` each."""

    slope: th.Tensor
    bias: th.Tensor


def _halves(line: Relaxation) -> tuple[_Line, _Line]:
    """:return: Half the sum of the line above and the line below, and half their difference."""
    lower, lower_bias, upper, upper_bias = (part.t().contiguous() / 2 for part in line)
    return _Line(upper + lower, upper_bias + lower_bias), _Line(upper - lower, upper_bias - lower_bias)


def _product(weight: th.Tensor, slopes: th.Tensor, below: th.Tensor) -> th.Tensor:
    """``(out, units)`` times the diagonal of ``(units, B)`` times ``(units, in)``, shape ``(out, in, B)``."""
    if below.shape[1] >= weight.shape[0]:
        return below.t() @ (weight.unsqueeze(2) * slopes)
    columns = below.unsqueeze(2) * slopes.unsqueeze(1)  # the smaller of both, and one product for all rows
    return (weight @ columns.flatten(1)).reshape(len(weight), *columns.shape[1:])
