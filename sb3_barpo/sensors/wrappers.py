"""Sensors in front of an agent: wrappers of raw observations, for training and for tests."""

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from sb3_barpo.policies.spaces import by_key
from sb3_barpo.sensors.faults import Faults
from sb3_barpo.sensors.sheet import SensorsLike, as_sensors
from sb3_barpo.vec_envs import Wrapper


class SensorFaults(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """
    One Gymnasium environment whose observations are what its sensors report, the last one of an episode too. Goes
    next to the environment, so inside ``VecNormalize``. ``reset(seed=...)`` seeds the faults too; the environment's own
    generator is not touched. The reward is that of the true state.

    :param env: The environment.
    :param sensors: The spec sheet, its YAML file, or it as plain data.
    :param strength: Share of the sheet: 1 is the sheet, 0 changes nothing.
    :raises ValueError: if the sheet does not fit the environment's observations, or the strength is out of range.
    :raises TypeError: if a sensor measures what is not a ``Box`` of numbers.
    """

    def __init__(self, env: gym.Env[Any, Any], sensors: SensorsLike, strength: float = 1.0) -> None:
        RecordConstructorArgs.__init__(self, sensors=sensors, strength=strength)
        gym.Wrapper.__init__(self, env)
        self._faults = Faults(as_sensors(sensors).at(strength), env.observation_space)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self._faults.seed(seed)
        observation, info = self.env.reset(seed=seed, options=options)
        return self._faults.read(observation, start=True), info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._faults.read(observation, start=False), reward, terminated, truncated, info


class VecSensorFaults(Wrapper):
    """
    The same for SB3's environments, with the same numbers: the sensors of environment ``i`` have its seed.

    Inside ``VecNormalize``, its statistics are those of what the sensors report, as on a machine that normalises its
    own readings. Around it, they are those of the true observations. The last observation of an episode, of which
    ``VecNormalize`` keeps no original, is then right up to its rounding and clipping.

    :param venv: The environments.
    :param sensors: The spec sheet, its YAML file, or it as plain data.
    :param strength: Share of the sheet: 1 is the sheet, 0 changes nothing.
    :raises ValueError: if there are wrappers between the sensors and a ``VecNormalize`` inside, the sheet does not fit
        the observations, or the strength is out of range.
    :raises TypeError: if a sensor measures what is not a ``Box`` of numbers.
    """

    def __init__(self, venv: VecEnv, sensors: SensorsLike, strength: float = 1.0) -> None:
        if not isinstance(venv, VecNormalize) and unwrap_vec_normalize(venv) is not None:
            raise ValueError(
                f"Sensors measure raw observations, which {type(venv).__name__} hides: these are normalised already. "
                "Put the sensors inside VecNormalize, or directly around it."
            )
        super().__init__(venv)
        inner = venv.venv if isinstance(venv, VecNormalize) else venv
        sheet = as_sensors(sensors).at(strength)
        self._faults = [Faults(sheet, inner.observation_space) for _ in range(venv.num_envs)]

    @property
    def _normalize(self) -> VecNormalize | None:
        return self.venv if isinstance(self.venv, VecNormalize) else None

    def seed(self, seed: int | None = None) -> list[int | None]:
        seeds = list(self.venv.seed(seed))
        for faults, own in zip(self._faults, seeds, strict=True):
            faults.seed(own)
        return seeds

    def reset(self) -> Any:
        return self._read(self.venv.reset(), np.ones(self.num_envs, dtype=bool))

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = self.venv.step_wait()
        infos = list(infos)
        for i in np.flatnonzero(dones).tolist():
            seen = infos[i]["terminal_observation"]
            raw = self._normalize.unnormalize_obs(seen) if self._normalize else seen
            infos[i] = {**infos[i], "terminal_observation": self._shown(seen, raw, self._faults[i].read(raw, False))}
        return self._read(observations, dones), rewards, dones, infos

    def _read(self, observations: Any, starts: np.ndarray) -> Any:
        raw = self._normalize.get_original_obs() if self._normalize else observations
        rows = [
            faults.read(by_key(lambda part, i=i: part[i], raw), bool(starts[i]))
            for i, faults in enumerate(self._faults)
        ]
        return self._shown(observations, raw, by_key(lambda *parts: np.stack(parts), *rows))

    def _shown(self, seen: Any, raw: Any, read: Any) -> Any:
        """What is read, as the policy sees it; what no fault has touched stays as it was, bit for bit."""
        if self._normalize is None:
            return read
        shown = self._normalize.normalize_obs(read)
        return by_key(lambda was, now, old, new: np.where(new == old, was, now), seen, shown, raw, read)
