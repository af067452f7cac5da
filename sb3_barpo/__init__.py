"""Adversarially robust PPO for Stable-Baselines3: ARPO, BARPO, other defences, attacks on observations, evaluation."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sb3_barpo.training.presets import ARPO, BARPO, CARPPO, RADIALPPO, SAPPO, SPPO, ConvexSAPPO, WocaRPPO

if TYPE_CHECKING:
    from sb3_barpo.agents.pretrained import load_pretrained as load_pretrained
    from sb3_barpo.comparison import compare as compare
    from sb3_barpo.evaluation.callbacks import RobustEvalCallback as RobustEvalCallback
    from sb3_barpo.training.alternating import ATLA as ATLA
    from sb3_barpo.training.recurrent import RecurrentARPO as RecurrentARPO
    from sb3_barpo.training.recurrent import RecurrentATLA as RecurrentATLA
    from sb3_barpo.training.recurrent import RecurrentBARPO as RecurrentBARPO
    from sb3_barpo.training.recurrent import RecurrentCARPPO as RecurrentCARPPO
    from sb3_barpo.training.recurrent import RecurrentSAPPO as RecurrentSAPPO

__version__ = "0.1.0"

__all__ = ["ARPO", "BARPO", "CARPPO", "RADIALPPO", "SAPPO", "SPPO", "ConvexSAPPO", "WocaRPPO", "__version__"]


#: What is imported only when it is asked for: the recurrent forms, since sb3-contrib is an extra, ATLA, since it brings
#: the attacks along, and what is no algorithm.
_LAZY = {
    "ATLA": "training.alternating",
    "RecurrentARPO": "training.recurrent",
    "RecurrentATLA": "training.recurrent",
    "RecurrentBARPO": "training.recurrent",
    "RecurrentCARPPO": "training.recurrent",
    "RecurrentSAPPO": "training.recurrent",
    "RobustEvalCallback": "evaluation.callbacks",  # by this name in the RL Zoo's files of settings
    "compare": "comparison",
    "load_pretrained": "agents.pretrained",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
