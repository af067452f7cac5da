"""Controllers at work in an algorithm: settings by what its updates show."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecMonitor, is_vecenv_wrapped

from sb3_barpo.controllers import Controller, Measured
from sb3_barpo.losses import OuterLoss
from sb3_barpo.schedules import ScheduleLike, as_schedule
from sb3_barpo.training.inner import Logs


def controllers(model: Any) -> Iterator[tuple[str, Controller]]:
    """:return: The settings of an algorithm that have a controller, with it."""
    for name in ("epsilon", *model.outer_loss().schedules()):
        setting = getattr(model, name)
        if name != "epsilon" and setting is None:  # the loss's default
            continue
        found = as_schedule(setting)
        if isinstance(found, Controller):
            yield name, found


def present(model: Any, name: str) -> ScheduleLike:
    """:return: The setting; in place of a controller its present strength."""
    setting: ScheduleLike = getattr(model, name)
    found = as_schedule(setting)
    return float(found.strength(state_of(model, name, found))) if isinstance(found, Controller) else setting


def state_of(model: Any, name: str, controller: Controller) -> float:
    """:return: The controller's present state."""
    state: float = model.controls.get(f"{name}_{controller.state}", controller.begin())
    return state


def present_loss(model: Any, progress_remaining: float) -> OuterLoss:
    """:return: The outer loss with numbers in the places of its schedules and controllers."""
    loss: OuterLoss = model.outer_loss()
    numbers: dict[str, Any] = {name: present(model, name) for name, _ in controllers(model) if name != "epsilon"}
    return dataclasses.replace(loss, **numbers).at(progress_remaining)


def check_controllers(model: Any) -> None:
    """
    :param model: An algorithm.
    :raises ValueError: if it has a controller that does not fit its setting, or with nothing to measure, or an
        invalid schedule.
    :raises TypeError: for a strength that is nothing of the kind.
    """
    loss = model.outer_loss()
    for name, controller in controllers(model):
        kind = type(controller).__name__
        if name != controller.setting:
            raise ValueError(f"{kind} controls {controller.setting}, but it was given for {name}.")
        unseen = loss.needs == "bounds" or (loss.at(1.0).is_ppo and loss.at(0.0).is_ppo)
        if controller.measures != "episode_return" and unseen:
            raise ValueError(
                f"{kind} listens to what is found by the search for perturbed observations, but the loss {loss!r} of "
                f"{type(model).__name__} searches for none. Take Competence or a schedule."
            )
        if controller.measures == "episode_return" and model.env is not None:
            _check_monitor(model, kind)


def _check_monitor(model: Any, kind: str) -> None:
    if not (is_vecenv_wrapped(model.env, VecMonitor) or all(model.env.env_is_wrapped(Monitor))):
        raise ValueError(
            f"{kind} listens to the returns of episodes, but the environment is not wrapped by Monitor, which counts "
            "them. Wrap it: make_vec_env does, or VecMonitor(env)."
        )


def step_controllers(model: Any, logs: Logs) -> None:
    """
    Let controllers see an update.

    :param model: The algorithm, after the update.
    :param logs: What was seen in it.
    :raises ValueError: if a controller does not fit its setting: settings may be changed at any time.
    """
    given = list(controllers(model))
    if not given:
        return
    check_controllers(model)
    measured = measure(model, logs)
    for name, controller in given:
        value = getattr(measured, controller.measures)
        state = state_of(model, name, controller)
        model.controls[f"{name}_{controller.state}"] = state if value is None else float(controller.step(state, value))


def measure(model: Any, logs: Logs) -> Measured:
    """:return: What controllers are told of an update."""
    returns = [episode["r"] for episode in model.ep_info_buffer or ()]
    return Measured(float(np.mean(returns)) if returns else None, _mean(logs, "adversary/kl"), gap(logs))


def gap(logs: Logs) -> float | None:
    """:return: The mean clean surrogate minus the mean robust one, ``None`` where there are none."""
    clean, robust = (_mean(logs, f"adversary/{name}_surrogate") for name in ("clean", "robust"))
    return None if clean is None or robust is None else clean - robust


def _mean(logs: Logs, name: str) -> float | None:
    seen = logs.get(name)
    return float(th.stack(seen).mean()) if seen else None
