"""
Adversaries: what is shown of ``B(s)`` in each state.

An adversary maps an MDP and the policies' probabilities for the candidates, shape ``(M, S, K, A)``, to the weights with
which it shows them, shape ``(M, S, K)``. Write your own as such a function.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from sb3_barpo.lab.mdp import TabularMDP

Adversary: TypeAlias = Callable[[TabularMDP, np.ndarray], np.ndarray]


def acting(seen: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """
    :param seen: The policies' probabilities for the candidates, shape ``(M, S, K, A)``.
    :param shown: The adversary's weights of the candidates, shape ``(M, S, K)``.
    :return: The probabilities of the actions in each true state, ``π∘ν``, shape ``(M, S, A)``.
    """
    mixed: np.ndarray = np.einsum("msk,mska->msa", shown, seen)
    return mixed


def clean(mdp: TabularMDP, seen: np.ndarray) -> np.ndarray:
    """:return: Weights that show every state as it is: SPO's adversary."""
    return _only(np.zeros(seen.shape[:2], dtype=int), seen)


def strongest(mdp: TabularMDP, seen: np.ndarray) -> np.ndarray:
    """
    The adversary of lowest value, ``argmin_ν V^{π∘ν}``: ARPO's. It is exact, by policy iteration in the adversary's own
    MDP, whose action in a state is the observation that it shows (Zhang et al., NeurIPS 2020, section 3); of the
    candidates that harm alike, the clean one is shown, or the first.

    :return: Its weights, 0 and 1.
    """
    choice = np.zeros(seen.shape[:2], dtype=int)
    while True:
        shown = _only(choice, seen)
        harm = _harm(mdp, seen, shown)
        gain = harm.max(-1) - np.einsum("msk,msk->ms", shown, harm)
        better = gain > 1e-12
        if not better.any():
            return shown
        choice = np.where(better, harm.argmax(-1), choice)


def kl(mdp: TabularMDP, seen: np.ndarray) -> np.ndarray:
    """:return: The weights, 0 and 1, of the adversary of largest ``KL(π(·|s) ‖ π(·|ν(s)))``: BARPO's."""
    return _only(divergences(seen).argmax(-1), seen)


def mixture(temperature: float) -> Adversary:
    """
    An adversary between the strongest one and chance: it shows candidates with weights ``exp(-q / temperature)``, where
    q is the value of showing one now while the strongest adversary goes on.

    :param temperature: In units of value. Towards 0 it is the strongest; the larger, the more even.
    :return: The adversary.
    :raises ValueError: if the temperature is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, but it is {temperature!r}.")

    def gibbs(mdp: TabularMDP, seen: np.ndarray) -> np.ndarray:
        harm = _harm(mdp, seen, strongest(mdp, seen))
        weights = np.exp((harm - harm.max(-1, keepdims=True)) / temperature)
        normalised: np.ndarray = weights / weights.sum(-1, keepdims=True)
        return normalised

    return gibbs


def divergences(seen: np.ndarray) -> np.ndarray:
    """:return: ``KL(π(·|s) ‖ π(·|o))`` for every candidate o of ``B(s)``, shape ``(M, S, K)``."""
    tiny = np.finfo(float).tiny
    clean_ones, logs = seen[:, :, :1], np.log(np.maximum(seen, tiny))
    summed: np.ndarray = (clean_ones * (logs[:, :, :1] - logs)).sum(-1)
    return summed


def _harm(mdp: TabularMDP, seen: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Minus the value of showing each candidate now and going on as ``shown``, shape ``(M, S, K)``."""
    q_values = mdp.evaluate(acting(seen, shown)).q_values
    harm: np.ndarray = -np.einsum("mska,msa->msk", seen, q_values)
    return harm


def _only(choice: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Weights that show one candidate alone in each state."""
    weights: np.ndarray = np.eye(seen.shape[2])[choice]
    return weights
