"""Spec sheets: what each sensor is good for, in the units of the environment."""

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeAlias

from sb3_barpo.sensors.features import FEATURES

#: A feature: its name, its index or a slice, ``"2:5"``, of the flattened observation, or a region, ``"[0:20, 5:15]"``;
#: for a ``Dict`` space a key, alone or with one of these, ``"imu[0:3]"``, ``"camera[0:20, 5:15]"``. Images count rows,
#: columns, channels; a region without channels has all of them.
Feature: TypeAlias = str | int

#: The settings that grow with the strength: sizes of errors, and rates.
_SIZES = ("bound", "proportional", "noise", "bias", "drift", "quantum")
_RATES = ("hold", "dropout")
#: Those that are in the sensor's unit.
_WITH_UNIT = ("bound", "noise", "bias", "drift", "lost", "quantum", "low", "high")
_INDEX = re.compile(r"-?\d+")


@dataclass(frozen=True)
class Sensor:
    """
    One sensor: limits of its error, for adversaries, and the faults that it has at random. Every default is the
    perfect sensor. Sizes are in the environment's own units, times in environment steps.

    A sensor may measure several features, those of a slice for example. Each has its own noise, bias, gain and drift;
    readings are held and lost for all of them together, as one device loses them.

    :param bound: Worst case of the error. For adversaries alone: random faults do not draw from it.
    :param proportional: Worst case of the relative error, 0.01 for 1 %. Added to the bound for adversaries; at random,
        a gain drawn for each episode uniformly from ``1 ± proportional``.
    :param noise: Standard deviation of white Gaussian noise.
    :param bias: Standard deviation of a Gaussian offset, drawn once for each episode.
    :param drift: Standard deviation of a stationary first-order Gauss-Markov process, ``d' = a d + sqrt(1 - a²) ξ``
        with ``a = exp(-1 / drift_time)``.
    :param drift_time: Correlation time of the drift: its autocorrelation falls to 1/e in this many steps.
    :param delay: Age of what is measured. At the beginning of an episode the first value is repeated.
    :param hold: Probability that the last reading is repeated in place of a new one. An episode's first reading is
        always new.
    :param dropout: Probability that a reading is lost, and ``lost`` is reported. The next one held repeats ``lost``.
    :param lost: What is reported in place of a lost reading.
    :param quantum: Step of the quantisation: readings are multiples of it.
    :param low: Lower end of the range: readings below saturate.
    :param high: Upper end of the range.
    :param unit: The unit. For a task whose units are known, ``features="Hopper-v5"`` for example, it must fit, and
        ``deg``, ``mrad``, ``cm`` and ``mm``, also per second, are converted. Elsewhere it is a label for reports.
    :raises TypeError: if a setting is not a number, or the unit is no string.
    :raises ValueError: if a setting is negative, not finite, or a rate is above 1, or the range is empty.
    """

    bound: float = 0.0
    proportional: float = 0.0
    noise: float = 0.0
    bias: float = 0.0
    drift: float = 0.0
    drift_time: float = 100.0
    delay: int = 0
    hold: float = 0.0
    dropout: float = 0.0
    lost: float = 0.0
    quantum: float = 0.0
    low: float = -math.inf
    high: float = math.inf
    unit: str = ""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            kind, wanted = {"unit": (str, "a string"), "delay": (Integral, "a whole number of steps")}.get(
                field.name, (Real, "a number")
            )
            if not isinstance(value, kind) or isinstance(value, bool):
                raise TypeError(f"A sensor's {field.name} must be {wanted}, but it is {value!r}.")
        for name in (*_SIZES, "delay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"A sensor's {name} must be finite and at least 0, but it is {getattr(self, name)!r}. "
                    "Give the size of the error, without a sign."
                )
        for name in _RATES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"A sensor's {name} is a probability, from 0 to 1, but it is {getattr(self, name)!r}. "
                    "One reading in a thousand is 0.001."
                )
        if not 0 < self.drift_time < math.inf:
            raise ValueError(f"A sensor's drift_time must be above 0 and finite, but it is {self.drift_time!r}.")
        if not math.isfinite(self.lost):
            raise ValueError(f"A sensor's lost must be finite, but it is {self.lost!r}: policies cannot take it.")
        if not self.low < self.high:
            raise ValueError(f"A sensor's low must be below its high, but they are {self.low!r} and {self.high!r}.")

    @property
    def largest_error(self) -> str:
        """
        What the sheet allows, in its unit: ``"±0.2 deg"``; a proportional error in percent, empty without either.
        """
        parts = [f"±{self.bound:.3g} {self.unit}".rstrip()] * (self.bound > 0)
        return " ".join(parts + [f"±{100 * self.proportional:.3g} %"] * (self.proportional > 0))

    @property
    def faults(self) -> list[str]:
        """The faults that it has at random, by name; those of limits for adversaries alone are left out."""
        sizes = [name for name in (*_SIZES[1:], *_RATES, "delay") if getattr(self, name) > 0]
        return sizes + [name for name in ("low", "high") if math.isfinite(getattr(self, name))]

    def at(self, strength: float) -> "Sensor":
        """
        :param strength: A share of the sheet: 1 is this sensor, 0 the perfect one.
        :return: The sensor with errors and rates multiplied by the strength (rates up to 1), its delay too, rounded
            to whole steps. Range and ``lost`` stay as they are, but at strength 0.
        :raises ValueError: if the strength is negative or not finite.
        """
        if not 0 <= strength < math.inf:
            raise ValueError(f"The strength must be finite and at least 0, but it is {strength!r}. 1 is the sheet.")
        if strength in (0, 1):
            return self if strength == 1 else Sensor(unit=self.unit)
        changes: dict[str, Any] = {name: strength * getattr(self, name) for name in _SIZES}
        changes |= {name: min(strength * getattr(self, name), 1.0) for name in _RATES}
        return dataclasses.replace(self, **changes, delay=round(strength * self.delay))

    def in_units_of(self, factor: float) -> "Sensor":
        """
        :param factor: How much of another unit one of this sensor's is.
        :return: The sensor with all that has its unit in the other one, and the same name of the unit.
        """
        changes: dict[str, Any] = {name: factor * getattr(self, name) for name in _WITH_UNIT}
        return self if factor == 1 else dataclasses.replace(self, **changes)

    def spec(self) -> dict[str, Any]:
        """:return: The settings that differ from the perfect sensor's, as plain data."""
        perfect = Sensor()
        changed = {name: value for name, value in vars(self).items() if value != getattr(perfect, name)}
        return {name: value if isinstance(value, str) else _number(value) for name, value in changed.items()}


@dataclass(frozen=True)
class Sensors:
    """
    A spec sheet. Features that are not named are measured perfectly.

    :param sensors: The sensors by what they measure: name, index or slice (``"2:5"``) of the flattened observation; for
        a ``Dict`` space its key, alone or with an index or slice (``"imu"``, ``"imu[2]"``, ``"imu[0:3]"``).
    :param features: Names of the features in their order, or the id of an environment from
        :data:`sb3_barpo.sensors.FEATURES`; for ``Dict`` spaces, keys alone are known.
    :raises TypeError: if a sensor or a feature is of the wrong type.
    :raises ValueError: if there is no sensor, or the features are unknown or doubled.

    Example::

        sheet = Sensors({"torso_angle": Sensor(bound=0.0035, noise=0.001, unit="rad")}, features="Hopper-v5")
    """

    sensors: Mapping[Feature, Sensor]
    features: str | tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.sensors, Mapping) or not self.sensors:
            raise ValueError(
                f"A sheet names at least one sensor, {{feature: Sensor(...)}}, but it is {self.sensors!r}."
            )
        for feature, sensor in self.sensors.items():
            if not isinstance(feature, str | int) or isinstance(feature, bool):
                raise TypeError(f"A feature is a name, an index or a slice such as '2:5', but this one is {feature!r}.")
            if not isinstance(sensor, Sensor):
                raise TypeError(f"What stands under {feature!r} must be a Sensor, but it is {sensor!r}.")
        if isinstance(self.features, str) and self.features not in FEATURES:
            raise ValueError(
                f"There are no names of features for {self.features!r}. Known are {', '.join(FEATURES)}; for another "
                "environment, list the names in the order of its observation."
            )
        proper = {name for name in self.names if isinstance(name, str) and not _INDEX.fullmatch(name)}
        if len(proper) < len(self.names):
            names = f"they are {self.names!r}"
            raise ValueError(f"The names of the features must be different strings, and no numbers, but {names}.")
        if not isinstance(self.features, str):
            object.__setattr__(self, "features", self.names)
        # JSON has no numbers for keys: "3" is index 3.
        known = {
            int(feature) if isinstance(feature, str) and _INDEX.fullmatch(feature) else feature: sensor
            for feature, sensor in self.sensors.items()
        }
        if len(known) < len(self.sensors):
            raise ValueError(f"Each feature has one sensor, but some are named twice: {list(self.sensors)!r}.")
        object.__setattr__(self, "sensors", known)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the features, in their order; empty if they are not known."""
        return FEATURES[self.features] if isinstance(self.features, str) else tuple(self.features)

    def __str__(self) -> str:
        limits = {feature: sensor.largest_error for feature, sensor in self.sensors.items()}
        return ", ".join(f"{feature} {limit}" for feature, limit in limits.items() if limit)

    def at(self, strength: float) -> "Sensors":
        """
        :param strength: A share of the sheet: 1 is this sheet, 0 that of perfect sensors.
        :return: The sheet with every sensor at this strength, see :meth:`Sensor.at`.
        :raises ValueError: if the strength is negative or not finite.
        """
        return Sensors({feature: sensor.at(strength) for feature, sensor in self.sensors.items()}, self.features)

    def only(self, feature: Feature) -> "Sensors":
        """
        :param feature: One of the sheet, as it is named there.
        :return: The sheet with this sensor alone; all others are perfect.
        :raises ValueError: if the sheet does not have it.
        """
        if feature not in self.sensors:
            raise ValueError(f"The sheet has no sensor {feature!r}. It has {', '.join(map(str, self.sensors))}.")
        return Sensors({feature: self.sensors[feature]}, self.features)

    @classmethod
    def load(cls, path: str | Path) -> "Sensors":
        """
        :param path: A YAML file, as :meth:`save` writes it: ``features`` (optional) and ``sensors``, the settings of
            :class:`Sensor` by feature. Needs PyYAML, which the extra ``zoo`` brings.
        :return: The sheet.
        :raises ValueError: if the file is no such sheet, or a setting does not fit.
        :raises TypeError: if a setting is of the wrong type.
        """
        import yaml

        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"{str(path)!r} is no YAML: {error}") from error
        return cls.from_spec(content, repr(str(path)))

    @classmethod
    def from_spec(cls, spec: Any, name: str = "This") -> "Sensors":
        """
        :param spec: A sheet as plain data: ``features`` (optional) and ``sensors``, the settings of :class:`Sensor` by
            feature.
        :param name: What errors call it.
        :return: The sheet.
        :raises ValueError: if it is no such sheet, or a setting does not fit.
        :raises TypeError: if a setting is of the wrong type.
        """
        if not isinstance(spec, Mapping) or not isinstance(spec.get("sensors"), Mapping):
            raise ValueError(f"{name} is no spec sheet: it needs the entry `sensors`, settings by feature.")
        if unknown := set(spec) - {"features", "sensors"}:
            raise ValueError(f"{name} has the entries {unknown}, but a sheet has `features` and `sensors` only.")
        features = spec.get("features", ())
        if not isinstance(features, str | list | tuple):
            raise TypeError(f"`features` must be the id of an environment or a list of names, but it is {features!r}.")
        return cls(
            {feature: _sensor(feature, settings) for feature, settings in spec["sensors"].items()},
            features if isinstance(features, str) else tuple(features),
        )

    def spec(self) -> dict[str, Any]:
        """:return: The sheet as plain data, for JSON, YAML and :meth:`from_spec`. Defaults are left out."""
        features = self.features if isinstance(self.features, str) else list(self.features)
        listed = {str(feature): sensor.spec() for feature, sensor in self.sensors.items()}
        return {**({"features": features} if features else {}), "sensors": listed}

    def save(self, path: str | Path) -> None:
        """
        :param path: The YAML file to write. Defaults are left out.
        """
        import yaml

        Path(path).write_text(yaml.safe_dump(self.spec(), sort_keys=False, allow_unicode=True), encoding="utf-8")


#: What is taken wherever a sheet is asked for: one, its YAML file, or it as plain data (:meth:`Sensors.spec`).
SensorsLike: TypeAlias = Sensors | str | Path | Mapping[str, Any]


def as_sensors(value: SensorsLike) -> Sensors:
    """
    :param value: A sheet, its YAML file, or it as plain data.
    :return: The sheet.
    :raises ValueError: if it is no sheet, or a setting does not fit.
    :raises TypeError: for any other type, or if a setting is of the wrong type.
    :raises OSError: if there is no such file.
    """
    if isinstance(value, Sensors):
        return value
    if isinstance(value, str | Path):
        return Sensors.load(value)
    if not isinstance(value, Mapping):
        raise TypeError(f"sensors must be a Sensors, a YAML file, or a sheet as plain data, but it is {value!r}.")
    return Sensors.from_spec(value)


def _number(value: Any) -> int | float:
    """What JSON and YAML can hold of a number, NumPy's for example."""
    return int(value) if isinstance(value, Integral) else float(value)


def _sensor(feature: Feature, settings: Any) -> Sensor:
    """A sensor from a file."""
    known = [field.name for field in dataclasses.fields(Sensor)]
    if not isinstance(settings, Mapping) or (unknown := [name for name in settings if name not in known]):
        what = f"the setting {unknown[0]!r}" if isinstance(settings, Mapping) else f"{settings!r} for settings"
        raise ValueError(f"The sensor {feature!r} has {what}. A sensor's settings are {', '.join(known)}.")
    try:
        return Sensor(**settings)
    except (TypeError, ValueError) as error:
        raise type(error)(f"The sensor {feature!r}: {error}") from error
