"""
Two forms of InvertedDoublePendulum-v5: ``gymnasium.make("pendulums:Torques-v0")`` has five torques to choose from,
``gymnasium.make("pendulums:NoVelocity-v0")`` shows positions alone.
"""

from typing import Any

import gymnasium as gym
import numpy as np

ENV = "InvertedDoublePendulum-v5"
TORQUES = np.linspace(-1, 1, 5, dtype=np.float32)[:, None]
POSITIONS = 5  # the cart's, then sines and cosines of both angles; velocities and forces come after them


def torques(**kwargs: Any) -> gym.Env[Any, Any]:
    return gym.wrappers.TransformAction(gym.make(ENV, **kwargs), TORQUES.__getitem__, gym.spaces.Discrete(len(TORQUES)))


def no_velocity(**kwargs: Any) -> gym.Env[Any, Any]:
    env = gym.make(ENV, **kwargs)
    space = gym.spaces.Box(-np.inf, np.inf, (POSITIONS,), np.float64)
    return gym.wrappers.TransformObservation(env, lambda observation: observation[:POSITIONS], space)


gym.register("Torques-v0", torques)
gym.register("NoVelocity-v0", no_velocity)
