"""
Sensors in their own units: a spec sheet, and what it means for adversaries, attacks and training.

A :class:`Sensors` sheet compiles to the ball of its worst case (:func:`ball`), to the random faults of real sensors
(:class:`SensorFaults`, :class:`VecSensorFaults`, :class:`SensorNoise`). :func:`sb3_barpo.evaluation.rank_sensors` ranks
the sensors by what their errors cost.
"""

from sb3_barpo.sensors.attack import SensorNoise
from sb3_barpo.sensors.faults import Faults
from sb3_barpo.sensors.features import FEATURES
from sb3_barpo.sensors.sheet import Feature, Sensor, Sensors, SensorsLike, as_sensors
from sb3_barpo.sensors.worst_case import EPSILON_OF_SHEET, ball, refresh, within_sheet
from sb3_barpo.sensors.wrappers import SensorFaults, VecSensorFaults

__all__ = [
    "EPSILON_OF_SHEET",
    "FEATURES",
    "Faults",
    "Feature",
    "Sensor",
    "SensorFaults",
    "SensorNoise",
    "Sensors",
    "SensorsLike",
    "VecSensorFaults",
    "as_sensors",
    "ball",
    "refresh",
    "within_sheet",
]
