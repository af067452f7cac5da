"""Evaluation under attack: episodes to tidy rows, rows to a report, tables and pictures; a callback for training."""

from sb3_barpo.evaluation.callbacks import RobustEvalCallback
from sb3_barpo.evaluation.report import RobustnessReport
from sb3_barpo.evaluation.robustness import evaluate_robustness

__all__ = ["RobustEvalCallback", "RobustnessReport", "evaluate_robustness"]
