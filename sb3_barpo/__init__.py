"""Adversarially robust PPO for Stable-Baselines3: ARPO, BARPO, other defences, attacks on observations, evaluation."""

from typing import TYPE_CHECKING, Any

from sb3_barpo.training.presets import ARPO, BARPO, CARPPO, RADIALPPO, SAPPO, ConvexSAPPO, WocaRPPO

if TYPE_CHECKING:
    from sb3_barpo.comparison import compare as compare
    from sb3_barpo.evaluation.callbacks import RobustEvalCallback as RobustEvalCallback
    from sb3_barpo.training.alternating import ATLA as ATLA
    from sb3_barpo.training.recurrent import RecurrentARPO as RecurrentARPO
    from sb3_barpo.training.recurrent import RecurrentBARPO as RecurrentBARPO
    from sb3_barpo.training.recurrent import RecurrentCARPPO as RecurrentCARPPO
    from sb3_barpo.training.recurrent import RecurrentSAPPO as RecurrentSAPPO

__version__ = "0.1.0"

__all__ = ["ARPO", "BARPO", "CARPPO", "RADIALPPO", "SAPPO", "ConvexSAPPO", "WocaRPPO", "__version__"]


def __getattr__(name: str) -> Any:
    """
    What is imported only when it is asked for: the recurrent forms, since sb3-contrib is an extra, ATLA, since it
    brings the attacks along, and what is no algorithm.
    """
    if name == "compare":
        from sb3_barpo.comparison import compare

        return compare
    if name == "RobustEvalCallback":  # by this name in the RL Zoo's files of settings
        from sb3_barpo.evaluation.callbacks import RobustEvalCallback

        return RobustEvalCallback
    if name == "ATLA":
        from sb3_barpo.training.alternating import ATLA

        return ATLA
    if name in ("RecurrentARPO", "RecurrentBARPO", "RecurrentCARPPO", "RecurrentSAPPO"):
        from sb3_barpo.training import recurrent

        return getattr(recurrent, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
