"""An adversary that imitates another attack before it learns by itself, so that it starts where the other one ended."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from torch.nn.functional import mse_loss

from sb3_barpo.adversary import HeldLimits, bounds_of
from sb3_barpo.attacks.attack import Attack
from sb3_barpo.attacks.memory import Memory
from sb3_barpo.policies.rollout import bare_predictor
from sb3_barpo.policies.spaces import by_key

BATCH_SIZE, LEARNING_RATE = 256, 1e-3


class Demonstration(NamedTuple):
    """
    What another attack does, as the adversary would have to do it; row i of each belongs together.

    :param observations: Clean observations, tensors of shape ``(N, *obs)`` or by key.
    :param actions: The adversary's actions that have this effect, shape ``(N, *action)``.
    :param returns: What the victim loses from there on, discounted, divided by its standard deviation, shape ``(N,)``.
    """

    observations: Any
    actions: th.Tensor
    returns: th.Tensor


def demonstrate(
    other: Attack,
    venv: VecEnv,
    n_steps: int,
    action_for: Callable[[Any, Any, Any], th.Tensor],
    gamma: float = 0.99,
    deterministic: bool = True,
) -> tuple[Demonstration, RunningMeanStd]:
    """
    :param other: Whom to imitate.
    :param venv: The victim's environments.
    :param n_steps: Environment steps, over all environments together.
    :param action_for: The imitator's actions for clean and perturbed observations and the victim's policy.
    :param gamma: The imitator's discount.
    :param deterministic: Whether the victim takes its most likely action.
    :return: The demonstration, and the statistics of the adversary's discounted rewards.
    """
    model, device = other.model, other.model.device
    bounds, limits = bounds_of(other.observation_space, venv, device), HeldLimits(model)
    memory, state = Memory.of(model, venv.num_envs), None
    victim = bare_predictor(model)
    clean, starts = venv.reset(), np.ones(venv.num_envs, dtype=bool)
    seen, actions, losses, ends = [], [], [], []
    for _ in range(-(-n_steps // venv.num_envs)):
        other.begin(starts)
        limits.look(bounds, clean)
        shown = other.perturb(clean, limits.hold(bounds), memory)
        before: Any = obs_as_tensor(clean, device)  # type: ignore[arg-type]  # no tuple
        seen.append(before)
        actions.append(action_for(before, obs_as_tensor(shown, device), other.victim(memory)))
        taken, state = victim.predict(shown, state, starts, deterministic)
        if memory is not None:
            memory.advance(shown)
        clean, rewards, starts, _ = venv.step(taken)
        if memory is not None:
            memory.forget(starts)
        losses.append(-rewards)
        ends.append(starts)
    statistics = RunningMeanStd(shape=())
    so_far = np.zeros(venv.num_envs)
    for loss, end in zip(losses, ends, strict=True):  # as VecNormalize does it
        so_far = gamma * so_far + loss
        statistics.update(so_far)
        so_far[end] = 0
    to_go = np.zeros(venv.num_envs)
    returns = []
    for loss, end in zip(losses[::-1], ends[::-1], strict=True):
        to_go = loss + gamma * to_go * ~end
        returns.append(to_go)
    scaled = np.concatenate(returns[::-1]) / np.sqrt(statistics.var + 1e-8)
    joined = by_key(lambda *parts: th.cat(parts), *seen)
    returned = th.as_tensor(scaled, dtype=th.float32, device=device)
    return Demonstration(joined, th.cat(actions).float(), returned), statistics


def imitate(policy: ActorCriticPolicy, shown: Demonstration) -> None:
    """
    Behaviour cloning: the mean action becomes the demonstrated one, and the value the demonstrated return. The standard
    deviation stays.

    :param policy: The adversary's policy.
    :param shown: The demonstration.
    """
    optimizer = th.optim.Adam(policy.parameters(), lr=LEARNING_RATE)
    policy.set_training_mode(True)
    for _ in range(len(shown.actions) // 4):
        rows = th.randint(len(shown.actions), (BATCH_SIZE,), device=shown.actions.device)
        seen = by_key(lambda part, rows=rows: part[rows], shown.observations)
        mean = policy.get_distribution(seen).distribution.mean  # type: ignore[union-attr]  # a Gaussian
        loss = mse_loss(mean, shown.actions[rows])
        loss = loss + mse_loss(policy.predict_values(seen).flatten(), shown.returns[rows]) / 2
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
