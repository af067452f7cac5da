"""The worst case of a sheet as a ball for adversaries and attacks."""

import copy
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecNormalize

from sb3_barpo.adversary import Adversary, Ball, LinfBall
from sb3_barpo.policies.spaces import by_parts
from sb3_barpo.sensors.places import Place, places
from sb3_barpo.sensors.sheet import Sensors

#: The default strength in training: all of the sheet in the end.
EPSILON_OF_SHEET = "ramp_1.0"


def ball(sheet: Sensors, space: spaces.Box | spaces.Dict, vec_normalize: VecNormalize | None = None) -> LinfBall:
    """
    The ball in which every sensor errs by at most its bound, in the units of what the policy sees: ``bound / σ``, with
    the standard deviation σ by which ``VecNormalize`` divides. ε is then a share of the sheet: 1 is the sheet.

    A proportional error adds its largest size over the range of the sensor, or of the space: a ball has one radius
    for all observations, so where the value is small it is larger than the sheet says.

    :param sheet: The spec sheet.
    :param space: Space of the observations.
    :param vec_normalize: The statistics between the environment and the policy, as they are now; see
        :func:`refresh` for when they move.
    :return: The ball. Features without a bound stay clean.
    :raises ValueError: if no sensor has a bound, a proportional error has no range, or the sheet or the statistics do
        not fit the space.
    :raises TypeError: if a sensor measures what is not a ``Box`` of numbers.
    """
    boxes = by_parts(space)
    radii = {key: np.zeros(int(np.prod(box.shape or ()))) for key, box in boxes.items()}
    for place in places(sheet, space):
        radii[place.key][place.indices] = place.sensor.bound + _proportional(place, boxes[place.key])
    if not any(radius.any() for radius in radii.values()):
        raise ValueError("No sensor of the sheet has a bound or a proportional error, so there is no worst case.")
    scales = {
        key: radius.reshape(boxes[key].shape) / _deviation(vec_normalize, key, boxes[key])
        for key, radius in radii.items()
        if radius.any()
    }
    return LinfBall(scales if isinstance(space, spaces.Dict) else scales[""])


def refresh(moved: Ball, sheet: Sensors, space: spaces.Box | spaces.Dict, vec_normalize: VecNormalize | None) -> None:
    """
    Give a ball the radii of the statistics as they are now, in place: whoever holds it has them too.

    :param moved: A ball of the same sheet, as :func:`ball` made it.
    :param sheet: The spec sheet.
    :param space: Space of the observations.
    :param vec_normalize: The statistics.
    """
    now = ball(sheet, space, vec_normalize)
    moved.scale, moved.scales = now.scale, now.scales


def within_sheet(
    adversary: Adversary, sheet: Sensors, space: spaces.Box | spaces.Dict, vec_normalize: VecNormalize | None
) -> Adversary:
    """
    :param adversary: An adversary of the default ball.
    :param sheet: The spec sheet.
    :param space: Space of the observations.
    :param vec_normalize: The statistics between the environment and the policy.
    :return: The same adversary in the ball of the sheet; a copy, a subclass stays one.
    :raises ValueError: if it has a ball of its own, or for what :func:`ball` refuses.
    :raises TypeError: for what :func:`ball` refuses.
    """
    if repr(adversary.ball) != repr(LinfBall()):
        raise ValueError(
            f"Both the sensors and the adversary say how far an observation may move, but a model has one ball. Leave "
            f"out the adversary's, {type(adversary.ball).__name__}, or the sensors."
        )
    other = copy.copy(adversary)
    other.ball = ball(sheet, space, vec_normalize)
    return other


def _deviation(vec_normalize: VecNormalize | None, key: str, box: spaces.Box) -> Any:
    """By what a key's values are divided: of its shape, or 1."""
    if vec_normalize is None or not vec_normalize.norm_obs:
        return 1.0
    statistics: Any = vec_normalize.obs_rms
    if isinstance(statistics, dict):
        if key not in statistics:
            return 1.0
        statistics = statistics[key]
    if statistics.var.shape != box.shape:
        raise ValueError(
            f"The statistics of VecNormalize are of shape {statistics.var.shape}, but the policy sees {box}. Stack or "
            "rearrange observations inside VecNormalize, not around it."
        )
    return np.sqrt(statistics.var + vec_normalize.epsilon)


def _proportional(place: Place, box: spaces.Box) -> Any:
    sensor = place.sensor
    if sensor.proportional == 0:
        return 0.0
    low = np.maximum(box.low.ravel()[place.indices], sensor.low)
    high = np.minimum(box.high.ravel()[place.indices], sensor.high)
    largest = np.maximum(np.abs(low), np.abs(high))
    if not np.isfinite(largest).all():
        raise ValueError(
            f"The proportional error of {place.feature!r} has no worst case, because its range is not limited. Give "
            "the sensor's low and high."
        )
    return sensor.proportional * largest
