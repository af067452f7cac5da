"""
The loop and the loss before the outer loss became a part of its own, frozen: what training is held to, bit for bit.

It is the text of version 0.1.0 as of commit cfdba91, less the logs and the settings that the comparison leaves out.
Do not improve it.
"""

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from torch.nn import functional as F

from sb3_barpo.adversary import Samples, clipped_surrogate, layout_of, observation_bounds
from sb3_barpo.training.minibatches import LastVisits
from sb3_barpo.training.optim import fused


class OldTraining:
    """Before ``ARPO`` or ``BARPO``: trains as they did, at a constant strength above 0 and a constant kappa."""

    def train(self: Any) -> None:
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        self.bounds = observation_bounds(self.observation_space)
        with fused(self.policy.optimizer):
            self._old_epochs()

    def _old_epochs(self: Any) -> None:
        parameters = list(self.policy.parameters())
        again = self.n_epochs > 1 and self._adversary.solver.warm
        visits = LastVisits(self.rollout_buffer) if again else None
        for _ in range(self.n_epochs):
            batches = self.rollout_buffer.get if visits is None else visits.get
            for rollout_data in batches(self.batch_size):
                samples = self._old_samples(rollout_data)
                policy = self._policy_on(rollout_data)
                perturbed = self._old_perturb(policy, rollout_data.observations, samples, visits)
                loss = self._old_loss(policy, rollout_data, samples, perturbed)
                for parameter in parameters:
                    parameter.grad = None
                loss.backward()
                th.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
                self.policy.optimizer.step()

    def _old_samples(self: Any, rollout_data: Any) -> Samples:
        actions = rollout_data.actions
        if isinstance(self.action_space, spaces.Discrete):
            actions = actions.long().flatten()
        advantages, mask = rollout_data.advantages, self._mask(rollout_data)
        counted = advantages if mask is None else advantages[mask]
        if self.normalize_advantage and len(counted) > 1:
            advantages = (advantages - counted.mean()) / (counted.std() + 1e-8)
        return Samples(actions, rollout_data.old_log_prob, advantages, self.clip_range(1.0), mask)

    def _old_perturb(self: Any, policy: Any, observations: Any, samples: Samples, visits: LastVisits | None) -> Any:
        start = None if visits is None else visits.ended()
        perturbed = self._adversary.perturb(policy, observations, self.epsilon, samples, self.bounds, start)
        if visits is not None:
            visits.end(layout_of(observations, self._adversary.ball).difference(perturbed, observations))
        return perturbed

    def _old_loss(self: Any, policy: Any, rollout_data: Any, samples: Samples, perturbed: Any) -> th.Tensor:
        values, log_prob, entropy = policy.evaluate_actions(rollout_data.observations, samples.actions)
        robust_log_prob = policy.get_distribution(perturbed).log_prob(samples.actions)
        log_prob = th.stack([log_prob, robust_log_prob])
        clean, robust = samples.mean(clipped_surrogate(log_prob, samples)).unbind()
        surrogate = (robust + self.kappa * clean) / (1 + self.kappa)
        log_prob = log_prob[0]
        value_loss = self._old_squared_error(values.flatten(), rollout_data.returns, samples)
        entropy_loss = -samples.mean(-log_prob if entropy is None else entropy)
        return -surrogate + self.ent_coef * entropy_loss + self.vf_coef * value_loss

    def _old_squared_error(self: Any, predicted: th.Tensor, returns: th.Tensor, samples: Samples) -> th.Tensor:
        if samples.mask is None:
            return F.mse_loss(returns, predicted)
        return samples.mean((returns - predicted) ** 2)


def before(algorithm: type[PPO]) -> type[PPO]:
    """:return: The algorithm with the old loop and the old loss."""
    return type(algorithm.__name__, (OldTraining, algorithm), {})
