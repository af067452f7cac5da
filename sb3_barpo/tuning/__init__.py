"""
Tuning of defences with Optuna: a search space for each, a callback for trials, whole studies.

Needs the extra ``tune``: ``pip install "sb3-barpo[tune]"``.
"""

try:
    import optuna  # noqa: F401
    import psutil  # noqa: F401
except ImportError as error:
    raise ImportError(f'Tuning needs {error.name}: pip install "sb3-barpo[tune]"') from error

from sb3_barpo.tuning.callbacks import RobustTrialCallback
from sb3_barpo.tuning.confirm import Confirmation
from sb3_barpo.tuning.criteria import Blend, Criterion, Floor, Pareto, as_criterion
from sb3_barpo.tuning.spaces import Choices, Numbers, own_settings
from sb3_barpo.tuning.strength import StrengthSpace, strength_params, suggest_strength
from sb3_barpo.tuning.trials import Tuning
from sb3_barpo.tuning.tune import TuningResult, task, tune_strength
from sb3_barpo.tuning.workers import TuningError

__all__ = [
    "Blend",
    "Choices",
    "Confirmation",
    "Criterion",
    "Floor",
    "Numbers",
    "Pareto",
    "RobustTrialCallback",
    "StrengthSpace",
    "Tuning",
    "TuningError",
    "TuningResult",
    "as_criterion",
    "own_settings",
    "strength_params",
    "suggest_strength",
    "task",
    "tune_strength",
]
