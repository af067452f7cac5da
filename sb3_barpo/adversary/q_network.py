"""The action value that Robust Sarsa learns, with bounds by interval propagation."""

import math
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, is_image_space
from torch import nn


class QNetwork(nn.Module):
    """
    ``Q(s, a)``, an MLP on the flat observation and the action, as in the reference code of Robust Sarsa (Zhang et al.,
    NeurIPS 2020): two layers of 64 tanh units, orthogonal weights, biases 0.

    :param observation_space: Space of the observations.
    :param action_space: Space of the actions: ``Box``, whose actions enter as the policy emits them, before they are
        clipped to the space; or ``Discrete``, whose actions enter as one-hot vectors.
    :param hidden: Units of the hidden layers.
    :raises TypeError: for other spaces, images among them.
    """

    def __init__(
        self, observation_space: spaces.Box, action_space: spaces.Space[Any], hidden: tuple[int, ...] = (64, 64)
    ) -> None:
        super().__init__()
        if not isinstance(observation_space, spaces.Box) or is_image_space(observation_space):
            raise TypeError(
                f"An action value is learned from flat Box observations, not from {observation_space}. Use the attacks "
                "that need none: random, critic, mad, paad."
            )
        if not isinstance(action_space, spaces.Box | spaces.Discrete):
            raise TypeError(
                f"An action value needs Box or Discrete actions, but the action space is {action_space}. "
                "Use the attacks that need no action value: random, critic, mad, sarl, paad."
            )
        self.n_actions = int(action_space.n) if isinstance(action_space, spaces.Discrete) else None
        sizes = [get_flattened_obs_dim(observation_space) + get_flattened_obs_dim(action_space), *hidden]
        layers: list[nn.Module] = []
        for n_in, n_out in zip(sizes, hidden, strict=False):
            layers += [_orthogonal(n_in, n_out, math.sqrt(2)), nn.Tanh()]
        self.net = nn.Sequential(*layers, _orthogonal(sizes[-1], 1, 1.0))

    def forward(self, observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """
        :param observations: Shape ``(B, *obs)``.
        :param actions: Shape ``(B, *action)``; for ``Discrete`` integers of shape ``(B,)``.
        :return: Action values, shape ``(B,)``.
        """
        value: th.Tensor = self.net(self.inputs(observations, actions))
        return value.squeeze(1)

    def inputs(self, observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """:return: What the first layer sees, shape ``(B, features)``."""
        if self.n_actions is not None:
            actions = nn.functional.one_hot(actions.long(), self.n_actions)
        return th.cat([observations.flatten(1).float(), actions.flatten(1).float()], dim=1)

    def of_each_action(self, observations: th.Tensor) -> th.Tensor:
        """
        :param observations: Shape ``(B, *obs)``.
        :return: The values of all ``Discrete`` actions, shape ``(B, actions)``.
        :raises TypeError: if the actions are not ``Discrete``.
        """
        if self.n_actions is None:
            raise TypeError(
                "Only Discrete actions can be listed, but these are Box actions. Name them: q(obs, actions)."
            )
        actions = th.arange(self.n_actions, device=observations.device)
        values = self.forward(observations.repeat_interleave(self.n_actions, 0), actions.repeat(len(observations)))
        return values.reshape(-1, self.n_actions)

    def bounds(self, inputs: th.Tensor, radius: float) -> tuple[th.Tensor, th.Tensor]:
        """
        Bounds of the value over a box, by interval propagation (Gowal et al., 2018). Sound, not tight.

        :param inputs: Centres of the boxes, from :meth:`inputs`, shape ``(B, features)``.
        :param radius: Half the width of the boxes in every feature, of the observation and of the action.
        :return: Lower and upper bounds, each of shape ``(B,)``.
        """
        low, high = inputs - radius, inputs + radius
        for layer in self.net:
            if isinstance(layer, nn.Linear):
                centre, reach = (low + high) / 2, (high - low) / 2
                centre = layer(centre)
                reach = reach @ layer.weight.abs().t()
                low, high = centre - reach, centre + reach
            else:
                low, high = layer(low), layer(high)  # tanh is monotone
        return low.squeeze(1), high.squeeze(1)


def _orthogonal(n_in: int, n_out: int, gain: float) -> nn.Linear:
    linear = nn.Linear(n_in, n_out)
    nn.init.orthogonal_(linear.weight, gain)
    nn.init.zeros_(linear.bias)
    return linear
