"""
Sensors in their own units: a spec sheet, and what it means for adversaries, attacks and training.

A :class:`Sensors` sheet compiles to the ball of its worst case (:func:`ball`), to the random faults of real sensors
(:class:`SensorFaults`, :class:`VecSensorFaults`, :class:`SensorNoise`), and to a ranking of the sensors by what their
errors cost (:func:`rank_sensors`).
"""

from sb3_barpo.sensors.attack import SensorNoise
from sb3_barpo.sensors.channels import CHANNELS, evaluate_channels
from sb3_barpo.sensors.faults import Faults
from sb3_barpo.sensors.features import FEATURES
from sb3_barpo.sensors.ranking import SensorRanking, rank_sensors
from sb3_barpo.sensors.sheet import Feature, Sensor, Sensors
from sb3_barpo.sensors.worst_case import RefreshBall, ball, refresh
from sb3_barpo.sensors.wrappers import SensorFaults, VecSensorFaults

__all__ = [
    "CHANNELS",
    "FEATURES",
    "Faults",
    "Feature",
    "RefreshBall",
    "Sensor",
    "SensorFaults",
    "SensorNoise",
    "SensorRanking",
    "Sensors",
    "VecSensorFaults",
    "ball",
    "evaluate_channels",
    "rank_sensors",
    "refresh",
]
