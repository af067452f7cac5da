"""Objectives that push an action to one of its limits, whatever the policy's certainty."""

from typing import Any

import torch as th
from gymnasium import spaces

from sb3_barpo.adversary.goals import ClosedForm, Goal, Samples
from sb3_barpo.adversary.objectives import Objective, Towards
from sb3_barpo.adversary.q_network import QNetwork
from sb3_barpo.policies import mlp
from sb3_barpo.policies.evaluate import Policy, action_distributions, policy_output

#: Up to so many dimensions all corners of a space of actions are looked at, otherwise as many at random.
CORNERS = 5


def pulls(policy: Policy, observations: th.Tensor) -> th.Tensor:
    """
    What can be pushed of an action. Unlike probabilities, these have slopes where a policy is nearly certain.

    :param policy: The policy.
    :param observations: Shape ``(B, *obs)``.
    :return: Means of Gaussians, log-probabilities of ``Discrete`` actions, log-odds of binary ones, ``(B, outputs)``.
    """
    parts: list[th.Tensor] = [
        distribution.logits
        if isinstance(distribution, th.distributions.Categorical | th.distributions.Bernoulli)
        else distribution.mean
        for distribution in action_distributions(policy, observations)
    ]
    return th.cat([part.flatten(1) for part in parts], dim=1)


def limits_of(space: spaces.Space[Any]) -> list[tuple[int, float]]:
    """
    :param space: Space of the actions.
    :return: For each limit of an action the output of :func:`pulls`, and the sign with which it is pushed: two for each
        dimension of ``Box`` and of ``MultiBinary``, one for each choice of ``Discrete`` and ``MultiDiscrete``.
    :raises TypeError: for other spaces.
    """
    if isinstance(space, spaces.Discrete):
        return [(i, 1.0) for i in range(int(space.n))]
    if isinstance(space, spaces.MultiDiscrete):
        return [(i, 1.0) for i in range(int(space.nvec.sum()))]
    if isinstance(space, spaces.Box | spaces.MultiBinary):
        return [(i, sign) for i in range(int(th.tensor(space.shape).prod())) for sign in (-1.0, 1.0)]
    raise TypeError(f"The limits of {space} are not known. Actions are Box, Discrete, MultiDiscrete or MultiBinary.")


class Limit(Objective):
    """
    Pushes one output of the policy to one of its limits.

    :param index: Which of :func:`pulls`.
    :param sign: 1 to raise it, -1 to lower it.
    """

    def __init__(self, index: int, sign: float = 1.0) -> None:
        self.index = index
        self.sign = sign

    def prepare(self, policy: Policy, observations: th.Tensor, samples: Samples | None = None) -> Goal:
        wanted = th.full((len(observations),), self.index, device=observations.device)
        return _raised(policy, wanted, self.sign)


def _raised(policy: Policy, wanted: th.Tensor, sign: float = 1.0) -> Goal:
    """The output of :func:`pulls` that each row wants, times the sign."""

    def goal(perturbed: th.Tensor) -> th.Tensor:
        return sign * pulls(policy, perturbed).gather(1, wanted[:, None]).squeeze(1)

    actor = mlp.network(policy, "actor")
    if actor is None:
        return goal
    hot = sign * th.nn.functional.one_hot(wanted, actor.layers[-1].weight.shape[1]).float()
    if mlp.gaussian_of(policy) is not None:
        return ClosedForm(goal, actor, lambda _: hot)
    return ClosedForm(goal, actor, lambda logits: hot - sign * logits.softmax(1))


class TowardsWorst(Objective):
    """
    Pushes the action towards the worst one of all by an action value, however far it is: a descent of the value alone
    stops where it is flat on the way.

    :param q: The action value.
    :param space: Space of the actions, ``Box`` or ``Discrete``.
    :raises TypeError: for another space.
    """

    def __init__(self, q: QNetwork, space: spaces.Space[Any]) -> None:
        if not isinstance(space, spaces.Box | spaces.Discrete):
            raise TypeError(f"The worst action is one of a Box or a Discrete space, but the actions are {space}.")
        self.q = q
        self.space: Any = space

    def prepare(self, policy: Policy, observations: th.Tensor, samples: Samples | None = None) -> Goal:
        with th.no_grad():
            if self.q.n_actions is not None:
                return _raised(policy, self.q.of_each_action(observations).argmin(1))
            taken = policy_output(policy, observations)
            corners = self._corners(taken)  # (K, B, actions)
            values = th.stack([self.q.forward(observations, corner) for corner in corners])
            worst = corners[values.argmin(0), th.arange(len(taken), device=taken.device)]
            return Towards(worst - taken).prepare(policy, observations)

    def _corners(self, taken: th.Tensor) -> th.Tensor:
        """Corners of the space of actions; where it has no end, of a box around the action."""
        low, high = (
            th.as_tensor(limit, dtype=taken.dtype, device=taken.device).flatten()
            for limit in (self.space.low, self.space.high)
        )
        low, high = th.where(low.isfinite(), low, taken - 1), th.where(high.isfinite(), high, taken + 1)
        n = taken.shape[1]
        if n <= CORNERS:
            upper = th.cartesian_prod(*[th.tensor([False, True])] * n).reshape(-1, n)
        else:
            upper = th.rand(2**CORNERS, n, generator=th.Generator().manual_seed(0)) < 0.5
        return th.where(upper.to(taken.device)[:, None], high, low).expand(len(upper), *taken.shape)
