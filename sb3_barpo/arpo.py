"""ARPO: adversarially robust policy optimization."""

from sb3_barpo.adversary import Adversary, Surrogate, WarmStart
from sb3_barpo.robust_ppo import RobustPPO


class ARPO(RobustPPO):
    """
    PPO against the strongest adversary (Li et al., ICLR 2026, section 3).

    Inner problem: ``max -surr(s')`` over the ball, by SGLD. Outer problem: PPO's surrogate at ``s'``. It finds robust
    policies of low natural return: the tension that BARPO relaxes.

    All arguments: :class:`sb3_barpo.robust_update.RobustUpdate`. κ = 0 ("vanilla") by default; ``kappa=1`` is "ARPO
    with guidance".
    """

    def default_adversary(self) -> Adversary:
        return Adversary(Surrogate(), WarmStart())
