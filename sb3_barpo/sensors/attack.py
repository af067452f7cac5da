"""A sheet's random faults as an attack, for the existing wrappers of attacks."""

from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from sb3_barpo.attacks import Attack
from sb3_barpo.policies.spaces import by_key, by_parts
from sb3_barpo.sensors.faults import Faults
from sb3_barpo.sensors.places import places
from sb3_barpo.sensors.sheet import Sensors


class SensorNoise(Attack):
    """
    The random faults of a sheet as an attack. Row i of a batch has the sensors of environment i, seeded by
    ``seed + i``: they report what those of :class:`SensorFaults` and :class:`VecSensorFaults` do, up to the rounding of
    ``VecNormalize`` and where ``clip_obs`` has cut off what the sensors would have read.

    Bias, drift, delay and hold last for an episode. The wrappers of attacks tell where one starts (:meth:`begin`);
    one starts in all rows after :meth:`seed`, and where the size of the batch changes.

    Unlike a search in a ball, Gaussian noise and lost readings are not bounded by ε, which is a share of the sheet.

    :param model: The agent whose observations are perturbed.
    :param epsilon: Share of the sheet: 1 is the sheet.
    :param sensors: The spec sheet.
    :param vec_normalize: The statistics between the environment and the policy, by default those of the model's
        environment.
    :param seed: Seed of the faults.
    :raises ValueError: if the sheet does not fit the model's observations.
    :raises TypeError: if a sensor measures what is not a ``Box`` of numbers.
    """

    name = "sensors"

    def __init__(
        self,
        model: OnPolicyAlgorithm,
        epsilon: float,
        sensors: Sensors,
        vec_normalize: VecNormalize | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(model, epsilon)
        places(sensors, self.observation_space)  # raises for a sheet that does not fit
        self.sensors = sensors
        self.vec_normalize = model.get_vec_normalize_env() if vec_normalize is None else vec_normalize
        self.seed(seed)

    def seed(self, seed: int | None) -> None:
        self._seed = seed
        self._faults: list[Faults] = []
        self._starts: np.ndarray | None = None

    def begin(self, episode_starts: np.ndarray) -> None:
        super().begin(episode_starts)
        self._starts = np.asarray(episode_starts, dtype=bool)

    def at(self, epsilon: float) -> "SensorNoise":
        """
        :param epsilon: Another share of the sheet.
        :return: The same attack at this share, to be seeded by itself.
        :raises ValueError: if it is negative, NaN or infinite.
        """
        other = super().at(epsilon)
        other.seed(None)
        return other

    def _perturb(self, observations: Any, policy: Any) -> Any:
        seen = by_key(lambda part: part.cpu().numpy(), observations)
        statistics = self.vec_normalize
        raw: Any = seen if statistics is None else statistics.unnormalize_obs(seen)
        starts = self._where_episodes_start(len(next(iter(by_parts(raw).values()))))
        rows = [
            faults.read(by_key(lambda part, i=i: part[i], raw), bool(starts[i]))
            for i, faults in enumerate(self._faults)
        ]
        read: Any = by_key(lambda *parts: np.stack(parts), *rows)
        shown: Any = read if statistics is None else statistics.normalize_obs(read)
        # What no fault has touched stays as it was, bit for bit.
        kept = by_key(lambda new, old, was, now: np.where(new == old, was, now), read, raw, seen, shown)
        return by_key(lambda part, like: th.as_tensor(part).to(like), kept, observations)

    def _where_episodes_start(self, size: int) -> np.ndarray:
        """Shape ``(size,)``; new sensors if there are none for so many rows."""
        starts, self._starts = self._starts, None
        if len(self._faults) == size:
            return np.zeros(size, dtype=bool) if starts is None else starts
        sheet = self.sensors.at(self.epsilon)
        self._faults = [Faults(sheet, self.observation_space) for _ in range(size)]
        for i, faults in enumerate(self._faults):
            faults.seed(None if self._seed is None else self._seed + i)
        return np.ones(size, dtype=bool)
