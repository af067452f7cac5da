"""What an attack with a timing remembers from step to step of the episodes that it attacks."""

from typing import Any

import numpy as np
import torch as th

from sb3_barpo.adversary import KL, PGD, Adversary, Ball, ReachableBall, Timing, layout_of
from sb3_barpo.policies.spaces import by_key


class Pace:
    """
    Keeps the perturbations of B environments within a timing.

    :param ball: The attack's ball, with the timing.
    :param n_envs: Number B of environments, in each of which an episode starts.
    """

    def __init__(self, ball: Ball, n_envs: int) -> None:
        self.ball = ball.timed(None)
        self.timing = ball.timing or Timing()
        self.n_envs = n_envs
        self._steps = np.zeros(n_envs, dtype=int)
        self._used = np.zeros(n_envs, dtype=int)
        self._last: th.Tensor | None = None  # the last step's perturbations, joined; none before the first one
        self._divergence = Adversary(KL(), PGD(), self.ball)

    def start(self, episode_starts: np.ndarray) -> None:
        """:param episode_starts: In which environments an episode starts with the next step, shape ``(B,)``."""
        starts = np.asarray(episode_starts, dtype=bool)
        self._steps[starts] = self._used[starts] = 0
        if self._last is not None:
            self._last = self._last.clone()
            self._last[th.as_tensor(starts, device=self._last.device)] = 0

    def reachable(self, observations: Any) -> Ball:
        """
        :param observations: Clean observations, tensors of shape ``(B, *obs)`` or by key.
        :return: The ball, or what can be reached in it within one step.
        """
        if self.timing.rate is None:
            return self.ball
        if self._last is None:
            self._last = th.zeros_like(layout_of(observations, self.ball).join(observations))
        return ReachableBall(self.ball, self._last, self.timing.rate)

    def slowed(self, perturbed: Any, observations: Any, epsilon: float) -> Any:
        """:return: The perturbed observations, or where the rate is too high, what can be reached on the way there."""
        if self.timing.rate is None:
            return perturbed
        layout = layout_of(observations, self.reachable(observations))
        return layout.add(observations, layout.ball.project(layout.difference(perturbed, observations), epsilon))

    def chosen(self, perturbed: Any, observations: Any, policy: Any) -> Any:
        """
        Go on by one step.

        :return: The perturbed observations at the attack's moments, the clean ones elsewhere.
        """
        now = self._steps % self.timing.every == 0
        if self.timing.moments is not None:
            now &= self._used < self.timing.moments
        if self.timing.trigger > 0:
            divergence = self._divergence.gain(policy, observations, perturbed)
            now &= (divergence >= self.timing.trigger).cpu().numpy()
        self._steps += 1
        self._used += now
        if not now.all():
            perturbed = by_key(lambda moved, clean: _rows(now, moved, clean), perturbed, observations)
        if self.timing.rate is not None:
            self._last = layout_of(observations, self.ball).difference(perturbed, observations).detach()
        return perturbed


def _rows(chosen: np.ndarray, moved: th.Tensor, clean: th.Tensor) -> th.Tensor:
    mask = th.as_tensor(chosen, device=clean.device).reshape(-1, *[1] * (clean.dim() - 1))
    return th.where(mask, moved, clean.to(moved))
