"""SB3's PPO with rollouts and updates by bare operations, for attackers that learn."""

from typing import Any

import numpy as np
import torch as th
from stable_baselines3 import PPO

from sb3_barpo.policies import by_hand
from sb3_barpo.policies.rollout import bare_forward
from sb3_barpo.vec_envs import quick_infos


class QuickPPO(PPO):
    """
    ``PPO`` that trains its own MLP policies by hand: equal up to rounding, in about half the time. With another policy
    or optimiser it is PPO. Arguments, files and logs are PPO's.
    """

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> bool:
        """As SB3 does it, bit for bit."""
        with bare_forward(self.policy), quick_infos(self.env):
            return super().collect_rollouts(*args, **kwargs)

    def train(self) -> None:
        """One update on the rollout."""
        if self.target_kl is not None or not by_hand.supports(self.policy, self.rollout_buffer):
            super().train()
            return
        self._update_learning_rate(self.policy.optimizer)
        progress = self._current_progress_remaining
        clip_range: float = self.clip_range(progress)  # type: ignore[operator]  # SB3 has made schedules of them
        clip_range_vf = None if self.clip_range_vf is None else self.clip_range_vf(progress)  # type: ignore[operator]
        settings = by_hand.Settings.of(self, clip_range, clip_range_vf)
        update = by_hand.UpdateByHand(self.policy, self.rollout_buffer, settings)
        self.logger.record("train/loss", update.run().item())
        self._n_updates += update.n_epochs_done
        for name, values in update.logs.items():
            self.logger.record(name, np.mean(th.stack(values).tolist()))
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/clip_range", clip_range)
