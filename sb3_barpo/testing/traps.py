"""
Victims whose worst case is known, and that fool single attacks. Any new attack or defence can be run against them.

Each trap has an attack by hand that does the most damage there is, or nearly so; what another one takes is told as a
share of it. Most victims act on the sign of the first of two features, and the worst that can be done is to move that
feature to the other side, or as far there as ε reaches: that holds for every policy whose action rises with it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv

from sb3_barpo.attacks import Attack
from sb3_barpo.testing.linear_system import controller, systems


class Outwards(Attack):
    """By hand: the first feature, or all of them, to the other side."""

    name = "by_hand"

    def __init__(self, model: OnPolicyAlgorithm, epsilon: float, features: int = 1) -> None:
        super().__init__(model, epsilon)
        self.features = features

    def _perturb(self, observations: Any, policy: Any) -> th.Tensor:
        delta = th.zeros_like(observations)
        moved = observations[:, : self.features]
        delta[:, : self.features] = -self.epsilon * th.where(moved < 0, -1.0, 1.0)
        return observations + delta  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Trap:
    """
    :param name: What it is.
    :param fools: Whom, and why.
    :param make: Makes the victim for a number of environments: the model, and its environments.
    :param epsilon: Strength of the attacks.
    :param deterministic: Whether the victim takes its most likely action.
    :param features: How many features the attack by hand moves.
    """

    name: str
    fools: str
    make: Callable[[int], tuple[OnPolicyAlgorithm, VecEnv]]
    epsilon: float
    deterministic: bool = True
    features: int = 1

    def worst(self, model: OnPolicyAlgorithm) -> Attack:
        """:return: The attack by hand."""
        return Outwards(model, self.epsilon, self.features)


class Sides(gym.Env[np.ndarray, Any]):
    """
    A new state at each step, whatever one does: the first feature has a size between ``low`` and 1. The reward is the
    action, times the sign of that feature.

    :param action_space: ``Box`` of one dimension, or ``Discrete(2)`` for -1 and 1.
    :param low: Smallest size.
    :param one_sided: Whether the first feature is always positive.
    """

    observation_space = spaces.Box(-2.0, 2.0, (2,))

    def __init__(self, action_space: spaces.Space[Any], low: float = 0.0, one_sided: bool = False) -> None:
        self.action_space = action_space
        self.low = low
        self.one_sided = one_sided

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self._next(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        taken = 2.0 * action - 1 if isinstance(self.action_space, spaces.Discrete) else float(action[0])
        reward = taken * (1.0 if self._state[0] >= 0 else -1.0)
        return self._next(), reward, False, False, {}

    def _next(self) -> np.ndarray:
        side = 1.0 if self.one_sided else self.np_random.choice([-1.0, 1.0])
        values = [side * self.np_random.uniform(self.low, 1), self.np_random.uniform(-1, 1)]
        self._state = np.array(values, np.float32)
        return self._state


class Saturated(BaseFeaturesExtractor):
    """A unit whose slope is 0 in single precision for nearly all observations."""

    def __init__(self, space: spaces.Box) -> None:
        super().__init__(space, 1)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return th.tanh(60 * observations[:, :1])


class Quantised(Saturated):
    """The first feature in steps of a quarter: there is no slope at all."""

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return (4 * observations[:, :1]).round() / 4


class Smoothed(Saturated):
    """A vote of the signs of noisy copies: it changes smoothly, but no copy has a slope."""

    noise: th.Tensor

    def __init__(self, space: spaces.Box) -> None:
        super().__init__(space)
        self.register_buffer("noise", 0.5 * th.randn(64, generator=th.Generator().manual_seed(0)))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return (observations[:, :1] + self.noise).sign().mean(1, keepdim=True)


class Creep(gym.Env[np.ndarray, np.ndarray]):
    """
    A place that the victim holds at 0. A steady push makes it creep outwards, and at 0.5 the episode is over; whoever
    makes the actions large instead takes a little at once, and never gets there.
    """

    observation_space = spaces.Box(-2.0, 2.0, (2,))
    action_space = spaces.Box(-2.0, 2.0, (1,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._place = float(self.np_random.uniform(-0.05, 0.05))
        return self._look(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        taken = float(action[0])
        self._place += 0.05 * (0.5 * self._place + taken)
        return self._look(), 1 - 0.1 * abs(taken), abs(self._place) > 0.5, False, {}

    def _look(self) -> np.ndarray:
        return np.array([self._place, self.np_random.uniform(-1, 1)], np.float32)


class Evidence(gym.Env[np.ndarray, np.ndarray]):
    """Shows small evidence for one of two sides at each of ten steps; only the last action counts."""

    observation_space = spaces.Box(-1.0, 1.0, (2,))
    action_space = spaces.Box(-1.0, 1.0, (1,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._side, self._time = float(self.np_random.choice([-1.0, 1.0])), 0
        return self._look(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._time += 1
        over = self._time == 10
        return self._look(), 10 * float(action[0]) * self._side * over, over, False, {}

    def _look(self) -> np.ndarray:
        return np.array([0.1 * self._side, self.np_random.uniform(-0.1, 0.1)], np.float32)


def _on_sides(
    n_envs: int, extractor: type[BaseFeaturesExtractor] | None = None, gain: float = 1.0, length: int = 20, **sides: Any
) -> tuple[PPO, VecEnv]:
    """A linear policy on the first feature, or on what the extractor makes of it; its critic is right."""
    sides.setdefault("action_space", spaces.Box(-1.0, 1.0, (1,)))
    venv = make_vec_env(lambda: TimeLimit(Sides(**sides), length), n_envs, seed=0)
    kwargs: dict[str, Any] = {"net_arch": []}
    if extractor is not None:
        kwargs["features_extractor_class"] = extractor
    model = PPO("MlpPolicy", venv, n_steps=64, batch_size=64, seed=0, device="cpu", policy_kwargs=kwargs)
    policy: Any = model.policy
    weights = th.zeros(policy.action_net.weight.shape)
    weights[-1, 0] = gain
    with th.no_grad():
        policy.action_net.weight.copy_(weights)
        policy.action_net.bias.zero_()
        policy.value_net.weight.zero_()[0, 0] = 1.0
    return model, venv


def _lying_critic(n_envs: int) -> tuple[PPO, VecEnv]:
    model, venv = _on_sides(n_envs, low=0.1, one_sided=True)
    policy: Any = model.policy
    with th.no_grad():
        policy.value_net.weight.mul_(-1)
    return model, venv


def _creeping(n_envs: int) -> tuple[PPO, VecEnv]:
    venv = make_vec_env(lambda: TimeLimit(Creep(), 200), n_envs, seed=0)
    model = PPO("MlpPolicy", venv, n_steps=64, batch_size=64, seed=0, device="cpu", policy_kwargs={"net_arch": []})
    policy: Any = model.policy
    with th.no_grad():
        policy.action_net.weight.copy_(th.tensor([[-1.0, 0.0]]))
        policy.action_net.bias.zero_()
    return model, venv


def _remembering(n_envs: int) -> tuple[OnPolicyAlgorithm, VecEnv]:
    """An LSTM whose cell adds up what it is shown."""
    from sb3_contrib import RecurrentPPO

    venv = make_vec_env(Evidence, n_envs, seed=0)
    kwargs = {"lstm_hidden_size": 1, "net_arch": [], "log_std_init": -1.0}
    model = RecurrentPPO("MlpLstmPolicy", venv, n_steps=16, batch_size=16, seed=0, device="cpu", policy_kwargs=kwargs)
    policy: Any = model.policy
    lstm = policy.lstm_actor
    with th.no_grad():
        for weights in lstm.parameters():
            weights.zero_()
        lstm.bias_ih_l0.copy_(th.tensor([10.0, 10.0, 0.0, 10.0]))  # input, forget, cell, output gates: all but open
        lstm.weight_ih_l0[2, 0] = 1.0
        policy.action_net.weight.fill_(2.0)
        policy.action_net.bias.zero_()
    return model, venv


def _linear(n_envs: int) -> tuple[PPO, VecEnv]:
    return controller(), systems(n_envs)


#: All of them, by name.
TRAPS: dict[str, Trap] = {
    trap.name: trap
    for trap in [
        Trap("saturated", "slopes: they are 0 but close to the threshold", lambda n: _on_sides(n, Saturated), 0.4),
        Trap("quantised", "slopes: there are none", lambda n: _on_sides(n, Quantised), 0.4),
        Trap("smoothed", "slopes: no copy of the vote has one", lambda n: _on_sides(n, Smoothed), 0.4),
        Trap("lying_critic", "Critic: the value falls where actions are better", _lying_critic, 0.4),
        Trap(
            "nearly_certain",
            "slopes of probabilities, which are 0 or 1",
            lambda n: _on_sides(n, gain=400.0, action_space=spaces.Discrete(2)),
            0.4,
        ),
        Trap(
            "stochastic",
            "whoever waits for the most likely action to change: it never does",
            lambda n: _on_sides(n, gain=3.0, length=100, action_space=spaces.Discrete(2), low=0.5, one_sided=True),
            0.45,
            deterministic=False,
        ),
        Trap("remembering", "whoever looks at single steps", _remembering, 0.12),
        Trap("late", "whoever takes what is to be had at once", _creeping, 0.3),
        Trap("linear", "whoever moves the action far, but not always outwards", _linear, 0.2, features=2),
    ]
}
