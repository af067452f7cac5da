"""
The lab: why ARPO gets stuck and BARPO does not, in MDPs small enough to be solved exactly.

Values, gradients, the strongest adversary and first-order stationary policies are computed without samples or function
approximation, for many policies at once. Schedules and controllers of strength and guidance are those of training
(:mod:`sb3_barpo.schedules`, :mod:`sb3_barpo.controllers`).
"""

from sb3_barpo.lab.adversaries import Adversary, acting, clean, divergences, kl, mixture, strongest
from sb3_barpo.lab.ascent import METHODS, Method, Problem, ascend, gradient, measure, objective
from sb3_barpo.lab.ends import KINDS, basins, classify, grid, shares, slope
from sb3_barpo.lab.mdp import Evaluated, TabularMDP
from sb3_barpo.lab.policies import IntervalPolicy, Policy, SetPolicy
from sb3_barpo.lab.problems import FAMILIES, Found, any_crossing, any_mdp, footbridge, is_isa, search, swamp

__all__ = [
    "FAMILIES",
    "KINDS",
    "METHODS",
    "Adversary",
    "Evaluated",
    "Found",
    "IntervalPolicy",
    "Method",
    "Policy",
    "Problem",
    "SetPolicy",
    "TabularMDP",
    "acting",
    "any_crossing",
    "any_mdp",
    "ascend",
    "basins",
    "classify",
    "clean",
    "divergences",
    "footbridge",
    "gradient",
    "grid",
    "is_isa",
    "kl",
    "measure",
    "mixture",
    "objective",
    "search",
    "shares",
    "slope",
    "strongest",
    "swamp",
]
