"""Problems to look at: two that were chosen, and families that were not."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sb3_barpo.lab.ascent import Problem
from sb3_barpo.lab.mdp import TabularMDP
from sb3_barpo.lab.policies import IntervalPolicy, SetPolicy


def footbridge(
    epsilon: float = 1.2,
    wait: float = -0.2,
    straight: float = 0.3,
    swerve: float = -1.0,
    start: float = 0.8,
    gamma: float = 0.9,
) -> Problem:
    """
    On the shore, a0 steps on the bridge and a1 waits. On the bridge, a0 walks straight and a1 swerves; both lead to the
    shore. Observations are 1 on the shore and 0 on the bridge, and an adversary can make one look like the other.
    Always a0 is best, with or without an adversary: this is an ISA-MDP.

    :param epsilon: Half the length of the intervals that the adversary may show.
    :param wait: Reward of waiting.
    :param straight: Reward of walking straight.
    :param swerve: Reward of swerving.
    :param start: Probability to start on the shore.
    :param gamma: Discount.
    :return: The problem, with ``π(a0|o) = σ(w o + b)``.
    """
    transitions = np.array([[[0, 1], [1, 0]], [[1, 0], [1, 0]]])
    rewards = np.array([[0.0, wait], [straight, swerve]])
    mdp = TabularMDP(transitions, rewards, np.array([start, 1 - start]), gamma)
    return Problem("footbridge", mdp, IntervalPolicy([1.0, 0.0], epsilon))


def swamp() -> Problem:
    """
    In the meadow, a0 stays and a1 falls into the swamp. In the swamp, a0 climbs out and a1 stays. The adversary may
    exchange the two observations. Always a0 is best, with or without it: an ISA-MDP, in which the KL adversary does not
    help, since it exchanges them always.

    :return: The problem, with one parameter ``π(a0|o)`` for each observation.
    """
    transitions = np.array([[[1, 0], [0.2, 0.8]], [[0.5, 0.5], [0, 1]]])
    rewards = np.array([[0.5, -0.4], [-0.6, 0.1]])
    return Problem("swamp", TabularMDP(transitions, rewards, np.array([1.0, 0.0])), SetPolicy([[0, 1], [1, 0]]))


def is_isa(problem: Problem) -> bool:
    """
    Whether an MDP with an adversary is an ISA-MDP, as Li et al. define it: for each observation, some action is
    Bellman-optimal in all states that the observation may stand for, so that one policy is optimal whatever is shown.

    :param problem: The problem.
    :return: Whether it is.
    """
    optimal = problem.mdp.optimal_actions()
    return all(set.intersection(*(optimal[state] for state in states)) for states in problem.policy.confusions())


class Found(NamedTuple):
    """
    What a search has found, and out of how many.

    :param problems: Those with the wanted property, in the order in which they were drawn.
    :param tried: How many were drawn for them.
    """

    problems: list[Problem]
    tried: int


def search(
    draw: Callable[[np.random.Generator], Problem],
    wanted: Callable[[Problem], bool],
    n_problems: int,
    seed: int = 0,
    max_tries: int = 10_000,
) -> Found:
    """
    Draw problems until enough have the property that is wanted. What is found is not typical: ``tried`` says how far
    it was selected, and belongs beside every claim about it.

    :param draw: Draws a problem, such as :func:`any_crossing` or :func:`any_mdp`.
    :param wanted: Whether to keep one, such as :func:`is_isa`.
    :param n_problems: How many to find.
    :param seed: Seed of the draws.
    :param max_tries: How many to draw at most.
    :return: What was found; fewer than ``n_problems`` if the tries did not suffice.
    """
    rng = np.random.default_rng(seed)
    found: list[Problem] = []
    tried = 0
    while len(found) < n_problems and tried < max_tries:
        tried += 1
        problem = draw(rng)
        if wanted(problem):
            found.append(problem)
    return Found(found, tried)


def any_crossing(rng: np.random.Generator) -> Problem:
    """:return: A footbridge of random rewards, start, discount and ε."""
    return footbridge(
        epsilon=rng.uniform(0.6, 1.8),
        wait=rng.uniform(-0.5, 0.0),
        straight=rng.uniform(0.1, 0.8),
        swerve=rng.uniform(-1.5, -0.5),
        start=rng.uniform(0.0, 1.0),
        gamma=rng.uniform(0.8, 0.95),
    )


def any_mdp(rng: np.random.Generator) -> Problem:
    """
    :return: An MDP of two states and two actions with random transitions (Dirichlet ½), rewards (standard normal) and
        start, discount 0.9, whose states are seen as 1 and 0 with a random ε.
    """
    mdp = TabularMDP(
        rng.dirichlet([0.5, 0.5], (2, 2)), rng.standard_normal((2, 2)), rng.dirichlet([1.0, 1.0]), gamma=0.9
    )
    return Problem("random", mdp, IntervalPolicy([1.0, 0.0], rng.uniform(0.6, 1.8)))


#: Families on which claims are tested: draw, then keep what is an ISA-MDP.
FAMILIES: dict[str, Callable[[np.random.Generator], Problem]] = {"crossings": any_crossing, "random": any_mdp}
