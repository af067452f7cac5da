"""The algorithms on SB3's PPO: each is a line, its defence."""

from stable_baselines3 import PPO

from sb3_barpo.adversary import KL, Surrogate
from sb3_barpo.losses import Defence, WorstCase
from sb3_barpo.training.robust import RobustUpdate


class RobustPPO(RobustUpdate, PPO):
    """The parent of all that follow. Arguments: :class:`sb3_barpo.training.robust.RobustUpdate`."""


class ARPO(RobustPPO):
    """
    PPO against the strongest adversary (Li et al., ICLR 2026, section 3).

    Inner problem: ``max -surr(s')`` over the ball, by SGLD. Outer problem: PPO's surrogate at ``s'``. It finds robust
    policies of low natural return: the tension that BARPO relaxes.

    All arguments: :class:`sb3_barpo.training.robust.RobustUpdate`. κ = 0 ("vanilla") by default; ``kappa=1`` is "ARPO
    with guidance".
    """

    defence = Defence(Surrogate(), WorstCase(kappa=0.0))


class BARPO(RobustPPO):
    """
    PPO against the adversary that moves the policy most, of modulated strength (Li et al., ICLR 2026, section 4).

    Inner problem: ``max KL(π(·|s) ‖ π(·|s'))`` over the ball, by SGLD. Outer problem: PPO's surrogate at ``s'``, plus κ
    times the clean one. The KL stands in for the damage to the return, which it bounds from below to first order
    (Theorem 4.1), without the valleys that the strongest adversary cuts into the landscape.

    All arguments: :class:`sb3_barpo.training.robust.RobustUpdate`. κ = 1 ("guided") by default; ``kappa=0`` is "without
    guidance".
    """

    defence = Defence(KL(), WorstCase(kappa=1.0))
