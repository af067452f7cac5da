"""
Adversaries: an objective to raise, a ball to stay in, a solver that climbs.

Training adversaries and evaluation attacks are pairings of these parts. The package knows policies and tensors, and no
environment.
"""

from sb3_barpo.adversary.adversary import Adversary, Draws, Perturbation
from sb3_barpo.adversary.balls import Ball, L2Ball, LinfBall, as_ball
from sb3_barpo.adversary.goals import Samples
from sb3_barpo.adversary.held import HeldLimits, SpaceWarning, space_warning, warn_of_space
from sb3_barpo.adversary.layout import Observations, layout_of
from sb3_barpo.adversary.limits import Bounds, DictBounds, bounds_of, observation_bounds
from sb3_barpo.adversary.limits_of_actions import Limit, TowardsWorst, limits_of
from sb3_barpo.adversary.objectives import (
    KL,
    ActionValue,
    Objective,
    Surrogate,
    Towards,
    Value,
    Weighted,
    clipped_surrogate,
)
from sb3_barpo.adversary.q_network import QNetwork
from sb3_barpo.adversary.reachable import ReachableBall
from sb3_barpo.adversary.solvers import PGD, SGLD, AutoPGD, Solver, Uniform, WarmStart
from sb3_barpo.adversary.spec import DEFAULT_SOLVER, AdversaryLike, as_adversary, solver_spec
from sb3_barpo.adversary.timing import Timing
from sb3_barpo.policies.evaluate import Policy
from sb3_barpo.policies.spaces import check_observation_space, is_finite

__all__ = [
    "DEFAULT_SOLVER",
    "KL",
    "PGD",
    "SGLD",
    "ActionValue",
    "Adversary",
    "AdversaryLike",
    "AutoPGD",
    "Ball",
    "Bounds",
    "DictBounds",
    "Draws",
    "HeldLimits",
    "L2Ball",
    "Limit",
    "LinfBall",
    "Objective",
    "Observations",
    "Perturbation",
    "Policy",
    "QNetwork",
    "ReachableBall",
    "Samples",
    "Solver",
    "SpaceWarning",
    "Surrogate",
    "Timing",
    "Towards",
    "TowardsWorst",
    "Uniform",
    "Value",
    "WarmStart",
    "Weighted",
    "as_adversary",
    "as_ball",
    "bounds_of",
    "check_observation_space",
    "clipped_surrogate",
    "is_finite",
    "layout_of",
    "limits_of",
    "observation_bounds",
    "solver_spec",
    "space_warning",
    "warn_of_space",
]
