"""SB3's PPO with an adversary in the loop."""

from stable_baselines3 import PPO

from sb3_barpo.robust_update import RobustUpdate


class RobustPPO(RobustUpdate, PPO):
    """The parent of :class:`ARPO` and :class:`BARPO`. All arguments: :class:`sb3_barpo.robust_update.RobustUpdate`."""
