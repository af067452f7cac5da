"""The training loop under its former address; it lives in :mod:`sb3_barpo.training.robust`."""

from sb3_barpo.training.robust import RobustUpdate

__all__ = ["RobustUpdate"]
