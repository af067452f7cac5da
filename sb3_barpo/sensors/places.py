"""Where the sensors of a sheet lie in an observation."""

import re
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first

from sb3_barpo.policies.spaces import by_parts
from sb3_barpo.sensors.sheet import Feature, Sensor, Sensors
from sb3_barpo.sensors.units import convertible, factor, unit_of

_INDEX = re.compile(r"-?\d+")
_SLICE = re.compile(r"(-?\d*):(-?\d*)(?::(\d+))?")
_WITHIN = re.compile(r"(.*)\[(.+)\]")


class Place(NamedTuple):
    """
    A sensor and what it measures.

    :param feature: Its name in the sheet.
    :param sensor: The sensor, in the environment's units.
    :param key: The key of a ``Dict`` space, ``""`` for a ``Box``.
    :param indices: Indices of the flattened observation, or of the flattened values of the key. Those of an image are
        in the order of rows, columns, channels, however it lies: the same sensors read the same before and after
        ``VecTransposeImage``.
    """

    feature: Feature
    sensor: Sensor
    key: str
    indices: np.ndarray


def places(sheet: Sensors, space: spaces.Space[Any]) -> list[Place]:
    """
    :param sheet: The spec sheet.
    :param space: Space of the raw observations.
    :return: Where its sensors lie there, in the order of the sheet.
    :raises ValueError: if a feature is unknown there, two sensors measure the same, the number of names is another
        than that of the features, or a unit does not fit the task.
    :raises TypeError: if a sensor measures what is not a ``Box`` of numbers.
    """
    boxes = by_parts(space)
    if sheet.names and (isinstance(space, spaces.Dict) or len(sheet.names) != int(np.prod(space.shape or ()))):
        raise ValueError(
            f"The sheet names {len(sheet.names)} features, but the observations are {space}. Give the names of this "
            "environment's features, or none."
        )
    found: list[Place] = []
    owners = {key: np.full(int(np.prod(box.shape or ())), -1) for key, box in boxes.items()}
    for feature, sensor in sheet.sensors.items():
        key, selection = _key_and_selection(feature, sheet, boxes)
        box = boxes[key]
        if not isinstance(box, spaces.Box) or not np.issubdtype(box.dtype, np.number):
            raise TypeError(f"Sensors measure numbers, but what {feature!r} measures is {box}.")
        indices = np.atleast_1d(_selected(feature, selection, _order(box)))
        taken = owners[key][indices]
        if (taken >= 0).any():
            index, owner = next((i, o) for i, o in zip(indices.tolist(), taken.tolist(), strict=True) if o >= 0)
            raise ValueError(
                f"The sensors {found[owner].feature!r} and {feature!r} both measure value {index}"
                f"{f' of {key!r}' if key else ''}. Each value has one sensor."
            )
        owners[key][indices] = len(found)
        found.append(Place(feature, _in_units_of_task(feature, sensor, sheet, indices), key, indices))
    return found


def _in_units_of_task(feature: Feature, sensor: Sensor, sheet: Sensors, indices: np.ndarray) -> Sensor:
    """Where the task is known, its units are."""
    if not isinstance(sheet.features, str) or not sensor.unit:
        return sensor
    known = {unit for i in indices if (unit := unit_of(sheet.names[i])) is not None}
    factors = {factor(sensor.unit, unit) for unit in known}
    if None in factors or len(factors) > 1:
        wanted = " and ".join(sorted(unit or "plain numbers" for unit in known))
        remedy = "Give each its own sensor."
        if len(known) == 1:
            (unit,) = known
            remedy = f"Give it in {' or '.join(convertible(unit))}." if unit else "Give it without a unit."
        raise ValueError(
            f"The unit of {feature!r} is {sensor.unit!r}, but {sheet.features} observes {wanted} there. {remedy}"
        )
    return sensor.in_units_of(factors.pop() or 1.0) if factors else sensor


def _order(box: spaces.Box) -> np.ndarray:
    """Indices of the flattened values, as a sheet counts them: those of an image with the channels last."""
    order = np.arange(int(np.prod(box.shape))).reshape(box.shape)
    is_first = is_image_space(box) and is_image_space_channels_first(box)
    return np.moveaxis(order, 0, -1) if is_first else order


def _key_and_selection(feature: Feature, sheet: Sensors, boxes: dict[str, Any]) -> tuple[str, Feature]:
    """The key of what is measured, and the index, slice or region there."""
    match = _WITHIN.fullmatch(str(feature))
    if "" in boxes:
        if feature in sheet.names:
            return "", sheet.names.index(str(feature))
        if isinstance(feature, int) or _SLICE.fullmatch(feature):
            return "", feature
        if match is not None and not match[1]:
            return "", match[2]
        known = f"They are {', '.join(sheet.names)}" if sheet.names else "The sheet names none: give `features`"
        raise ValueError(f"Unknown feature {feature!r}. {known}; an index or a slice such as '2:5' will do too.")
    if feature in boxes:
        return str(feature), ":"
    if match is None or match[1] not in boxes:
        raise ValueError(f"Unknown feature {feature!r}. The keys are {', '.join(boxes)}; 'key[2:5]' is a part of one.")
    return match[1], match[2]


def _selected(feature: Feature, selection: Feature, order: np.ndarray) -> np.ndarray:
    """Indices of the flattened values, one-dimensional."""
    axes = [str(part).strip() for part in str(selection).split(",")]
    region = order if len(axes) > 1 else order.ravel()
    if len(axes) > region.ndim:
        raise ValueError(f"The feature {feature!r} is a region of {len(axes)} axes, but there are {region.ndim}.")
    parts = (_part(feature, text, size) for text, size in zip(axes, region.shape, strict=False))
    return np.asarray(region[tuple(parts)]).ravel()


def _part(feature: Feature, text: str, size: int) -> int | slice:
    """An index or a slice of one axis."""
    if _INDEX.fullmatch(text):
        if not -size <= int(text) < size:
            raise ValueError(f"The feature {feature!r} is out of range: there are {size} values, counted from 0.")
        return int(text)
    match = _SLICE.fullmatch(text)
    if match is None:
        raise ValueError(f"The feature {feature!r} is neither an index nor a slice such as '2:5'.")
    start, stop, step = (int(part) if part else None for part in match.groups())
    if step == 0 or len(range(size)[start:stop:step]) == 0 or (stop is not None and stop > size):
        raise ValueError(f"The feature {feature!r} must select some of the {size} values and none beyond.")
    return slice(start, stop, step)
