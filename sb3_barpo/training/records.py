"""What one update is done with, and what is logged of it."""

from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.utils import explained_variance

from sb3_barpo.losses import OuterLoss
from sb3_barpo.training.controlled import controllers, gap, state_of
from sb3_barpo.training.inner import Inner, Logs


class Update(NamedTuple):
    """
    What stays the same during one call of ``train``.

    :param clip_range: PPO's.
    :param clip_range_vf: PPO's.
    :param epsilon: The strength of training.
    :param target_epsilon: The strength to be withstood, at the end of training.
    :param loss: The outer loss, its schedules replaced by numbers.
    :param inner: The inner problem, ``None`` where this is PPO: at strength 0, say.
    """

    clip_range: float
    clip_range_vf: float | None
    epsilon: float
    target_epsilon: float
    loss: OuterLoss
    inner: Inner | None


def record_update(model: Any, loss: th.Tensor, update: Update, logs: Logs) -> None:
    """
    Log what PPO logs, under the same names, and the adversary's part.

    :param model: The algorithm.
    :param loss: The last minibatch's loss.
    :param update: What the update was done with.
    :param logs: What was seen in it.
    """
    record = model.logger.record
    for name, values in logs.items():
        seen = th.stack(values).cpu()
        # PPO's own types, for their means' rounding: this one it takes from arrays, the others from numbers.
        record(name, np.mean(seen.numpy() if name == "train/approx_kl" else seen.tolist()))
    if (difference := gap(logs)) is not None:
        record("adversary/gap", difference)
    for name, controller in controllers(model):
        record(f"adversary/{name}_{controller.state}", state_of(model, name, controller))
    record("adversary/epsilon", update.epsilon)
    record("adversary/target_epsilon", update.target_epsilon)
    for name in update.loss.schedules():
        record(f"adversary/{name}", getattr(update.loss, name))
    record("train/loss", loss.item())
    buffer = model.rollout_buffer
    record("train/explained_variance", explained_variance(buffer.values.flatten(), buffer.returns.flatten()))
    if hasattr(model.policy, "log_std"):
        record("train/std", th.exp(model.policy.log_std).mean().item())
    record("train/n_updates", model._n_updates, exclude="tensorboard")
    record("train/clip_range", update.clip_range)
    if update.clip_range_vf is not None:
        record("train/clip_range_vf", update.clip_range_vf)
