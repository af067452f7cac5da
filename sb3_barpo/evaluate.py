"""The campaign of ``evaluate`` under its former address; it lives in :mod:`sb3_barpo.evaluation.campaign`."""

from sb3_barpo.evaluation.campaign import evaluate

__all__ = ["evaluate"]
