"""Guarantees: what a network can answer anywhere in a box of inputs, and what an agent does and earns under attack."""

from sb3_barpo.certify.actions import CertifiedChoice, CertifiedMean, certify_actions, check_certifiable
from sb3_barpo.certify.bounds import OutputBounds, actor_bounds, actor_modules, box_around, crown, enclose, intervals
from sb3_barpo.certify.returns import CertifiedReturn, NoisyModel, certify_return, radius_of

__all__ = [
    "CertifiedChoice",
    "CertifiedMean",
    "CertifiedReturn",
    "NoisyModel",
    "OutputBounds",
    "actor_bounds",
    "actor_modules",
    "box_around",
    "certify_actions",
    "certify_return",
    "check_certifiable",
    "crown",
    "enclose",
    "intervals",
    "radius_of",
]
