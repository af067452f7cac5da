"""Units of the features of Gymnasium's MuJoCo tasks, and what converts to them."""

import math
import re

#: What the names of :data:`sb3_barpo.sensors.FEATURES` say of the unit; the first that fits counts. ``None``: mixed.
_BY_NAME: tuple[tuple[str, str | None], ...] = (
    (r"force_\d+_\d|.*_inertia_\d", None),
    (r".*_(sin|cos)|orientation_[wxyz]", ""),
    (r".*_torque(_[xyz])?", "N m"),
    (r".*_force(_[xyz])?", "N"),
    (r".*(_angle|angular)_velocity(_[xyz])?", "rad/s"),
    (r".*velocity(_[xyz])?", "m/s"),
    (r".*_angle", "rad"),
    (r".*_position|(.*_)?[xyz]", "m"),
)
#: Other units, as how much of which one they are. Each may be one per second.
_FACTORS = {
    "deg": (math.pi / 180, "rad"),
    "°": (math.pi / 180, "rad"),
    "mrad": (1e-3, "rad"),
    "cm": (1e-2, "m"),
    "mm": (1e-3, "m"),
}


def unit_of(feature: str) -> str | None:
    """
    :param feature: One of the names of a MuJoCo task.
    :return: In which unit the task observes it, empty for a plain number; ``None`` if that is not known.
    """
    return next((unit for pattern, unit in _BY_NAME if re.fullmatch(pattern, feature)), None)


def factor(unit: str, wanted: str) -> float | None:
    """
    :param unit: A unit.
    :param wanted: The unit of an environment.
    :return: How much of ``wanted`` one of it is, ``None`` if it is not convertible.
    """
    if unit == wanted:
        return 1.0
    length, slash, per = unit.partition("/")
    size, base = _FACTORS.get(length.strip(), (None, ""))
    return size if f"{base}{slash}{per.strip()}" == wanted else None


def convertible(wanted: str) -> list[str]:
    """:return: The units that convert to this one, it first."""
    known = [*_FACTORS, *(f"{name}/s" for name in _FACTORS)]
    return [wanted, *(name for name in known if factor(name, wanted) is not None)]
