"""One small task that shows itself in every kind of observation."""

from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from helpers import TINY
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecTransposeImage

from sb3_barpo.adversary import LinfBall

SIZE = 36  # the smallest image that SB3's NatureCNN takes
IMAGE = spaces.Box(0, 255, (SIZE, SIZE, 1), np.uint8)
VECTOR = spaces.Box(-1.0, 1.0, (2,))
SIGHTS: dict[str, spaces.Space[Any]] = {
    "vector": VECTOR,
    "matrix": spaces.Box(-np.inf, np.inf, (3, 2)),
    "double": spaces.Box(-1.0, 1.0, (2,), np.float64),
    "bytes": spaces.Box(0, 255, (6,), np.uint8),
    "integers": spaces.Box(-3, 3, (2,), np.int64),
    "words": spaces.Box(0, 40, (2,), np.uint16),
    "flags": spaces.Box(0, 1, (6,), np.bool_),
    "half": spaces.Box(-1.0, 1.0, (2,), np.float16),
    "image": IMAGE,
    "image_first": spaces.Box(0, 255, (1, SIZE, SIZE), np.uint8),
    "stack": IMAGE,
    "dict": spaces.Dict({"camera": IMAGE, "mode": spaces.Discrete(3), "imu": VECTOR}),
    "vectors": spaces.Dict({"imu": VECTOR, "gps": spaces.Box(-np.inf, np.inf, (3,))}),
    "types": spaces.Dict(
        {
            "imu": VECTOR,
            "contacts": spaces.Box(0, 1, (3,), np.bool_),
            "ticks": spaces.Box(0, 40, (2,), np.uint16),
            "rough": spaces.Box(-1.0, 1.0, (2,), np.float16),
            "clean_contacts": spaces.Box(0, 1, (3,), np.bool_),
            "clean_ticks": spaces.Box(0, 40, (2,), np.uint16),
        }
    ),
}
ACTIONS: dict[str, spaces.Space[Any]] = {
    "box": spaces.Box(-1.0, 1.0, (2,)),
    "sde": spaces.Box(-1.0, 1.0, (2,)),
    "squashed": spaces.Box(-1.0, 1.0, (2,)),
    "discrete": spaces.Discrete(3),
    "multi_discrete": spaces.MultiDiscrete([2, 3]),
    "multi_binary": spaces.MultiBinary(2),
}
#: How far each may move, in its own units.
EPSILON = {"bytes": 8.0, "integers": 3.0, "image": 8.0, "image_first": 8.0, "stack": 8.0}
EPSILON |= {"words": 5.0, "flags": 1.0}
BALLS = {"dict": {"camera": 80.0, "imu": 1.0}}
BALLS["types"] = {"imu": 1.0, "contacts": 10.0, "ticks": 50.0, "rough": 1.0}


class Drift(gym.Env[Any, Any]):
    """A point that drifts and is pushed by the actions; ten steps an episode."""

    def __init__(self, sight: str, action: str) -> None:
        self.observation_space = SIGHTS[sight]
        self.action_space = ACTIONS[action]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._place, self._time = self.np_random.uniform(-1, 1, 2), 0
        return _show(self.observation_space, self._place), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        push = float(np.mean(action))
        self._place = np.clip(0.9 * self._place + 0.1 * push + self.np_random.normal(0, 0.05, 2), -1, 1)
        self._time += 1
        reward = 1 - float(np.abs(self._place).sum())
        return _show(self.observation_space, self._place), reward, False, self._time == 10, {}


def _show(space: spaces.Space[Any], place: np.ndarray) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _show(part, place) for key, part in space.items()}
    if isinstance(space, spaces.Discrete):
        return int(place[0] > 0)
    assert isinstance(space, spaces.Box)
    if np.prod(space.shape) > 100:  # a bright spot
        spot = np.exp(
            -20 * ((np.linspace(-1, 1, SIZE)[:, None] - place[0]) ** 2 + (np.linspace(-1, 1, SIZE) - place[1]) ** 2)
        )
        return (255 * spot).astype(space.dtype).reshape(space.shape)
    values = np.resize(place, space.shape)
    if np.issubdtype(space.dtype, np.floating):
        return values.astype(space.dtype)
    low, high = (end.astype(float) for end in (space.low, space.high))
    return np.round(low + (values + 1) / 2 * (high - low)).astype(space.dtype)


def make_sights(sight: str, action: str = "box", n_envs: int = 2) -> VecEnv:
    """As the policy sees them, images with their channels first."""
    venv = make_vec_env(lambda: Drift(sight, action), n_envs=n_envs, seed=7)
    if sight == "stack":
        venv = VecFrameStack(venv, 2)
    return VecTransposeImage(venv) if sight in ("image", "stack", "dict") else venv


def policy_of(sight: str, action: str) -> dict[str, Any]:
    """PPO's arguments for such observations and actions."""
    policy = "MultiInputPolicy" if isinstance(SIGHTS[sight], spaces.Dict) else "MlpPolicy"
    if sight in ("image", "image_first", "stack"):
        policy = "CnnPolicy"
    kwargs: dict[str, Any] = {"net_arch": [16]}
    if policy == "CnnPolicy":
        kwargs["features_extractor_kwargs"] = {"features_dim": 16}
    if sight == "dict":
        kwargs["features_extractor_kwargs"] = {"cnn_output_dim": 16}
    if action == "squashed":
        kwargs["squash_output"] = True
    use_sde = action in ("sde", "squashed")  # SB3 squashes only with it
    return {"policy": policy, "policy_kwargs": kwargs, "use_sde": use_sde, **TINY}


def agent(algorithm: type[PPO], sight: str, action: str = "box", n_envs: int = 2, **own: Any) -> PPO:
    """An untrained one, which minds what it sees as a trained one does: SB3 begins with almost constant actions."""
    model = algorithm(env=make_sights(sight, action, n_envs), **{**policy_of(sight, action), **own})
    with th.no_grad():
        model.policy.action_net.weight.mul_(100)
    return model


def agent_with_memory(algorithm: type[RecurrentPPO], sight: str, action: str = "box", **own: Any) -> RecurrentPPO:
    """The same with a small LSTM."""
    kwargs = policy_of(sight, action)
    kwargs["policy"] = kwargs["policy"].replace("Policy", "LstmPolicy")
    kwargs["policy_kwargs"]["lstm_hidden_size"] = 8
    model = algorithm(env=make_sights(sight, action), **{**kwargs, **own})
    with th.no_grad():
        model.policy.action_net.weight.mul_(100)
    return model


def ball_of(sight: str) -> LinfBall:
    return LinfBall(BALLS.get(sight, 1.0))


def epsilon_of(sight: str) -> float:
    return EPSILON.get(sight, 0.1)
