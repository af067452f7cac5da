"""Victims whose policy and critic depend on what they see, and environments that show what one wants to be seen."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm


@cache
def victim(env_id: str = "Pendulum-v1", algorithm: type[OnPolicyAlgorithm] = PPO, seed: int = 0) -> OnPolicyAlgorithm:
    """An untrained agent with opinions: SB3 starts the last layer of a policy at a hundredth of the others."""
    model = algorithm("MlpPolicy", env_id, seed=seed, device="cpu")
    with th.no_grad():
        model.policy.action_net.weight.mul_(1000)
    return model


def linear_victim(weights: Sequence[float], space: spaces.Space[Any] | None = None) -> PPO:
    """Mean of the only action and value of a state are both ``weights · s``, the standard deviation is 1."""
    model = PPO("MlpPolicy", Replay([np.zeros(len(weights))], space), device="cpu", policy_kwargs={"net_arch": []})
    with th.no_grad():
        for net in (model.policy.action_net, model.policy.value_net):
            net.weight.copy_(th.tensor([list(weights)]))
            net.bias.zero_()
    return model


class Replay(gym.Env[np.ndarray, np.ndarray]):
    """
    Shows the given observations one after the other, whatever one does, and ends with the last one.

    :param observations: What it shows.
    :param space: Its observation space, by default unbounded and double.
    """

    def __init__(self, observations: Sequence[Any], space: spaces.Space[Any] | None = None) -> None:
        self.observations = observations
        self.observation_space = space or spaces.Box(-np.inf, np.inf, np.shape(observations[0]), np.float64)
        self.action_space = spaces.Box(-1, 1, (1,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self.observations[0], {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        return self.observations[self.time], 0.0, self.time == len(self.observations) - 1, False, {}
