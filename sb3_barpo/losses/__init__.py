"""
Outer losses: what the policy descends on what an adversary found.

A defence is an adversary together with an outer loss. An algorithm names its own in one line:
``defence = Defence(KL(), WorstCase(kappa=1.0))``.
"""

from sb3_barpo.losses.base import Defence, OuterLoss, Rollout, Rows, Terms
from sb3_barpo.losses.bounded import Bounded, RegularisedByBounds
from sb3_barpo.losses.regularised import Regularised, TimeDiscounted
from sb3_barpo.losses.soft_worst import SoftWorst
from sb3_barpo.losses.worst_case import WorstCase
from sb3_barpo.losses.worst_value import WorstValue

__all__ = [
    "Bounded",
    "Defence",
    "OuterLoss",
    "Regularised",
    "RegularisedByBounds",
    "Rollout",
    "Rows",
    "SoftWorst",
    "Terms",
    "TimeDiscounted",
    "WorstCase",
    "WorstValue",
]
