"""
What an update can do faster than SB3's PPO, at the price of other rounding: used at strength above 0 only.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_barpo.adversary import closed_form


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
    if not closed_form.serves(policy):
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


class LastVisits:
    """
    Where the search for each sample of a rollout ended at its last visit.

    :param buffer: The rollout.
    """

    def __init__(self, buffer: RolloutBuffer) -> None:
        self.buffer = buffer
        self._values = np.insert(buffer.values.ravel(), 0, 0)  # row 0 is what sequences are padded with
        self._numbers = np.arange(1, len(self._values)).reshape(buffer.values.shape)
        self._epoch = 0
        self._rows = th.zeros(0, dtype=th.long)
        self._found: th.Tensor | None = None

    def get(self, batch_size: int) -> Iterator[Any]:
        """
        The minibatches of ``buffer.get``, which does not tell what rows they hold: however it shuffles, cuts and pads,
        the rows' numbers go through it in the place of the old values, which are put back before anyone sees them.

        :param batch_size: Number of samples in each.
        :return: All samples once.
        """
        self._epoch += 1
        buffer = self.buffer
        old_values = th.as_tensor(self._values, device=buffer.device)
        buffer.values = self._numbers
        try:
            for batch in buffer.get(batch_size):
                self._rows = batch.old_values.long()
                yield batch._replace(old_values=old_values[self._rows])
        finally:
            self._numbers = buffer.values  # in the shape that the buffer has brought them into
            buffer.values = self._values[self._numbers]

    def ended(self) -> th.Tensor | None:
        """:return: For the present minibatch, perturbations ``(B, *obs)``; ``None`` at the first visit."""
        return None if self._found is None or self._epoch == 1 else self._found[self._rows].float()

    def end(self, found: th.Tensor) -> None:
        """:param found: Where the present minibatch's search ended, perturbations of shape ``(B, *obs)``."""
        if self._found is None:
            self._found = found.new_zeros(len(self._values), *found.shape[1:])
        self._found[self._rows] = found


@contextmanager
def fused(optimizer: th.optim.Optimizer) -> Iterator[None]:
    """
    Adam's steps in one kernel for a while, on CPUs, where it is not PyTorch's default. The optimiser's settings are put
    back, so that files remain as PPO writes them.

    :param optimizer: The optimiser; left as it is if it is not Adam or if its user has chosen an implementation.
    """
    groups = optimizer.param_groups if type(optimizer) in (th.optim.Adam, th.optim.AdamW) else []
    free = [
        group
        for group in groups
        if group["fused"] is None
        and not (group["foreach"] or group["capturable"] or group["differentiable"])
        and all(parameter.device.type == "cpu" and parameter.is_floating_point() for parameter in group["params"])
    ]
    for group in free:
        group["fused"] = True
    try:
        yield
    finally:
        for group in free:
            group["fused"] = None
