"""An environment of a user's own, in a module of its own, registered when that is imported."""

import gymnasium as gym

gym.register("Tests/Own-v0", "gymnasium.envs.classic_control:PendulumEnv", max_episode_steps=10)
