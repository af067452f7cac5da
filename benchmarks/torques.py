"""InvertedDoublePendulum-v5 with five torques to choose from: ``gymnasium.make("torques:Torques-v0")``."""

from typing import Any

import gymnasium as gym
import numpy as np

TORQUES = np.linspace(-1, 1, 5, dtype=np.float32)[:, None]


def make(**kwargs: Any) -> gym.Env[Any, Any]:
    env = gym.make("InvertedDoublePendulum-v5", **kwargs)
    return gym.wrappers.TransformAction(env, TORQUES.__getitem__, gym.spaces.Discrete(len(TORQUES)))


gym.register("Torques-v0", make)
