"""ARPO, BARPO and the other algorithms of this package in the RL Zoo."""

from sb3_barpo.zoo.programs import COMMANDS, check_agent, launch, prepare, run
from sb3_barpo.zoo.registration import ALGORITHMS, register
from sb3_barpo.zoo.settings import check_settings

__all__ = ["ALGORITHMS", "COMMANDS", "check_agent", "check_settings", "launch", "prepare", "register", "run"]
