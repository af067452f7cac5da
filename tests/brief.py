"""
Pendulum with episodes of 20 steps, as ``brief:Brief-v0``. Worker processes and programs find it by this name; its
dynamics, spaces and ε are Pendulum's.
"""

import gymnasium as gym

BRIEF = "brief:Brief-v0"

gym.register("Brief-v0", "gymnasium.envs.classic_control:PendulumEnv", max_episode_steps=20)
