"""Where ascents end: stationary or not, trapped or good, and from where."""

import numpy as np

from sb3_barpo.lab.adversaries import strongest
from sb3_barpo.lab.ascent import Method, Problem, ascend, objective

#: The kinds of ends. "trapped": low and robust, as deceptive first-order stationary policies are; "low": low otherwise;
#: "fragile": good until it is attacked; "good": good and robust.
KINDS = ("trapped", "low", "fragile", "good")


def slope(problem: Problem, theta: np.ndarray, method: Method, step: float = 1e-3, directions: int = 720) -> np.ndarray:
    """
    The test for a first-order stationary policy (FOSP): no direction that stays in the box leads up. It asks for
    one-sided slopes, since the worst case has ridges.

    :param problem: The problem, with two parameters.
    :param theta: Parameters of M policies, shape ``(M, 2)``.
    :param method: Whose objective is looked at, at the end of training.
    :param step: Length of the finite difference. Much below this the KL adversary of a policy that ignores the
        observation is decided by rounding errors, since divergences to both sides differ by the third power of it.
    :param directions: Number of directions that are tried, evenly around the circle.
    :return: The steepest slope of each, shape ``(M,)``; at an FOSP it is at most 0, up to the order of the step.
    :raises ValueError: if there are not two parameters.
    """
    _check_plane(problem)
    here = objective(problem, theta, method)
    steepest = np.full(len(theta), -np.inf)
    for angle in np.linspace(0, 2 * np.pi, directions, endpoint=False):
        there = theta + step * np.array([np.cos(angle), np.sin(angle)])
        inside = ((there >= problem.policy.low - 1e-12) & (there <= problem.policy.high + 1e-12)).all(-1)
        rise = (objective(problem, there, method) - here) / step
        steepest = np.where(inside, np.maximum(steepest, rise), steepest)
    return steepest


def classify(problem: Problem, theta: np.ndarray, low: float = 0.7, robust: float = 0.1) -> np.ndarray:
    """
    :param problem: The problem.
    :param theta: Parameters of M policies, shape ``(M, n_params)``.
    :param low: A natural value below this is low, on a scale from the worst policy's value, 0, to the best one's, 1.
    :param robust: A policy is robust if the strongest adversary takes at most this of its value, on the same scale; if
        its value is low already, at most half of this.
    :return: Their :data:`KINDS`, shape ``(M,)``.
    """
    best, worst = problem.mdp.optimum()[0], problem.mdp.pessimum()
    natural = (problem.natural(theta) - worst) / (best - worst)
    gap = natural - (problem.value(theta, strongest) - worst) / (best - worst)
    is_low = natural < low
    which = np.where(is_low, np.where(gap < robust / 2, 0, 1), np.where(gap > robust, 2, 3))
    return np.array(KINDS)[which]


def shares(kinds: np.ndarray) -> dict[str, float]:
    """:return: Which share of the ends is of each of the :data:`KINDS`."""
    return {kind: float((kinds == kind).mean()) for kind in KINDS}


def grid(problem: Problem, points: int) -> np.ndarray:
    """
    :return: Parameters on a square grid over the box of a problem with two, shape ``(points², 2)``. The second one is
        that of the row, rising.
    """
    _check_plane(problem)
    ticks = np.linspace(problem.policy.low, problem.policy.high, points)
    first, second = np.meshgrid(ticks, ticks)
    return np.stack([first.ravel(), second.ravel()], -1)


def basins(problem: Problem, method: Method, points: int = 41, steps: int = 300, step_size: float = 0.13) -> np.ndarray:
    """
    :return: The kinds of ends of ascents from the :func:`grid`, shape ``(points, points)``: a map of the basins. Its
        steps are fewer and longer than those of :func:`sb3_barpo.lab.ascend`, to be quick.
    """
    ends = ascend(problem, grid(problem, points), method, steps, step_size)[-1]
    return classify(problem, ends).reshape(points, points)


def _check_plane(problem: Problem) -> None:
    if problem.policy.n_params != 2:
        raise ValueError(f"This needs a problem with two parameters, but {problem.name} has {problem.policy.n_params}.")
