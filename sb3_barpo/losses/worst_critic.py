"""The worst-case action value of WocaR-PPO: what an action is worth if the adversary chooses all that follow."""

import copy
from typing import Any, NamedTuple

import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from torch.nn import functional as F

from sb3_barpo.adversary.q_network import QNetwork
from sb3_barpo.certify import OutputBounds

#: Steps of the descent to the worst action; half of them lead from the middle of its interval to an end.
_STEPS = 10


class Transitions(NamedTuple):
    """
    Steps of a policy in an environment.

    :param observations: Shape ``(N, *obs)``.
    :param actions: Shape ``(N, *action)``, or ``(N,)`` and integer for ``Discrete``.
    :param rewards: Shape ``(N,)``.
    :param dones: Whether the episode ended there, shape ``(N,)``.
    :param following: The observations that followed, shape ``(N, *obs)``.
    :param reach: What an adversary can make the policy do there: bounds of the mean action or of the logits.
    """

    observations: th.Tensor
    actions: th.Tensor
    rewards: th.Tensor
    dones: th.Tensor
    following: th.Tensor
    reach: OutputBounds


class WorstCritic:
    """
    ``Q(s, a) = r + γ min Q(s', a')`` over the actions ``a'`` that a policy may be led to at ``s'`` (WocaR, Liang et
    al., "Efficient Adversarial Training without Attacking: Worst-Case-Aware Robust Reinforcement Learning", NeurIPS
    2022), fitted to a policy's transitions.

    Each epoch of the fit regresses on targets of the network before it. Bounds of a mean action allow all actions
    between them; bounds of logits allow every action whose logit may be the largest.

    :param observation_space: A flat ``Box``.
    :param action_space: ``Box`` or ``Discrete``.
    :param device: Where the network lives.
    :param generator: Source of its initial weights.
    :param learning_rate: Of Adam.
    :raises TypeError: for other spaces.
    """

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Space[Any],
        device: th.device | str,
        generator: th.Generator,
        learning_rate: float = 4e-4,
    ) -> None:
        seed = int(th.randint(2**31, (), generator=generator, device=generator.device))
        with th.random.fork_rng(devices=[]):
            th.manual_seed(seed)
            self.q = QNetwork(observation_space, action_space).to(device)
        self._optimizer = th.optim.Adam(self.q.parameters(), lr=learning_rate)

    def fit(
        self, data: Transitions, gamma: float, generator: th.Generator, n_epochs: int = 10, batch_size: int = 64
    ) -> None:
        """
        :param data: The transitions.
        :param gamma: The discount factor.
        :param generator: Shuffles them.
        :param n_epochs: How often to go through them.
        :param batch_size: Number of transitions in each step of Adam.
        """
        for _ in range(n_epochs):
            before = copy.deepcopy(self.q)
            ahead = extreme(before, data.following, data.reach, highest=False)
            targets = th.where(data.dones, data.rewards, data.rewards + gamma * ahead)
            order = th.randperm(len(targets), generator=generator, device=generator.device)
            for rows in th.split(order, batch_size):
                loss = F.mse_loss(self.q(data.observations[rows], data.actions[rows]), targets[rows])
                self._optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                self._optimizer.step()

    def spread(self, observations: th.Tensor, reach: OutputBounds) -> th.Tensor:
        """
        :param observations: Shape ``(N, *obs)``.
        :param reach: What an adversary can make the policy do there.
        :return: How much that matters: the largest minus the smallest value, shape ``(N,)``.
        """
        return extreme(self.q, observations, reach, highest=True) - extreme(self.q, observations, reach, highest=False)


def extreme(q: QNetwork, observations: th.Tensor, reach: OutputBounds, highest: bool) -> th.Tensor:
    """
    :param q: An action value.
    :param observations: Shape ``(N, *obs)``.
    :param reach: Bounds of the mean action or of the logits, shape ``(N, out)``.
    :param highest: Whether to look for the highest value, or for the lowest.
    :return: The value of the best or of the worst action within reach, shape ``(N,)``, without gradient. For ``Box``
        actions it is found by signed steps from the middle.
    """
    if q.n_actions is not None:
        possible = reach.high >= reach.low.amax(1, keepdim=True)
        with th.no_grad():
            values = q.of_each_action(observations)
        return values.where(possible, -th.inf).amax(1) if highest else values.where(possible, th.inf).amin(1)
    step = (reach.high - reach.low) / _STEPS * (1 if highest else -1)
    actions = (reach.low + reach.high) / 2
    for _ in range(_STEPS):
        actions.requires_grad_()
        (slope,) = th.autograd.grad(q(observations, actions).sum(), actions)
        actions = th.minimum(th.maximum(actions.detach() + step * slope.sign(), reach.low), reach.high)
    with th.no_grad():
        found: th.Tensor = q(observations, actions)
    return found


def transitions(buffer: RolloutBuffer, reach: OutputBounds, device: th.device | str, discrete: bool) -> Transitions:
    """
    :param buffer: A rollout; of its last step it is not known what followed.
    :param reach: At each of its observations, shape ``(steps · environments, out)``, step after step.
    :param device: Where to.
    :param discrete: Whether actions are ``Discrete``.
    :return: All of its transitions but the last ones. At a time limit SB3 has put the value of what would have followed
        into the reward.
    """
    n_steps, n_envs = buffer.rewards.shape

    def part(array: Any, first: int, last: int) -> th.Tensor:
        rows = th.as_tensor(array, device=device).reshape(n_steps, n_envs, -1)[first:last]
        return rows.flatten(0, 1).float()

    observations, actions = by_time(buffer, "observations"), by_time(buffer, "actions")
    taken = part(actions, 0, n_steps - 1)
    return Transitions(
        part(observations, 0, n_steps - 1),
        taken.long().squeeze(1) if discrete else taken,
        part(buffer.rewards, 0, n_steps - 1).squeeze(1),
        part(buffer.episode_starts, 1, n_steps).squeeze(1) > 0,
        part(observations, 1, n_steps),
        OutputBounds(*(part(end, 1, n_steps) for end in reach)),
    )


def by_time(buffer: RolloutBuffer, name: str) -> Any:
    """:return: An array of the rollout in the shape ``(steps, environments, ...)`` in which it was collected."""
    array = getattr(buffer, name)
    if not buffer.generator_ready:
        return array
    n_steps, n_envs = buffer.rewards.shape  # minibatches were drawn already, for which SB3 puts environments first
    return array.reshape(n_envs, n_steps, *array.shape[1:]).swapaxes(0, 1)


def in_order(buffer: Any, notes: th.Tensor) -> th.Tensor:
    """:return: Notes of each sample, step after step, in the buffer's present order."""
    n_steps, n_envs = buffer.rewards.shape
    return notes.reshape(n_steps, n_envs).t().flatten() if buffer.generator_ready else notes
