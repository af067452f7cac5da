"""Evaluation under attack: episodes to tidy rows, rows to a report, tables and pictures; a callback for training."""

from sb3_barpo.evaluation.callbacks import RobustEvalCallback
from sb3_barpo.evaluation.channels import CHANNELS, evaluate_channels
from sb3_barpo.evaluation.ranking import SensorRanking, rank_sensors
from sb3_barpo.evaluation.report import RobustnessReport
from sb3_barpo.evaluation.robustness import evaluate_robustness

__all__ = [
    "CHANNELS",
    "RobustEvalCallback",
    "RobustnessReport",
    "SensorRanking",
    "evaluate_channels",
    "evaluate_robustness",
    "rank_sensors",
]
