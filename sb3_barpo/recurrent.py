"""The recurrent algorithms under their former address; they live in :mod:`sb3_barpo.training.recurrent`."""

from sb3_barpo.training.recurrent import RecurrentARPO, RecurrentBARPO, RobustRecurrentPPO

__all__ = ["RecurrentARPO", "RecurrentBARPO", "RobustRecurrentPPO"]
