"""Robustness across channels: what one kind of disturbance after the other costs an agent, without an adversary."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from types import MappingProxyType
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize, unwrap_vec_normalize

from sb3_barpo import seeds
from sb3_barpo.attacks.victim import undisturbed
from sb3_barpo.evaluation.episodes import run_episodes
from sb3_barpo.evaluation.settings import EvalConfig
from sb3_barpo.sensors import Feature, Sensor, SensorNoise, Sensors

#: Correlation time of the drift, in steps.
DRIFT_TIME = 100.0
#: The channels with usual sizes; see :func:`evaluate_channels` for their units.
CHANNELS: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        "noise": (0.05, 0.1, 0.2),
        "drift": (0.05, 0.1, 0.2),
        "delay": (1, 2, 4),
        "hold": (0.05, 0.1, 0.2),
        "dropout": (0.01, 0.05, 0.1),
        "action_noise": (0.05, 0.1, 0.2),
        "mass": (0.8, 1.2, 1.5),
        "friction": (0.5, 0.8, 1.5),
    }
)
_PHYSICS = {"mass": ("body_mass", "body_inertia"), "friction": ("geom_friction",)}


def evaluate_channels(
    model: OnPolicyAlgorithm,
    env: gym.Env[Any, Any] | VecEnv,
    channels: Mapping[str, Sequence[float]] | None = None,
    n_eval_episodes: int = 20,
    seed: int = seeds.REPORT[0],
    deterministic: bool = True,
) -> pd.DataFrame:
    """
    Evaluate an agent under one kind of disturbance after the other, always on the same episodes.

    ``noise`` and ``drift`` are standard deviations of every value, in units of that by which ``VecNormalize`` divides
    (without it: in the environment's own); ``delay`` is in steps; ``hold`` and ``dropout`` are probabilities that all
    values are repeated, or replaced by the mean of the statistics (0 without). ``action_noise`` is a standard
    deviation as a share of half the action's range. ``mass`` (with the moments of inertia) and ``friction`` are factors
    on all bodies of a MuJoCo model.

    :param model: The agent, any SB3 on-policy one.
    :param env: Its environment, wrapped as in training, with the statistics of ``VecNormalize``.
    :param channels: Sizes by channel, by default those of :data:`CHANNELS` that fit the environment.
    :param n_eval_episodes: Number of episodes for each channel and size.
    :param seed: Seed of the first episode.
    :param deterministic: Whether the agent takes its most likely action.
    :return: One row for each channel and size, after one of the channel ``natural``, with the columns ``channel``,
        ``size``, ``return`` (mean), ``standard_error`` and ``loss`` (natural minus disturbed return).
    :raises ValueError: for an unknown channel, a size that does not fit, action noise where actions have no finite
        range, or mass and friction where the environment has no MuJoCo model in this process.
    :raises TypeError: if the model or its observations cannot be disturbed.
    """
    venv = BaseAlgorithm._wrap_env(env)
    channels = fitting(model, venv) if channels is None else channels
    if unknown := [name for name in channels if name not in CHANNELS]:
        raise ValueError(f"Unknown channel {unknown[0]!r}. Choose from {', '.join(CHANNELS)}.")
    config = EvalConfig(n_eval_episodes, seed, deterministic)
    trials = [("natural", 0.0), *((name, float(size)) for name, sizes in channels.items() for size in sizes)]
    returns = [_returns(model, venv, channel, size, config) for channel, size in trials]
    frame = pd.DataFrame(trials, columns=["channel", "size"])
    frame["return"] = [row.mean() for row in returns]
    frame["standard_error"] = [row.std(ddof=1) / np.sqrt(len(row)) if len(row) > 1 else np.nan for row in returns]
    frame["loss"] = returns[0].mean() - frame["return"]
    return frame


def fitting(model: OnPolicyAlgorithm, venv: VecEnv) -> dict[str, tuple[float, ...]]:
    """
    :param model: The agent.
    :param venv: Its environments.
    :return: The channels that fit, with their usual sizes: noise of actions where they have a finite range, mass and
        friction for MuJoCo in this process, and the others where observations are a ``Box``.
    """
    sees = isinstance(model.observation_space, spaces.Box)
    acts = isinstance(model.action_space, spaces.Box) and model.action_space.is_bounded()
    fits = {"action_noise": acts, **dict.fromkeys(_PHYSICS, _has_physics(venv))}
    return {name: sizes for name, sizes in CHANNELS.items() if fits.get(name, sees)}


def _has_physics(venv: VecEnv) -> bool:
    return isinstance(venv.unwrapped, DummyVecEnv) and all(
        hasattr(getattr(env.unwrapped, "model", None), "body_mass") for env in venv.unwrapped.envs
    )


def _returns(model: OnPolicyAlgorithm, venv: VecEnv, channel: str, size: float, config: EvalConfig) -> np.ndarray:
    attack, acting, physics = None, model, nullcontext()
    if channel in _PHYSICS:
        physics = scaled(venv, channel, size)  # type: ignore[assignment]
    elif channel == "action_noise":
        acting = _NoisyActions(model, size)  # type: ignore[assignment]
    elif channel != "natural":
        statistics = unwrap_vec_normalize(venv)
        attack = SensorNoise(model, 1.0, _sheet(model.observation_space, statistics, channel, size), statistics)
    with undisturbed(model, venv), physics:
        episodes = run_episodes(acting, attack, venv, config.n_eval_episodes, config.seed, config.deterministic)
    return np.array([episode[0] for episode in episodes])


def _sheet(space: Any, statistics: VecNormalize | None, channel: str, size: float) -> Sensors:
    """Every value with this fault."""
    if channel == "delay" and not size.is_integer():
        raise ValueError(f"A delay is a whole number of steps, but it is {size:g}.")
    if not isinstance(space, spaces.Box):
        raise TypeError(f"Channels of observations need a Box, but the observations are {space}. Write a spec sheet.")
    n_values = int(np.prod(space.shape))
    mean, deviation = np.zeros(n_values), np.ones(n_values)
    if statistics is not None and statistics.norm_obs:
        rms: Any = statistics.obs_rms
        mean, deviation = rms.mean.ravel(), np.sqrt(rms.var + statistics.epsilon).ravel()
    if channel in ("delay", "hold"):
        return Sensors({":": Sensor(delay=int(size)) if channel == "delay" else Sensor(hold=size)})
    if channel == "dropout":
        sensors: dict[Feature, Sensor] = {i: Sensor(dropout=size, lost=float(mean[i])) for i in range(n_values)}
        return Sensors(sensors)
    errors = (size * deviation).tolist()
    if channel == "noise":
        return Sensors({i: Sensor(noise=error) for i, error in enumerate(errors)})
    return Sensors({i: Sensor(drift=error, drift_time=DRIFT_TIME) for i, error in enumerate(errors)})


class _NoisyActions:
    """An agent whose actuators err. The noise comes from torch's global generator, which each batch seeds anew."""

    def __init__(self, model: OnPolicyAlgorithm, size: float) -> None:
        space = model.action_space
        if not isinstance(space, spaces.Box) or not space.is_bounded():
            raise ValueError(f"Action noise is a share of the actions' range, but {space} has no finite range.")
        if not 0 <= size < np.inf:
            raise ValueError(f"The size of action noise must be finite and at least 0, but it is {size:g}.")
        self._model, self._space = model, space
        self._deviation = size * (space.high - space.low) / 2

    def predict(self, *args: Any, **kwargs: Any) -> tuple[np.ndarray, Any]:
        actions, states = self._model.predict(*args, **kwargs)
        noise = self._deviation * th.randn(actions.shape).numpy()
        return np.clip(actions + noise, self._space.low, self._space.high).astype(actions.dtype), states


@contextmanager
def scaled(venv: VecEnv, channel: str, factor: float) -> Iterator[None]:
    """
    Within, masses (with the moments of inertia) or friction of MuJoCo models are multiplied; afterwards all is as it
    was.

    :param venv: Environments in this process.
    :param channel: ``"mass"`` or ``"friction"``.
    :param factor: By how much.
    :raises ValueError: if the factor is not above 0, or there are no such models.
    """
    if not 0 < factor < np.inf:
        raise ValueError(f"The factor of {channel} must be finite and above 0, but it is {factor:g}.")
    if not _has_physics(venv):
        raise ValueError(
            f"The channel {channel!r} needs environments of Gymnasium's MuJoCo in this process, in a DummyVecEnv. "
            "Leave it out elsewhere."
        )
    import mujoco  # type: ignore[import-untyped]

    models = [env.unwrapped.model for env in venv.unwrapped.envs]  # type: ignore[attr-defined]
    before = [{name: getattr(model, name).copy() for name in _PHYSICS[channel]} for model in models]
    try:
        for model, values in zip(models, before, strict=True):
            for name, value in values.items():
                getattr(model, name)[:] = factor * value
            mujoco.mj_setConst(model, mujoco.MjData(model))  # what MuJoCo has derived from the masses
        yield
    finally:
        for model, values in zip(models, before, strict=True):
            for name, value in values.items():
                getattr(model, name)[:] = value
            mujoco.mj_setConst(model, mujoco.MjData(model))
