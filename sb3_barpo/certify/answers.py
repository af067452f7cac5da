"""What a policy answers anywhere in a box of observations: bounds of its log-probabilities and of its divergence."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch as th

from sb3_barpo.certify.bounds import OutputBounds, actor_bounds
from sb3_barpo.policies.evaluate import Evaluated


class Answers(NamedTuple):
    """
    What a policy answers in the boxes of a minibatch.

    :param evaluated: At the clean observations; of the log-probabilities, shape ``(3, B)``: at the clean observations,
        a lower and an upper bound.
    :param kl: Returns an upper bound of ``D_KL(π(·|s) ‖ π(·|s'))``, shape ``(B,)``, with gradient.
    :param width: Mean width of the bounds of the mean action or of the logits, without gradient, shape ``()``.
    """

    evaluated: Evaluated
    kl: Callable[[], th.Tensor]
    width: th.Tensor


def answers_in(
    policy: Any, observations: th.Tensor, box: OutputBounds, actions: th.Tensor, share: float = 0.0
) -> Answers:
    """
    :param policy: One of SB3's MLP policies on flat observations, with Gaussian or categorical actions.
    :param observations: Clean observations, shape ``(B, *obs)``.
    :param box: Boxes around them.
    :param actions: Shape ``(B, *action)``, or ``(B,)`` and integer for ``Discrete``.
    :param share: Share of the interval bounds, see :func:`sb3_barpo.certify.enclose`.
    :return: The answers.
    :raises TypeError: for other policies.
    """
    bounds = actor_bounds(policy, box, share)
    values, clean, entropy = policy.evaluate_actions(observations, actions)
    output: th.Tensor = policy.action_net(policy.mlp_extractor.forward_actor(observations.flatten(1).float()))
    if hasattr(policy, "log_std"):
        std: th.Tensor = policy.log_std.exp()
        lowest, highest = _gaussian(bounds, actions.reshape(len(actions), -1), policy.log_std)

        def kl() -> th.Tensor:
            furthest = th.maximum((bounds.low - output).abs(), (bounds.high - output).abs())
            return (furthest / std).square().sum(1) / 2

    else:
        lowest, highest = (_log_softmax(bounds, end).gather(1, actions[:, None]).squeeze(1) for end in (0, 1))

        def kl() -> th.Tensor:
            log_p = output.log_softmax(1)
            return (log_p.exp() * (log_p - _log_softmax(bounds, 0))).sum(1)

    width = (bounds.high - bounds.low).detach().mean()
    return Answers(Evaluated(values, th.stack([clean, lowest, highest]), entropy), kl, width)


def _gaussian(bounds: OutputBounds, actions: th.Tensor, log_std: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """Log-density where the mean is furthest from the action, and where it is nearest."""
    furthest = th.maximum((actions - bounds.low).abs(), (actions - bounds.high).abs())
    nearest = (th.maximum(bounds.low - actions, actions - bounds.high)).clamp(min=0)
    normaliser = log_std.sum() + math.log(2 * math.pi) / 2 * len(log_std)
    lowest, highest = (-(some / log_std.exp()).square().sum(1) / 2 - normaliser for some in (furthest, nearest))
    return lowest, highest


def _log_softmax(bounds: OutputBounds, end: int) -> th.Tensor:
    """Of each action, where its own logit is at this end and all others at the other, shape ``(B, actions)``."""
    own, others = bounds[end], bounds[1 - end]
    itself = th.eye(own.shape[1], dtype=th.bool, device=own.device)
    logits = th.where(itself, own.unsqueeze(2), others.unsqueeze(1))  # the row of each action
    return own - logits.logsumexp(2)
