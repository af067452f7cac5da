"""The random faults of a sheet, for one environment: what its sensors report of what is."""

import secrets
from collections import deque
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_barpo.policies.spaces import by_parts
from sb3_barpo.sensors.places import Place, places
from sb3_barpo.sensors.sheet import Sensors

#: Goes into every seed: an environment seeded with the same number must not draw the same numbers as its sensors.
_STREAM = 0x5E2502


class Faults:
    """
    The sensors of one environment, through one episode after the other. The chain of a reading is: delay, gain, bias,
    drift and noise, range, quantisation, hold, loss.

    Draws come from a generator of its own for each episode, as many at each step whatever the sizes of the faults: two
    sheets with sensors in the same places have the same random numbers, and an episode's do not depend on how long the
    one before it was.

    :param sheet: The spec sheet.
    :param space: Space of the raw observations. Readings keep its bounds.
    :raises ValueError: if the sheet does not fit the space.
    :raises TypeError: if a sensor measures what is not a ``Box`` of numbers.
    """

    def __init__(self, sheet: Sensors, space: spaces.Space[Any]) -> None:
        found = places(sheet, space)
        self._boxes = by_parts(space)
        self._devices = {
            key: _Devices([place for place in found if place.key == key], self._boxes[key])
            for key in dict.fromkeys(place.key for place in found)
        }
        self.seed(None)

    def seed(self, seed: int | None) -> None:
        """
        :param seed: Seed of the faults; ``None`` draws one from the operating system.
        """
        self._seed = secrets.randbits(64) if seed is None else seed
        self._episodes = 0

    def read(self, observation: Any, start: bool) -> Any:
        """
        :param observation: What is, an observation of the space.
        :param start: Whether an episode starts with it.
        :return: What the sensors report of it, a new array; of values without a fault the same, bit for bit.
        """
        if start:
            self._generator = np.random.default_rng([_STREAM, self._seed, self._episodes])
            self._episodes += 1
        parts = by_parts(observation)
        read = {key: self._read(key, np.asarray(part), start) for key, part in parts.items()}
        return read if isinstance(observation, dict) else read[""]

    def _read(self, key: str, part: np.ndarray, start: bool) -> np.ndarray:
        if key not in self._devices:
            return part
        devices, flat = self._devices[key], part.flatten()
        flat[devices.indices] = devices.read(flat[devices.indices], start, self._generator)
        return flat.reshape(part.shape)


class _Devices:
    """The sensors of one ``Box``. Arrays have one value for each feature that is measured, ``n`` of them."""

    def __init__(self, found: list[Place], box: spaces.Box) -> None:
        self.indices = np.concatenate([place.indices for place in found])
        owner = np.repeat(np.arange(len(found)), [len(place.indices) for place in found])
        sensors = [place.sensor for place in found]

        def each(name: str, dtype: type = float) -> np.ndarray:
            return np.array([getattr(sensor, name) for sensor in sensors], dtype)[owner]

        self._owner, self._n_sensors = owner, len(found)
        self._gain, self._bias, self._drift, self._noise = map(each, ("proportional", "bias", "drift", "noise"))
        self._memory = np.exp(-1 / each("drift_time"))
        self._delay = each("delay", int)
        self._low, self._high, self._quantum = each("low"), each("high"), each("quantum")
        self._hold, self._dropout, self._lost = each("hold"), each("dropout"), each("lost")
        self._faulty = np.array([bool(sensor.faults) for sensor in sensors])[owner]
        self._space_low = box.low.ravel()[self.indices].astype(float)
        self._space_high = box.high.ravel()[self.indices].astype(float)
        self._last = self._lost
        self._past: deque[np.ndarray] = deque(maxlen=int(self._delay.max()) + 1)

    def read(self, values: np.ndarray, start: bool, generator: np.random.Generator) -> np.ndarray:
        """:return: What is reported of the values, shape ``(n,)``."""
        n = len(values)
        if start:
            self._gains = 1 + self._gain * generator.uniform(-1, 1, n)
            self._offsets = self._bias * generator.standard_normal(n)
            self._drifts = generator.standard_normal(n)
            self._past.clear()
        else:
            fresh = generator.standard_normal(n)
            self._drifts = self._memory * self._drifts + np.sqrt(1 - self._memory**2) * fresh
        noise, (held, lost) = generator.standard_normal(n), generator.uniform(size=(2, self._n_sensors))
        reading = self._gains * self._delayed(values) + self._offsets
        reading = reading + self._drift * self._drifts + self._noise * noise
        reading = np.clip(reading, self._low, self._high)
        steps = np.where(self._quantum > 0, self._quantum, 1)
        reading = np.where(self._quantum > 0, steps * np.round(reading / steps), reading)
        if not start:
            reading = np.where(held[self._owner] < self._hold, self._last, reading)
        reading = np.where(lost[self._owner] < self._dropout, self._lost, reading)
        # No sensor reports what the space does not contain, except where the value itself lies outside.
        reading = np.clip(reading, np.minimum(self._space_low, values), np.maximum(self._space_high, values))
        self._last = reading
        if np.issubdtype(values.dtype, np.integer):
            reading = np.rint(reading)
        return np.asarray(np.where(self._faulty, reading.astype(values.dtype), values))

    def _delayed(self, values: np.ndarray) -> np.ndarray:
        """The values of ``delay`` steps ago, or the episode's first."""
        self._past.append(values.astype(float))
        ages = np.minimum(self._delay, len(self._past) - 1)
        return np.asarray(np.stack(self._past)[-1 - ages, np.arange(len(values))])
