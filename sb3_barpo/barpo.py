"""BARPO: bilevel adversarially robust policy optimization."""

from typing import ClassVar

from sb3_barpo.adversary import KL, Adversary, WarmStart
from sb3_barpo.robust_ppo import RobustPPO


class BARPO(RobustPPO):
    """
    PPO against the adversary that moves the policy most, of modulated strength (Li et al., ICLR 2026, section 4).

    Inner problem: ``max KL(π(·|s) ‖ π(·|s'))`` over the ball, by SGLD. Outer problem: PPO's surrogate at ``s'``, plus κ
    times the clean one. The KL stands in for the damage to the return, which it bounds from below to first order
    (Theorem 4.1), without the valleys that the strongest adversary cuts into the landscape.

    All arguments: :class:`sb3_barpo.robust_update.RobustUpdate`. κ = 1 ("guided") by default; ``kappa=0`` is "without
    guidance".
    """

    default_kappa: ClassVar[float] = 1.0

    def default_adversary(self) -> Adversary:
        return Adversary(KL(), WarmStart())
