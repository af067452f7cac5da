"""Finite Markov decision processes, solved exactly, for many policies at once."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Evaluated(NamedTuple):
    """
    What linear algebra says of M policies.

    :param values: ``V(s)``, shape ``(M, S)``.
    :param q_values: ``Q(s, a)``, shape ``(M, S, A)``.
    :param visits: Discounted numbers of visits from the start distribution, shape ``(M, S)``; they sum to
        ``1 / (1 - gamma)``.
    """

    values: np.ndarray
    q_values: np.ndarray
    visits: np.ndarray

    @property
    def advantages(self) -> np.ndarray:
        """``A(s, a) = Q(s, a) - V(s)``, shape ``(M, S, A)``."""
        difference: np.ndarray = self.q_values - self.values[..., None]
        return difference


@dataclass(frozen=True, eq=False)
class TabularMDP:
    """
    A finite Markov decision process with S states and A actions.

    :param transitions: Probability of the next state given state and action, shape ``(S, A, S)``.
    :param rewards: Expected reward of an action in a state, shape ``(S, A)``.
    :param start: Distribution of the first state, shape ``(S,)``.
    :param gamma: Discount, at least 0 and below 1.
    :raises ValueError: if the shapes do not fit, or something is not a distribution.
    """

    transitions: np.ndarray
    rewards: np.ndarray
    start: np.ndarray
    gamma: float = 0.9

    def __post_init__(self) -> None:
        for name in ("transitions", "rewards", "start"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=float))
        if self.rewards.ndim != 2:
            raise ValueError(f"rewards must have shape (S, A), but it has shape {self.rewards.shape}.")
        n_states, n_actions = self.rewards.shape
        for name, shape in (("transitions", (n_states, n_actions, n_states)), ("start", (n_states,))):
            table = getattr(self, name)
            if table.shape != shape:
                raise ValueError(f"{name} must have shape {shape} to fit the rewards, but it has shape {table.shape}.")
            if (table < 0).any() or not np.allclose(table.sum(-1), 1):
                raise ValueError(f"{name} must hold probabilities that sum to 1, but it is {table.tolist()}.")
        if not 0 <= self.gamma < 1:
            raise ValueError(f"gamma must be at least 0 and below 1, but it is {self.gamma!r}. 0.9 is usual here.")

    def evaluate(self, acting: np.ndarray) -> Evaluated:
        """
        :param acting: Probabilities of the actions in each true state, shape ``(M, S, A)``.
        :return: Values and visits of the M policies, by one inverse matrix each.
        """
        moves = np.einsum("msa,sat->mst", acting, self.transitions)
        # One row for each state: the discounted visits to all states from there on.
        visits = np.linalg.inv(np.eye(len(self.start)) - self.gamma * moves)
        values = np.einsum("mst,mta,ta->ms", visits, acting, self.rewards)
        q_values = self.rewards + self.gamma * np.einsum("sat,mt->msa", self.transitions, values)
        return Evaluated(values, q_values, self.start @ visits)

    def value(self, acting: np.ndarray) -> np.ndarray:
        """:return: The values of the policies ``(M, S, A)`` at the start distribution, shape ``(M,)``."""
        values: np.ndarray = self.evaluate(acting).values @ self.start
        return values

    def optimum(self) -> tuple[float, np.ndarray]:
        """
        :return: The best value of any policy at the start distribution, and its ``Q(s, a)``, shape ``(S, A)``.
        """
        return self._extreme(1.0)

    def pessimum(self) -> float:
        """:return: The lowest value of any policy at the start distribution."""
        return self._extreme(-1.0)[0]

    def optimal_actions(self) -> list[set[int]]:
        """:return: For each state the actions that are Bellman-optimal in it."""
        q_values = self.optimum()[1]
        near = q_values >= q_values.max(-1, keepdims=True) - 1e-9
        return [set(np.flatnonzero(row).tolist()) for row in near]

    def _extreme(self, sign: float) -> tuple[float, np.ndarray]:
        """The best or, with sign -1, the worst policy, by policy iteration."""
        actions = np.zeros(len(self.start), dtype=int)
        while True:
            solved = self.evaluate(np.eye(self.rewards.shape[1])[None, actions])
            q_values = sign * solved.q_values[0]
            gain = q_values.max(-1) - q_values[np.arange(len(actions)), actions]
            if (gain <= 1e-12).all():
                return float(solved.values[0] @ self.start), solved.q_values[0]
            actions = np.where(gain > 1e-12, q_values.argmax(-1), actions)
