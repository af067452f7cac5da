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

from sb3_barpo.attacks import Attack, VecAttackObservation

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
        return self.state.astype(np.float32)


def systems(n_envs: int = 8) -> VecEnv:
    return make_vec_env(lambda: TimeLimit(LinearSystem(), HORIZON), n_envs=n_envs, seed=0)


def controller(log_std: float = -1.0) -> PPO:
    """The victim that does ``-gain · s``, exactly; its critic is untrained."""
    model = PPO("MlpPolicy", systems(1), seed=0, device="cpu", policy_kwargs={"net_arch": [], "log_std_init": log_std})
    with th.no_grad():
        model.policy.action_net.weight.copy_(-th.diag(th.as_tensor(GAIN)))
        model.policy.action_net.bias.zero_()
    return model


def returns_of(starts: np.ndarray, epsilon: float) -> np.ndarray:
    """
    The worst returns from the given starts; the natural ones at strength 0. The victim makes ``s' = c s - l δ`` of the
    state, with the contraction 0 < c < 1, the lever l > 0 and the perturbation δ. A larger state now is never a smaller
    one later, so the worst perturbation is always ``-ε sign(s)``, and after t steps
    ``|s| = c^t |s_0| + l ε (1 - c^t) / (1 - c)``.
    """
    powers = CONTRACTION ** np.arange(1, HORIZON + 1)[:, None, None]
    sizes = powers * np.abs(starts) + LEVER * epsilon * (1 - powers) / (1 - CONTRACTION)
    return -(sizes**2 @ COST).sum(0)


def play(model: PPO, attack: Attack, n_episodes: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Starts and returns of the victim's episodes under attack."""
    venv = VecAttackObservation(systems(n_episodes), attack)
    venv.seed(11)
    seen = venv.reset()
    starts, returns = np.array(venv.get_attr("state")), np.zeros(n_episodes)
    for _ in range(HORIZON):
        seen, rewards, dones, _ = venv.step(model.predict(seen, deterministic=True)[0])
        returns += rewards
    assert dones.all()
    return starts, returns


def damage(model: PPO, attack: Attack) -> np.ndarray:
    """What the attack takes of each return, relative to what the worst adversary would take."""
    starts, returns = play(model, attack)
    natural, worst = returns_of(starts, 0.0), returns_of(starts, attack.epsilon)
    return (natural - returns) / (natural - worst)
