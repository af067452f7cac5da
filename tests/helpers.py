"""Small environments, and ears for what a model logs and what its adversary does."""

import copy
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_barpo.adversary import Perturbation

#: Settings with which a model trains in a blink: rollouts of 32 steps in one environment, 4 minibatches each.
TINY: dict[str, Any] = {"n_steps": 32, "batch_size": 16, "n_epochs": 2, "device": "cpu", "seed": 3}

CLOCK = {"time/fps", "time/time_elapsed"}


def make_envs(env_id: str = "Pendulum-v1", n_envs: int = 1, normalized: bool = False) -> VecEnv:
    """Episodes of at most 20 steps, so that each rollout sees some of them end."""
    venv = make_vec_env(env_id, n_envs=n_envs, seed=7, env_kwargs={"max_episode_steps": 20})
    return VecNormalize(venv) if normalized else venv


class LogBook(KVWriter):
    """Keeps every dump of a logger."""

    def __init__(self) -> None:
        self.dumps: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        self.dumps.append(dict(key_values))

    def column(self, key: str) -> list[Any]:
        return [dump[key] for dump in self.dumps if key in dump]


def learn(model: PPO, total_timesteps: int, **kwargs: Any) -> LogBook:
    """Train, and give back all logs: SB3 writes those of the last update only with the next rollout."""
    book = LogBook()
    model.set_logger(Logger(folder=None, output_formats=[book]))
    model.learn(total_timesteps, **kwargs)
    model.logger.dump()
    return book


def weights(model: PPO) -> dict[str, th.Tensor]:
    return {name: value.detach().clone() for name, value in model.policy.state_dict().items()}


def same(left: Any, right: Any) -> bool:
    """Whether two state dicts hold the same, bit for bit."""
    if isinstance(left, th.Tensor):
        return isinstance(right, th.Tensor) and th.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def assert_same_training(
    model: PPO, book: LogBook, ppo: PPO, ppo_book: LogBook, but: frozenset[str] = frozenset()
) -> None:
    """Weights, optimiser and all that both log but some keys, bit for bit."""
    assert same(weights(model), weights(ppo))
    assert same(model.policy.optimizer.state_dict(), ppo.policy.optimizer.state_dict())
    for theirs, ours in zip(ppo_book.dumps, book.dumps, strict=True):
        assert {key for key in ours if not key.startswith("adversary/")} == set(theirs)
        keys = set(theirs) - CLOCK - but
        assert {key: ours[key] for key in keys} == {key: theirs[key] for key in keys}


@dataclass
class Call:
    """One call of the adversary."""

    observations: th.Tensor
    perturbed: th.Tensor
    epsilon: float


def spy(model: PPO) -> list[Call]:
    """Write down from now on what the model's adversary is asked and what it answers."""
    calls: list[Call] = []
    search = model._adversary.search

    def listen(policy: Any, observations: th.Tensor, epsilon: float, *args: Any, **kwargs: Any) -> Perturbation:
        found = search(policy, observations, epsilon, *args, **kwargs)
        calls.append(Call(copy.deepcopy(observations), found.observations, epsilon))
        return found

    model._adversary.search = listen
    return calls


class General(ActorCriticPolicy):
    """SB3's policy; a method of its own keeps it from being recognised."""

    def predict_values(self, obs: Any) -> th.Tensor:
        return super().predict_values(obs)


class Still(gym.Env[Any, Any]):
    """Nothing happens here, in spaces of one's choice."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any] | None = None) -> None:
        self.observation_space = observation_space
        self.action_space = spaces.Discrete(2) if action_space is None else action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self._look(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self._look(), float(np.mean(action)), False, False, {}

    def _look(self) -> Any:
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        return self.observation_space.sample()
