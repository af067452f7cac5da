"""A system whose worst case is known: linear dynamics, a linear victim, and rewards that fall with the state's size."""

from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv

HORIZON = 10
DRIFT = np.array([1.0, 0.9])
PUSH = np.array([1.0, 0.5])
GAIN = np.array([0.5, 0.8])
COST = np.array([1.0, 0.6])
#: What becomes of a state when the victim sees it as it is, and what it moves per unit of perturbation.
CONTRACTION, LEVER = DRIFT - PUSH * GAIN, PUSH * GAIN


class LinearSystem(gym.Env[np.ndarray, np.ndarray]):
    """``s' = drift · s + push · a``, coordinate by coordinate; the reward is ``-Σ cost · s'²``."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-100.0, 100.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = self.np_random.uniform(0.5, 1, 2) * self.np_random.choice([-1.0, 1.0], 2)
        return self._look(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.state = DRIFT * self.state + PUSH * action
        return self._look(), float(-COST @ self.state**2), False, False, {}

    def _look(self) -> np.ndarray:
        seen: np.ndarray = self.state.astype(np.float32)
        return seen


def systems(n_envs: int = 8) -> VecEnv:
    """:return: So many of them, with episodes of ten steps."""
    return make_vec_env(lambda: TimeLimit(LinearSystem(), HORIZON), n_envs=n_envs, seed=0)


def controller(log_std: float = -1.0) -> PPO:
    """The victim that does ``-gain · s``, exactly; its critic is untrained."""
    model = PPO("MlpPolicy", systems(1), seed=0, device="cpu", policy_kwargs={"net_arch": [], "log_std_init": log_std})
    policy: Any = model.policy
    with th.no_grad():
        policy.action_net.weight.copy_(-th.diag(th.as_tensor(GAIN)))
        policy.action_net.bias.zero_()
    return model
