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
    The random faults of a sheet that need no memory: noise, range, quantisation and loss. An attack is not told where
    episodes start, so a sheet with a gain, bias, drift, delay or hold is refused: use :class:`SensorFaults` or
    :class:`VecSensorFaults`, which know it.

    Unlike a search in a ball, Gaussian noise and lost readings are not bounded by ε, which is a share of the sheet.

    :param model: The agent whose observations are perturbed.
    :param epsilon: Share of the sheet: 1 is the sheet.
    :param sensors: The spec sheet.
    :param vec_normalize: The statistics between the environment and the policy, by default those of the model's
        environment.
    :param seed: Seed of the faults.
    :raises ValueError: if the sheet has faults with a memory, or does not fit the model's observations.
    :raises TypeError: if a sensor measures what is not a ``Box`` of floating-point numbers.
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
        for place in places(sensors, self.observation_space):
            if faults := place.sensor.episodic_faults:
                raise ValueError(
                    f"The sensor {place.feature!r} has faults that depend on the episode so far ({', '.join(faults)}), "
                    "and an attack does not know where episodes start. Use SensorFaults or VecSensorFaults."
                )
        self.sensors = sensors
        self.vec_normalize = model.get_vec_normalize_env() if vec_normalize is None else vec_normalize
        self.seed(seed)

    def seed(self, seed: int | None) -> None:
        self._faults = Faults(self.sensors.at(self.epsilon), self.observation_space)
        self._faults.seed(seed)

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
        size = len(next(iter(by_parts(raw).values())))
        rows = [self._faults.read(by_key(lambda part, i=i: part[i], raw), start=True) for i in range(size)]
        read: Any = by_key(lambda *parts: np.stack(parts), *rows)
        shown: Any = read if statistics is None else statistics.normalize_obs(read)
        # What no fault has touched stays as it was, bit for bit.
        kept = by_key(lambda new, old, was, now: np.where(new == old, was, now), read, raw, seen, shown)
        return by_key(lambda part, like: th.as_tensor(part).to(like), kept, observations)
