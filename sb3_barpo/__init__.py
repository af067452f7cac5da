"""Adversarially robust PPO for Stable-Baselines3: ARPO and BARPO, attacks on observations, evaluation under attack."""

from sb3_barpo.arpo import ARPO
from sb3_barpo.barpo import BARPO

__version__ = "0.1.0"

__all__ = ["ARPO", "BARPO", "__version__"]
