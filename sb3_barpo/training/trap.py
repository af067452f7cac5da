"""A look at whether training is trapped: robust, poor, and not on its way to anywhere."""

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_barpo.policies.views import evaluation_mode, is_recurrent
from sb3_barpo.training.controlled import gap
from sb3_barpo.training.inner import Logs
from sb3_barpo.training.records import Update

#: What is looked at: this share of training, and at least so many updates.
SHARE, UPDATES = 0.1, 10
#: There is no gap between clean and robust surrogate if its root mean square is below this, in units of the normalised
#: advantage.
NO_GAP = 0.01
#: There is no progress where the mean return rises by less than this share of the episodes' standard deviation.
NO_PROGRESS = 0.25
#: The adversary counts from this share of its full strength on.
STRONG = 0.5
#: The clean gradient is clearly not zero where its mean alignment is more than so many standard errors above 0.
CLEARLY = 3.0
#: Most rows of a rollout from which the clean gradient is estimated.
ROWS = 4096


class Seen(NamedTuple):
    """
    What was seen in an update.

    :param timesteps: Environment steps before it.
    :param share: Strength of training, as a share of the full one.
    :param mean: Mean return of the recent episodes.
    :param spread: Their standard deviation.
    :param gap: Mean clean surrogate minus mean robust one.
    """

    timesteps: int
    share: float
    mean: float
    spread: float
    gap: float


class TrapWatch:
    """
    Says when training looks trapped, as in a deceptive first-order stationary policy (``docs/lab.md``): for a tenth of
    training the adversary is strong, clean and robust surrogate are the same, the return does not rise, and yet the
    clean gradient, that of plain PPO, is clearly not zero.

    The first three are known from every update. Only where they hold, the clean gradient is estimated, from the two
    halves of the rollout: the cosine of the two is 0 on average if there is nothing but noise. A policy that is good
    without observing looks alike; its return tells.

    Losses without a robust surrogate, environments without ``Monitor`` and policies with a memory are not looked at.
    """

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.alignments: list[float] = []
        self.warned = False

    def before(self, model: Any, update: Update) -> None:
        """
        :param model: The algorithm, before an update.
        :param update: What it is done with.
        """
        if update.inner is None or not self.stands_still(model._total_timesteps):
            self.alignments = []
            return
        if (found := alignment(model)) is not None:
            self.alignments = [*self.alignments, found][-UPDATES:]
            model.logger.record("adversary/clean_alignment", found)

    def after(self, model: Any, update: Update, logs: Logs) -> None:
        """
        Log, and warn once.

        :param model: The algorithm, after an update.
        :param update: What it was done with.
        :param logs: What was seen in it.
        """
        returns = [episode["r"] for episode in model.ep_info_buffer or ()]
        found, full = gap(logs), model.margin * update.target_epsilon
        if found is None or not returns or full == 0:
            return
        share, spread = update.epsilon / full, float(np.std(returns))
        self.seen.append(Seen(model.num_timesteps, share, float(np.mean(returns)), spread, found))
        trapped = len(self.alignments) >= UPDATES // 2 and clearly_positive(self.alignments)
        model.logger.record("adversary/trapped", float(trapped))
        if trapped and not self.warned:
            self.warned = True
            warnings.warn(
                f"Training looks trapped after {model.num_timesteps} steps: for {SHARE:.0%} of it there was no gap "
                f"between clean and perturbed observations and no progress (the return is {self.seen[-1].mean:.4g}), "
                "but the clean gradient is not zero. Unless that return is as good as plain PPO's, the policy ignores "
                "its observations: start the adversary later (epsilon='ramp_0.075_0.8_0.4', or the controller "
                "Competence), or lower epsilon.",
                stacklevel=2,
            )

    def stands_still(self, total_timesteps: int) -> bool:
        """:return: Whether the first three hold, for as long as it takes."""
        if not self.seen:
            return False
        begin = self.seen[-1].timesteps - SHARE * total_timesteps
        window = [one for one in self.seen if one.timesteps >= begin]
        if len(window) < UPDATES or len(window) == len(self.seen):  # it has not been going on for so long
            return False
        half = len(window) // 2
        rise = np.mean([one.mean for one in window[half:]]) - np.mean([one.mean for one in window[:half]])
        return bool(
            min(one.share for one in window) >= STRONG
            and np.sqrt(np.mean([one.gap**2 for one in window])) <= NO_GAP
            and rise <= NO_PROGRESS * np.mean([one.spread for one in window])
        )


def alignment(model: Any) -> float | None:
    """
    :param model: The algorithm, with a full rollout that no update has seen.
    :return: The cosine between the clean policy gradients of the rollout's two halves; ``None`` for policies with a
        memory, and where there is no gradient.
    """
    buffer, policy = model.rollout_buffer, model.policy
    if is_recurrent(policy) or buffer.generator_ready:
        return None
    steps, half = buffer.buffer_size, buffer.buffer_size // 2
    stride = math.ceil(steps * buffer.n_envs / ROWS)
    parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    gradients = []
    for part in (slice(0, half, stride), slice(half, steps, stride)):
        observations, actions, advantages = (
            _rows(one, part, model.device) for one in (buffer.observations, buffer.actions, buffer.advantages)
        )
        if advantages.std() == 0:
            return None
        if isinstance(model.action_space, spaces.Discrete):
            actions = actions.long().flatten()
        with evaluation_mode(policy), th.enable_grad():
            _, log_prob, _ = policy.evaluate_actions(observations, actions)
            gain = ((advantages - advantages.mean()) / advantages.std() * log_prob).mean()
            found = th.autograd.grad(gain, parameters, allow_unused=True, materialize_grads=True)
        gradients.append(th.cat([one.flatten() for one in found]))
    first, second = gradients
    cosine = float(th.nn.functional.cosine_similarity(first, second, dim=0))
    return cosine if math.isfinite(cosine) else None


def _rows(values: Any, part: slice, device: Any) -> Any:
    """Of a rollout's array ``(steps, n_envs, *shape)``, or of each of several, the rows of a part of its steps."""
    if isinstance(values, dict):
        return {key: _rows(one, part, device) for key, one in values.items()}
    chosen = values[part]
    return th.as_tensor(chosen.reshape(-1, *chosen.shape[2:]), device=device)


def clearly_positive(values: list[float]) -> bool:
    """:return: Whether their mean is clearly above 0."""
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean > CLEARLY * error and mean > 0
