"""An environment in which one sensor alone matters, and an agent that does the right thing."""

from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

HORIZON = 10
SPREAD = np.array([1.0, 3.0, 0.2])


class Tracking(gym.Env[np.ndarray, np.ndarray]):
    """Costs the square of what the first action misses of the value in the middle; nothing else matters."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space = spaces.Box(-100.0, 100.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self._look(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = -float((action[0] - self.state[1]) ** 2)
        self.time += 1
        return self._look(), reward, False, self.time == HORIZON, {}

    def _look(self) -> np.ndarray:
        self.state = self.np_random.uniform(-1, 1, 3) * SPREAD + 5
        return self.state


def tracking(n_envs: int = 4) -> VecEnv:
    return make_vec_env(lambda: Monitor(Tracking()), n_envs, seed=0)


def normalized(n_envs: int = 4, steps: int = 100) -> VecNormalize:
    """With statistics of some steps, frozen."""
    venv = VecNormalize(tracking(n_envs), norm_reward=False)
    venv.reset()
    for _ in range(steps):
        venv.step(np.zeros((n_envs, 2)))
    venv.training = False
    return venv


def tracker(venv: VecNormalize) -> PPO:
    """Its first action is the value in the middle, its second the last value; it does not look at the first value."""
    model = PPO("MlpPolicy", venv, device="cpu", policy_kwargs={"net_arch": []})
    deviation = th.as_tensor(np.sqrt(venv.obs_rms.var + venv.epsilon))
    mean = th.as_tensor(venv.obs_rms.mean)
    with th.no_grad():
        model.policy.action_net.weight.zero_()
        for action, feature in enumerate((1, 2)):
            model.policy.action_net.weight[action, feature] = deviation[feature]
            model.policy.action_net.bias[action] = mean[feature]
    return model
