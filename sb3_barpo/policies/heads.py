"""The two heads of SB3's MLP policies: from outputs of the actor to rows, and slopes on rows back to the outputs."""

from typing import Protocol

import torch as th
from torch import nn

from sb3_barpo.policies.flat import FlatPolicy


class Head(Protocol):
    """What an update by hand asks of a head, for one minibatch: clean rows first, perturbed rows behind them."""

    def rows(self, output: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """
        :param output: The actor's outputs, shape ``(B, out)``, or ``(2 B, out)`` with perturbed rows behind.
        :param actions: Shape ``(B, out)``, or ``(B, 1)`` and integer for ``Discrete``.
        :return: Log-probabilities, shape ``(1, B)`` or ``(2, B)``.
        """

    def kl(self) -> th.Tensor:
        """:return: ``D_KL(π(·|s) ‖ π(·|s'))``, shape ``(B,)``."""

    def entropy(self) -> th.Tensor:
        """:return: Mean entropy at the clean observations, shape ``()``."""

    def to_output(self, slope: th.Tensor, kl_slope: th.Tensor | None, ent_coef: float) -> th.Tensor:
        """
        :param slope: Of the loss on the log-probabilities, shape ``(2, B)``.
        :param kl_slope: Of the loss on the divergences, shape ``(B,)`` or ``None``.
        :param ent_coef: Weight of the entropy bonus.
        :return: Slope of loss and bonus on the outputs, shape ``(2 B, out)``; that on parameters of the head itself is
            written to their gradients.
        """


class GaussianHead:
    """
    A diagonal Gaussian with a standard deviation that does not depend on the observation.

    :param flat: The policy.
    """

    def __init__(self, flat: FlatPolicy) -> None:
        self._prepared = flat.prepared
        self._gradient = flat.gradients[flat.policy.log_std]
        self._halves = th.full_like(self._gradient, -0.5)

    def rows(self, output: th.Tensor, actions: th.Tensor) -> th.Tensor:
        assert self._prepared.gaussian is not None  # as `head_of` has found; for the types' sake
        self._inverse, _, self._normaliser = self._prepared.gaussian
        self._distance = (actions - output.view(-1, *actions.shape)).mul_(self._inverse)
        self._squared = self._distance.square().view(output.shape)
        return th.addmv(self._normaliser, self._squared, self._halves, beta=-1).view(-1, actions.shape[0])

    def kl(self) -> th.Tensor:
        self._shift = self._distance[0] - self._distance[1]
        return self._shift.square().sum(-1).div_(2)

    def entropy(self) -> th.Tensor:
        return self._normaliser + self._halves.shape[0] / 2

    def to_output(self, slope: th.Tensor, kl_slope: th.Tensor | None, ent_coef: float) -> th.Tensor:
        flat = slope.reshape(-1)
        th.mv(self._squared.t(), flat, out=self._gradient)
        self._gradient.sub_(flat.sum().add_(ent_coef))
        to_mean = self._distance.mul_(slope.unsqueeze(-1))
        if kl_slope is not None:
            pulled = self._shift * kl_slope.unsqueeze(-1)
            self._gradient.sub_((pulled * self._shift).sum(0))
            to_mean[0].sub_(pulled)
            to_mean[1].add_(pulled)
        return to_mean.mul_(self._inverse).view(flat.shape[0], -1)


class CategoricalHead:
    """One of several actions."""

    def rows(self, output: th.Tensor, actions: th.Tensor) -> th.Tensor:
        self._n = actions.shape[0]
        self._log_probs = output.log_softmax(1)
        self._actions = actions.repeat(output.shape[0] // self._n, 1)
        return self._log_probs.gather(1, self._actions).view(-1, actions.shape[0])

    def kl(self) -> th.Tensor:
        clean, moved = self._log_probs.chunk(2)
        self._kl = (clean.exp() * (clean - moved)).sum(1)
        return self._kl

    def entropy(self) -> th.Tensor:
        clean = self._log_probs[: self._n]
        return -(clean.exp() * clean).sum(1).mean()

    def to_output(self, slope: th.Tensor, kl_slope: th.Tensor | None, ent_coef: float) -> th.Tensor:
        flat = slope.reshape(-1, 1)
        probs = self._log_probs.exp()
        to_logits = (probs * -flat).scatter_add_(1, self._actions, flat)
        n = self._n
        clean, log_clean = probs[:n], self._log_probs[:n]
        if ent_coef:
            own = clean * log_clean
            to_logits[:n].add_(own - clean * own.sum(1, keepdim=True), alpha=ent_coef / n)
        if kl_slope is not None:
            pull = kl_slope[:, None]
            to_logits[:n].add_(pull * clean * (log_clean - self._log_probs[n:] - self._kl[:, None]))
            to_logits[n:].add_(pull * (probs[n:] - clean))
        return to_logits


def head_of(flat: FlatPolicy) -> Head:
    """:return: The head of a recognised policy."""
    return GaussianHead(flat) if isinstance(getattr(flat.policy, "log_std", None), nn.Parameter) else CategoricalHead()
