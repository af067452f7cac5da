"""The loss of WocaR-PPO."""

from dataclasses import dataclass
from typing import Any

import torch as th
from gymnasium import spaces

from sb3_barpo.adversary import Adversary, Samples, clipped_surrogate
from sb3_barpo.certify import OutputBounds, actor_bounds, actor_modules
from sb3_barpo.losses.base import OuterLoss, Rollout, Rows, Terms
from sb3_barpo.losses.worst_critic import WorstCritic, by_time, in_order, transitions
from sb3_barpo.schedules import ScheduleLike

#: Rows whose bounds are computed at once: they need a matrix each.
_CHUNK = 512


@dataclass(frozen=True)
class WorstValue(OuterLoss):
    """
    ``-mean surr'(s) + λ mean i(s) D_KL(π(·|s) ‖ π(·|s'))``. The surrogate's advantage is ``A + w Q``, where Q,
    normalised in each minibatch, is what the action is worth if an adversary chooses all later ones; ``i(s)``, of mean
    1, is how much the actions within the adversary's reach differ in Q (WocaR-PPO, Liang et al., "Efficient Adversarial
    Training without Attacking: Worst-Case-Aware Robust Reinforcement Learning", NeurIPS 2022).

    Q is fitted to each rollout for ten epochs, and goes on from rollout to rollout. It is not saved with the model:
    after loading it begins anew. The reach is bounded by CROWN at the strength ε; the published code has intervals of
    radius 0.01 whatever ε, and no ``i(s)``.

    :param weight: w of the worst-case value, a number or a schedule.
    :param penalty: λ of the divergence, a number or a schedule. Both 0 is PPO.
    :raises ValueError: for a negative or not finite weight or penalty.
    """

    weight: ScheduleLike = "linear_0_0.8"
    penalty: ScheduleLike = 0.2

    @property
    def is_ppo(self) -> bool:
        return self.weight == 0 and self.penalty == 0

    def check(self, policy: Any, adversary: Adversary) -> None:
        actor_modules(policy)

    def begin(self, rollout: Rollout) -> th.Tensor:
        buffer, policy = rollout.buffer, rollout.policy
        discrete = isinstance(policy.action_space, spaces.Discrete)
        seen = th.as_tensor(by_time(buffer, "observations"), device=policy.device).flatten(0, 1)
        with th.no_grad():
            found = [actor_bounds(policy, rollout.box(some)) for some in th.split(seen, _CHUNK)]
        reach = OutputBounds(*(th.cat(ends) for ends in zip(*found, strict=True)))
        critic: WorstCritic | None = rollout.memory.get("critic")
        if critic is None:
            critic = WorstCritic(policy.observation_space, policy.action_space, policy.device, rollout.generator)
            rollout.memory["critic"] = critic
        critic.fit(transitions(buffer, reach, policy.device, discrete), buffer.gamma, rollout.generator)
        actions = th.as_tensor(by_time(buffer, "actions"), device=policy.device).flatten(0, 1)
        with th.no_grad():
            values = critic.q(seen, actions.long().squeeze(1) if discrete else actions)
        spread = critic.spread(seen, reach)
        importance = spread / spread.mean().clamp(min=th.finfo(spread.dtype).tiny)
        return th.stack([in_order(buffer, notes) for notes in (values, importance)])

    def __call__(self, rows: Rows, samples: Samples) -> Terms:
        assert rows.notes is not None  # `begin` has made them; for the types' sake
        values, importance = rows.notes
        counted = values if samples.mask is None else values[samples.mask]
        if len(counted) > 1:  # one sample has no spread
            values = (values - counted.mean()) / (counted.std() + 1e-8)
        advantages = samples.advantages + self.weight * values  # a number, after `at`
        guided = samples.mean(clipped_surrogate(rows.log_prob[0], samples._replace(advantages=advantages)))
        divergence = samples.mean(importance * rows.kl())
        loss = -guided + self.penalty * divergence  # type: ignore[operator]
        logs = {"clean_surrogate": guided.detach(), "regulariser": divergence.detach(), "worst_value": counted.mean()}
        return Terms(loss, logs)
