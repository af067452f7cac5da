"""What was judged: all that a verdict depends on, as JSON can hold it, so that a report says it."""

import importlib.metadata
import platform
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper, unwrap_vec_normalize

from sb3_barpo.adversary import space_warning
from sb3_barpo.agents.load import LoadedAgent
from sb3_barpo.evaluation.within import Within, own
from sb3_barpo.training.robust import RobustUpdate
from sb3_barpo.vec_envs import attribute

#: What ε is measured in, as rows say it, and in words.
UNITS = {"std": "standard deviations", "raw": "raw units", "sheet": "shares of the spec sheet", "": ""}
_PACKAGES = ["sb3-barpo", "stable-baselines3", "sb3-contrib", "rl-zoo3", "gymnasium", "torch", "numpy", "mujoco"]


def env_of(venv: VecEnv) -> tuple[str, dict[str, Any]]:
    """:return: Id and arguments of the environments, ``""`` and none if they were not made by ``gym.make``."""
    spec = attribute(venv, "spec")
    return ("", {}) if spec is None else (spec.id, dict(spec.kwargs))


def too_weak(model: OnPolicyAlgorithm, venv: VecEnv, epsilon: float, within: Within) -> str:
    """:return: A line for whole numbers, which an attack of this ε in the default ball cannot change; else empty."""
    space = model.observation_space
    parts = list(space.spaces.values()) if isinstance(space, spaces.Dict) else [space]
    whole = all(isinstance(part, spaces.Box) and not np.issubdtype(part.dtype, np.floating) for part in parts)
    if within.ball is not None or within.unit(venv) == "std" or not whole or not 0 < epsilon < 1:
        return ""
    return (
        f"Observations are whole numbers, such as pixels of 0 to 255, so an attack of ε = {epsilon:g} changes nothing. "
        "Choose ε in units of a pixel's value, such as 8."
    )


def describe(model: OnPolicyAlgorithm, venv: VecEnv, within: Within, loaded: LoadedAgent | None) -> dict[str, Any]:
    """
    :param model: The agent.
    :param venv: Its environments.
    :param within: Where attacks move its observations.
    :param loaded: The same with what is known of its file, ``None`` if it does not come from a file.
    :return: What was judged.
    """
    env_id, kwargs = env_of(venv)
    layer = unwrap_vec_normalize(venv)
    statistics = loaded.statistics if loaded is not None else None
    told: dict[str, Any] = {
        "file": None if loaded is None or not loaded.file.name else str(loaded.file),
        "steps": model.num_timesteps,
        "algorithm": type(model).__name__,
        "train_seed": model.seed,
        "training": None,
        "normalisation": "none" if layer is None else f"VecNormalize{f', {statistics}' if statistics else ''}",
        "unit_of_epsilon": UNITS[within.unit(venv)],
        "ball": str(within),
        "env": env_id,
        "env_kwargs": {key: repr(value) for key, value in kwargs.items() if key != "render_mode"},
        "wrappers": _wrappers(venv),
        "n_envs": venv.num_envs,
    }
    if isinstance(model, RobustUpdate):
        epsilon = model.epsilon if isinstance(model.epsilon, int | float | str) else repr(model.epsilon)
        strength = {"epsilon": epsilon, "margin": model.margin}
        told["training"] = {**strength, "ball": str(own(model, venv)), **model.outer_loss().spec()}
    if warning := space_warning(model):
        told["warning"] = warning
    if loaded is not None and loaded.note:
        told["assumed"] = loaded.note
    return told


def add_warning(told: dict[str, Any], warning: str) -> None:
    """
    :param told: What :func:`describe` says of an agent.
    :param warning: What else is to be warned of.
    """
    told["warning"] = f"{told.get('warning', '')} {warning}".strip()


def circumstances(command: str = "") -> dict[str, Any]:
    """
    :param command: The command line, empty for none.
    :return: When, by which command and with which versions of packages an evaluation ran.
    """
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"date": date, "command": command, "versions": versions}


def lines(judged: Mapping[str, Any]) -> list[str]:
    """
    :param judged: ``agents``, what :func:`describe` says of each by name, and what :func:`circumstances` says.
    :return: It in words, a line for each agent and one for the circumstances.
    """
    told = [f"**{name}**: {_sentence(agent)}" for name, agent in judged["agents"].items()]
    if "versions" in judged:
        versions = ", ".join(f"{name} {version}" for name, version in judged["versions"].items())
        told.append(f"{judged['date']}, {versions}")
    if judged.get("command"):
        told.append(f"`{judged['command']}`")
    return told


def _sentence(agent: Mapping[str, Any]) -> str:
    training = "".join(f", {key} {value}" for key, value in (agent["training"] or {}).items())
    arguments = "".join(f", {key}={value}" for key, value in agent["env_kwargs"].items())
    file = f"`{agent['file']}`, " if agent["file"] else ""
    assumed = f" Assumed: {agent['assumed']}." if "assumed" in agent else ""
    warning = f" **{agent['warning']}**" if "warning" in agent else ""
    return (
        f"{file}{agent['algorithm']} after {agent['steps']} steps, training seed {agent['train_seed']}{training}. "
        f"Normalisation: {agent['normalisation']}. Attacked within {agent['ball']}, ε in {agent['unit_of_epsilon']}. "
        f"Environment: {agent['env'] or 'without a registered id'}{arguments}, within {', '.join(agent['wrappers'])}."
        f"{assumed}{warning}"
    )


def _wrappers(venv: VecEnv) -> list[str]:
    """Class names, the outermost first."""
    names = []
    while isinstance(venv, VecEnvWrapper):
        names.append(type(venv).__name__)
        venv = venv.venv
    names.append(f"{type(venv).__name__} of {venv.num_envs}")
    if isinstance(venv, DummyVecEnv):
        env: Any = venv.envs[0]
        while isinstance(env, gym.Wrapper):
            names.append(type(env).__name__)
            env = env.env
    return names
