"""A seat in the RL Zoo."""

from sb3_barpo.zoo.programs import ALGORITHMS, COMMANDS, check_settings, launch, prepare, register, run

__all__ = ["ALGORITHMS", "COMMANDS", "check_settings", "launch", "prepare", "register", "run"]
