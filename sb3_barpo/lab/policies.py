"""
Policies with two actions, and what an adversary may show them.

``B(s)``, the observations that an adversary may show in state s, is held as K candidates, the clean one first. A policy
gives its probabilities for all of them, and pulls derivatives with respect to these back to its parameters.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

#: A strength for all policies, or one for each, shape ``(M,)``.
Strength: TypeAlias = float | np.ndarray


class Policy(ABC):
    """
    A family of policies with parameters θ in a box.

    :param low: Lowest value of each parameter.
    :param high: Highest value of each parameter.
    :param n_params: Number of parameters.
    """

    low: float
    high: float
    n_params: int

    @abstractmethod
    def probabilities(self, theta: np.ndarray, strength: Strength = 1.0) -> np.ndarray:
        """
        :param theta: Parameters of M policies, shape ``(M, n_params)``.
        :param strength: Of the adversary, as a share of its full one; one number, or one for each policy.
        :return: Probabilities of the actions in each state for each candidate of ``B(s)``, shape ``(M, S, K, 2)``.
        """

    @abstractmethod
    def pull_back(self, theta: np.ndarray, slopes: np.ndarray, strength: Strength = 1.0) -> np.ndarray:
        """
        :param theta: Parameters of M policies, shape ``(M, n_params)``.
        :param slopes: Derivatives with respect to :meth:`probabilities`, of its shape.
        :param strength: Of the adversary.
        :return: Derivatives with respect to the parameters, shape ``(M, n_params)``.
        """

    @abstractmethod
    def confusions(self) -> list[set[int]]:
        """:return: Sets of states that one observation may stand for; each largest set at least once."""

    def starts(self, n_starts: int, seed: int) -> np.ndarray:
        """:return: Parameters drawn evenly from the box, shape ``(n_starts, n_params)``."""
        return np.random.default_rng(seed).uniform(self.low, self.high, (n_starts, self.n_params))


class IntervalPolicy(Policy):
    """
    ``π(a0|o) = σ(w o + b)`` of a real observation, ``θ = (w, b)``. The adversary may show anything within ε of the
    state's own observation; its strength scales ε.

    Two ends are enough to hold an interval: ``π(a0|o)`` is monotone in o, so that an adversary that lowers the value,
    which is linear in ``π(a0|o)``, is at an end, and so is one that raises the KL divergence, which falls towards the
    clean observation from both sides.

    :param observations: The observation of each state, shape ``(S,)``.
    :param epsilon: Half the length of the intervals.
    :param bound: The parameters lie between ``-bound`` and ``bound``.
    :param points: Number of candidates, odd: the clean observation, the ends, and what lies evenly between them.
    :raises ValueError: for a negative ε, or a number of points that is even or below 3.
    """

    n_params = 2

    def __init__(self, observations: Sequence[float], epsilon: float, bound: float = 4.0, points: int = 3) -> None:
        if not epsilon >= 0:
            raise ValueError(f"epsilon must be at least 0, but it is {epsilon!r}.")
        if points < 3 or points % 2 == 0:
            raise ValueError(f"points must be odd and at least 3, but it is {points!r}. 3 is exact already.")
        self.observations, self.epsilon = np.asarray(observations, dtype=float), epsilon
        self.low, self.high = -bound, bound
        offsets = np.linspace(-1.0, 1.0, points)
        self._offsets = np.concatenate([[0.0], np.delete(offsets, points // 2)])

    def candidates(self, strength: Strength = 1.0) -> np.ndarray:
        """
        :return: The observations of ``B(s)``, shape ``(S, K)``, the clean ones first; for M strengths ``(M, S, K)``.
        """
        reach = np.asarray(strength)[..., None, None] * self.epsilon
        found: np.ndarray = self.observations[:, None] + reach * self._offsets
        return found

    def probabilities(self, theta: np.ndarray, strength: Strength = 1.0) -> np.ndarray:
        """:return: See :meth:`Policy.probabilities`."""
        logits = theta[:, 0, None, None] * self.candidates(strength) + theta[:, 1, None, None]
        first = 0.5 * (1 + np.tanh(0.5 * logits))  # σ, without overflow
        return np.stack([first, 1 - first], -1)

    def pull_back(self, theta: np.ndarray, slopes: np.ndarray, strength: Strength = 1.0) -> np.ndarray:
        """:return: See :meth:`Policy.pull_back`."""
        seen = self.probabilities(theta, strength)
        by_logit = (slopes[..., 0] - slopes[..., 1]) * seen[..., 0] * seen[..., 1]
        by_weight = (by_logit * self.candidates(strength)).sum((1, 2))
        return np.stack([by_weight, np.einsum("msk->m", by_logit)], -1)

    def confusions(self) -> list[set[int]]:
        """:return: See :meth:`Policy.confusions`. The largest sets of intervals that share a point share a left end."""
        left = self.observations - self.epsilon
        held = np.abs(left[:, None] - self.observations) <= self.epsilon * (1 + 1e-12)
        return [set(np.flatnonzero(row).tolist()) for row in held]


class SetPolicy(Policy):
    """
    One observation for each state, and one parameter for each observation: ``θ_o = π(a0|o)``. The adversary may show
    any observation of the state's set; its strength is the probability with which it does, instead of the clean one.

    :param sets: The observations of each state's set, its own (that of the state's number) first.
    :raises ValueError: if a set does not begin with its state's own observation, or names one that does not exist.
    """

    low, high = 0.0, 1.0

    def __init__(self, sets: Sequence[Sequence[int]]) -> None:
        for state, members in enumerate(sets):
            if not members or members[0] != state or not all(0 <= member < len(sets) for member in members):
                raise ValueError(
                    f"The set of state {state} must begin with {state} and name states below {len(sets)}, "
                    f"but it is {list(members)}."
                )
        widest = max(map(len, sets))
        # Padded by the clean observation, which changes no adversary's choice.
        self.sets = np.array([[*members, *[members[0]] * (widest - len(members))] for members in sets])
        self.n_params = len(self.sets)

    def probabilities(self, theta: np.ndarray, strength: Strength = 1.0) -> np.ndarray:
        """:return: See :meth:`Policy.probabilities`."""
        if not ((np.asarray(strength) >= 0) & (np.asarray(strength) <= 1)).all():
            raise ValueError(f"The strength is a probability here, from 0 to 1, but it is {strength!r}.")
        share = np.asarray(strength)[..., None, None]
        first = share * theta[:, self.sets] + (1 - share) * theta[:, self.sets[:, :1]]
        return np.stack([first, 1 - first], -1)

    def pull_back(self, theta: np.ndarray, slopes: np.ndarray, strength: Strength = 1.0) -> np.ndarray:
        """:return: See :meth:`Policy.pull_back`."""
        by_first = slopes[..., 0] - slopes[..., 1]
        pulled: np.ndarray = (1 - np.asarray(strength))[..., None] * by_first.sum(-1)
        for state, members in enumerate(self.sets):
            for k, member in enumerate(members):
                pulled[:, member] += strength * by_first[:, state, k]
        return pulled

    def confusions(self) -> list[set[int]]:
        """:return: See :meth:`Policy.confusions`."""
        return [set(np.flatnonzero((self.sets == o).any(-1)).tolist()) for o in range(len(self.sets))]
