"""Where the sensors of a sheet lie in an observation."""

import re
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from sb3_barpo.policies.spaces import by_parts
from sb3_barpo.sensors.sheet import Feature, Sensor, Sensors

_SLICE = re.compile(r"(-?\d*):(-?\d*)(?::(\d+))?")
_WITHIN = re.compile(r"(.+)\[(.+)\]")


class Place(NamedTuple):
    """
    A sensor and what it measures.

    :param feature: Its name in the sheet.
    :param sensor: The sensor.
    :param key: The key of a ``Dict`` space, ``""`` for a ``Box``.
    :param indices: Indices of the flattened observation, or of the flattened values of the key.
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
    :raises ValueError: if a feature is unknown there, two sensors measure the same, or the number of names is another
        than that of the features.
    :raises TypeError: if a sensor measures what is not a ``Box`` of floating-point numbers.
    """
    boxes = by_parts(space)
    if sheet.names and (isinstance(space, spaces.Dict) or len(sheet.names) != int(np.prod(space.shape or ()))):
        raise ValueError(
            f"The sheet names {len(sheet.names)} features, but the observations are {space}. Give the names of this "
            "environment's features, or none."
        )
    found: list[Place] = []
    taken: dict[tuple[str, int], Feature] = {}
    for feature, sensor in sheet.sensors.items():
        key, selection = _key_and_selection(feature, sheet, boxes)
        box = boxes[key]
        if not isinstance(box, spaces.Box) or not np.issubdtype(box.dtype, np.floating):
            raise TypeError(f"Sensors measure floating-point numbers, but what {feature!r} measures is {box}.")
        indices = np.atleast_1d(_selected(feature, selection, int(np.prod(box.shape))))
        for index in indices.tolist():
            if (key, index) in taken:
                raise ValueError(
                    f"The sensors {taken[key, index]!r} and {feature!r} both measure value {index}"
                    f"{f' of {key!r}' if key else ''}. Each value has one sensor."
                )
            taken[key, index] = feature
        found.append(Place(feature, sensor, key, indices))
    return found


def _key_and_selection(feature: Feature, sheet: Sensors, boxes: dict[str, Any]) -> tuple[str, Feature]:
    """The key of what is measured, and the index or slice there."""
    if "" in boxes:
        if feature in sheet.names:
            return "", sheet.names.index(str(feature))
        if isinstance(feature, int) or _SLICE.fullmatch(feature):
            return "", feature
        known = f"They are {', '.join(sheet.names)}" if sheet.names else "The sheet names none: give `features`"
        raise ValueError(f"Unknown feature {feature!r}. {known}; an index or a slice such as '2:5' will do too.")
    if feature in boxes:
        return str(feature), ":"
    match = _WITHIN.fullmatch(str(feature))
    if match is None or match[1] not in boxes:
        raise ValueError(f"Unknown feature {feature!r}. The keys are {', '.join(boxes)}; 'key[2:5]' is a part of one.")
    return match[1], int(match[2]) if re.fullmatch(r"-?\d+", match[2]) else match[2]


def _selected(feature: Feature, selection: Feature, size: int) -> np.ndarray:
    if isinstance(selection, int):
        if not -size <= selection < size:
            raise ValueError(f"The feature {feature!r} is out of range: there are {size} values, counted from 0.")
        return np.asarray(np.arange(size)[selection])
    match = _SLICE.fullmatch(selection)
    if match is None:
        raise ValueError(f"The feature {feature!r} is neither an index nor a slice such as '2:5'.")
    start, stop, step = (int(part) if part else None for part in match.groups())
    if step == 0 or (indices := np.arange(size)[start:stop:step]).size == 0 or (stop is not None and stop > size):
        raise ValueError(f"The feature {feature!r} must select some of the {size} values and none beyond.")
    return indices
