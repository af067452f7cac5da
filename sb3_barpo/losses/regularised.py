"""The loss of SA-PPO, and with the penalty discounted over an episode that of TDRT."""

from dataclasses import dataclass, field
from numbers import Real

import numpy as np
import torch as th

from sb3_barpo.adversary import Samples, clipped_surrogate
from sb3_barpo.losses.base import OuterLoss, Rollout, Rows, Terms, named
from sb3_barpo.losses.surrogate import surrogate_and_slope
from sb3_barpo.losses.worst_critic import by_time, in_order
from sb3_barpo.policies.by_hand import Slopes
from sb3_barpo.schedules import ScheduleLike


@dataclass(frozen=True)
class Regularised(OuterLoss):
    """
    ``-mean surr(s) + λ mean D_KL(π(·|s) ‖ π(·|s'))``: PPO, and a policy that changes little within the ball (SA-PPO,
    Zhang et al., "Robust Deep Reinforcement Learning against Adversarial Perturbations on State Observations", NeurIPS
    2020, equation 8).

    The divergence is exact; the published code leaves out the Gaussian's ½, so that its weight is half of λ. Nothing is
    detached: both sides of the divergence and the standard deviation are pulled, where the published code holds the
    clean mean fixed.

    :param weight: λ, a number or a schedule; 0 is PPO.
    :raises ValueError: for a negative or not finite λ.
    """

    weight: ScheduleLike = 1.0

    @property
    def is_ppo(self) -> bool:
        return self.weight == 0

    def __call__(self, rows: Rows, samples: Samples) -> Terms:
        clean = samples.mean(clipped_surrogate(rows.log_prob[0], samples))
        kl = rows.kl() if rows.notes is None else rows.notes[0] * rows.kl()
        divergence = samples.mean(kl)
        loss = -clean + self.weight * divergence  # type: ignore[operator]  # a number, after `at`
        return Terms(loss, {"clean_surrogate": clean.detach(), "regulariser": divergence.detach()})

    def slopes(self, rows: Rows, samples: Samples) -> Slopes:
        weight: float = self.weight  # type: ignore[assignment]  # a number, after `at`
        surrogate, slope = surrogate_and_slope(rows.log_prob[0], samples)
        kl = rows.kl()
        clean, divergence = surrogate.mean(), kl.mean()
        to_log_prob = th.stack([slope.div_(-len(kl)), th.zeros_like(slope)])
        logs = named({"clean_surrogate": clean, "regulariser": divergence})
        return Slopes(weight * divergence - clean, logs, to_log_prob, th.full_like(kl, weight / len(kl)))


@dataclass(frozen=True)
class TimeDiscounted(Regularised):
    """
    ``-mean surr(s) + λ mean γ^t D_KL(π(·|s) ‖ π(·|s'))``, t steps after an episode's beginning: early steps count most,
    since what an attack does there all later ones inherit (TDRT, Yamabe et al., "Robust Deep Reinforcement Learning
    against Adversarial Behavior Manipulation", arXiv 2406.03862).

    Steps are counted from rollout to rollout, as long as the strength is above 0; the count is not saved with the
    model, as SB3 begins new episodes when training is continued.

    :param weight: λ, a number or a schedule; 0 is PPO.
    :param discount: γ, above 0 and at most 1; 1 is SA-PPO.
    :raises ValueError: for a negative or not finite λ, or a γ out of range.
    """

    discount: float = field(default=0.99, metadata={"schedule": False})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.discount, Real) or isinstance(self.discount, bool) or not 0 < self.discount <= 1:
            raise ValueError(f"discount must be above 0 and at most 1, but it is {self.discount!r}. 0.99 is usual.")

    def begin(self, rollout: Rollout) -> th.Tensor:
        buffer = rollout.buffer
        # Of minibatches that were drawn already, sb3-contrib's buffer has put these in order, too, SB3's has not.
        ordered = buffer.episode_starts.shape == buffer.rewards.shape
        starts = buffer.episode_starts if ordered else by_time(buffer, "episode_starts")
        age = rollout.memory.get("age", np.zeros(buffer.n_envs))
        ages = np.empty(buffer.rewards.shape)
        for step, started in enumerate(starts):
            ages[step] = age = np.where(started, 0, age)
            age = age + 1
        rollout.memory["age"] = age
        weights = th.as_tensor(self.discount**ages, dtype=th.float32, device=rollout.policy.device)
        return in_order(buffer, weights.flatten())[None]
