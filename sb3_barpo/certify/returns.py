"""Certificates of returns: what an agent that smooths its observations earns at least, whoever attacks it."""

import math
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from scipy import stats
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_barpo.attacks.learned import check_clean_env
from sb3_barpo.attacks.victim import undisturbed
from sb3_barpo.checks import is_number, require, require_count, require_env, require_model
from sb3_barpo.episodes import Episode, run_wave


class NoisyModel:
    """
    A model that adds Gaussian noise to all it sees, anew at each step: policy smoothing. It fits wherever SB3 asks for
    something with ``predict``; under an attack, ``UnderAttack(NoisyModel(model, sigma), attack)``, the noise comes
    after the perturbation.

    :param model: The model, with observations of floating-point numbers.
    :param sigma: Standard deviation of the noise, in the units of the observations.
    :param seed: Seed of the noise; ``None`` draws one from the operating system.
    :raises ValueError: if σ is not finite and above 0.
    :raises TypeError: for other observations.
    """

    def __init__(self, model: OnPolicyAlgorithm, sigma: float, seed: int | None = None) -> None:
        require(
            is_number(sigma) and 0 < sigma < math.inf,
            "sigma",
            sigma,
            "the noise's standard deviation must be finite and above 0; 0.1 is usual for normalised observations",
        )
        space = model.observation_space
        if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
            raise TypeError(
                f"Gaussian noise is added to a Box of floating-point numbers, but the observations are {space}. For "
                "other ones there is no certificate: search for attacks, evaluate_robustness."
            )
        self.model = model
        self.observation_space = space
        self.env: VecEnv | None = model.get_env()
        self.sigma = float(sigma)
        self.seed(seed)

    def seed(self, seed: int | None) -> None:
        """:param seed: Seed of the noise; ``None`` draws one from the operating system."""
        self._generator = np.random.default_rng(seed)

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """:return: What the model does at the observation with noise. The arguments are those of SB3's ``predict``."""
        noise = self.sigma * self._generator.standard_normal(np.shape(observation))
        noisy = (observation + noise).astype(self.observation_space.dtype)
        return self.model.predict(noisy, state, episode_start, deterministic)


@dataclass(frozen=True)
class CertifiedReturn:
    """
    What is certain of the smoothed agent's return under every attack whose perturbations ``δ_t`` have
    ``sqrt(Σ_t ‖δ_t‖₂²) ≤ radius`` over a whole episode. The attacker may know all that has happened, and choose each
    perturbation by it; only the noise to come is hidden from it.

    The return is at least r with probability at least ``Φ(Φ⁻¹(p) - radius / σ)``, where p is that probability without
    an attack: the adaptive Neyman-Pearson lemma of Kumar et al., "Policy Smoothing for Provably Robust Reinforcement
    Learning" (ICLR 2022); percentiles are Wu et al.'s, "CROP" (ICLR 2022). What is not known of p is estimated from
    independent episodes, so each bound holds with the stated confidence, each by itself; the bounds of :meth:`mean` at
    all radii hold together.

    :param returns: Of episodes of the smoothed agent without an attack, shape ``(n,)``.
    :param sigma: Standard deviation of the noise.
    :param confidence: The probability with which a bound holds, between 0.5 and 1.
    :param longest: Number of steps of the longest of these episodes, 0 if unknown.
    :raises ValueError: for a setting out of range, or returns that are not finite.
    """

    returns: np.ndarray
    sigma: float
    confidence: float = 0.95
    longest: int = 0

    def __post_init__(self) -> None:
        require(
            is_number(self.confidence) and 0.5 <= self.confidence < 1,
            "confidence",
            self.confidence,
            "it must be at least 0.5 and below 1; 0.95 is usual",
        )
        object.__setattr__(self, "returns", np.sort(np.asarray(self.returns, dtype=float)))
        if self.returns.ndim != 1 or not len(self.returns) or not np.isfinite(self.returns).all():
            raise ValueError(f"Returns are finite numbers, one an episode, but they are {self.returns!r}.")

    def quantile(self, q: float, radius: float) -> float:
        """
        By order statistics: the k-th lowest return lies above the ``1 - p`` quantile with the probability that at most
        ``k - 1`` of n episodes fall below it, which is a binomial one. No distribution is assumed.

        :param q: Which quantile, between 0 and 1: 0.5 for the median.
        :param radius: L2 norm of all perturbations of an episode together.
        :return: A lower bound of this quantile under attack: with probability ``1 - q`` an episode's return is at least
            that. ``-inf`` if there are too few episodes to say so, see :meth:`largest_radius`.
        """
        _check_quantile(q)
        needed = stats.norm.cdf(stats.norm.ppf(1 - q) + self._shift(radius))
        n = len(self.returns)
        below = stats.binom.cdf(np.arange(n), n, 1 - needed)  # at most 0, 1, ... episodes fall below
        k = int(np.searchsorted(below, 1 - self.confidence, side="right"))
        return float(self.returns[k - 1]) if k else -math.inf

    def largest_radius(self, q: float) -> float:
        """
        :param q: Which quantile.
        :return: The largest radius for which :meth:`quantile` has a bound with so many episodes; 0 for none.
        """
        _check_quantile(q)
        reached = stats.norm.ppf((1 - self.confidence) ** (1 / len(self.returns)))
        return max(self.sigma * float(reached - stats.norm.ppf(1 - q)), 0.0)

    def probability(self, threshold: float, radius: float) -> float:
        """
        By the interval of Clopper and Pearson (1934).

        :param threshold: A return, chosen before the episodes were seen.
        :param radius: L2 norm of all perturbations of an episode together.
        :return: A lower bound of the probability that the return under attack is at least this.
        """
        n, reached = len(self.returns), int((self.returns >= threshold).sum())
        p = stats.beta.ppf(1 - self.confidence, reached, n - reached + 1) if reached else 0.0
        return float(stats.norm.cdf(stats.norm.ppf(p) - self._shift(radius)))

    def mean(self, radius: float, lowest: float) -> float:
        """
        The integral of the probabilities of all returns, each bounded at once by the inequality of Dvoretzky, Kiefer,
        Wolfowitz and Massart (1990). Where an attack could make the return arbitrarily low, nothing bounds a mean, so
        the lowest return has to be known.

        :param radius: L2 norm of all perturbations of an episode together.
        :param lowest: What no episode's return falls below, under no attack: 0 where all rewards are positive.
        :return: A lower bound of the mean return under attack.
        :raises ValueError: if an episode's return was lower.
        """
        n = len(self.returns)
        require(
            is_number(lowest) and -math.inf < lowest <= self.returns[0],
            "lowest",
            lowest,
            f"no return may be below it, and one was {self.returns[0]:g}",
        )
        unsure = math.sqrt(math.log(1 / (1 - self.confidence)) / (2 * n))
        reached = np.maximum(1 - np.arange(n) / n - unsure, 0.0)  # share of episodes that reach the k-th return
        attacked = stats.norm.cdf(stats.norm.ppf(reached) - self._shift(radius))
        return float(lowest + attacked @ np.diff(self.returns, prepend=lowest))

    def _shift(self, radius: float) -> float:
        require(
            is_number(radius) and 0 <= radius < math.inf,
            "radius",
            radius,
            "the budget of an episode must be finite and at least 0",
        )
        return radius / self.sigma


def _check_quantile(q: float) -> None:
    require(is_number(q) and 0 < q < 1, "q", q, "a quantile lies between 0 and 1; 0.5 is the median")


def certify_return(
    model: OnPolicyAlgorithm,
    env: gym.Env[Any, Any] | VecEnv,
    sigma: float,
    n_episodes: int = 1_000,
    seed: int = 0,
    confidence: float = 0.95,
    deterministic: bool = True,
) -> CertifiedReturn:
    """
    Certify the returns of the agent that acts on its observations with Gaussian noise (:class:`NoisyModel`). The
    certificate is that agent's, not the model's own: deploy it with the noise. One that was trained with such noise
    loses less by it.

    :param model: The agent, any on-policy one of SB3 or sb3-contrib with observations of floating-point numbers, with
        or without a memory.
    :param env: Its environments, wrapped as in training, but not by an attack. As many episodes run at a time as there
        are environments.
    :param sigma: Standard deviation of the noise, in units of what the policy sees (after ``VecNormalize``).
    :param n_episodes: Number of episodes, from which the certificate is estimated.
    :param seed: Seed of the first episode and of the noise; the k-th episode has ``seed + k``.
    :param confidence: The probability with which a bound holds.
    :param deterministic: Whether the agent takes its most likely action at what it sees.
    :return: The certificate, to be asked for quantiles, means and probabilities at any radius.
    :raises ValueError: for a setting out of range, or environments that do not fit the model.
    :raises TypeError: for other observations.
    """
    require_count("n_episodes", n_episodes, "it must be a whole number, at least 1; 1000 is usual")
    require_model(model)
    require_env(env)
    noisy = NoisyModel(model, sigma, seed)
    CertifiedReturn(np.zeros(1), sigma, confidence)  # before work begins
    venv = BaseAlgorithm._wrap_env(env)
    check_clean_env(model, venv)
    episodes: list[Episode] = []
    with undisturbed(model, venv):
        th.manual_seed(seed)
        while (done := len(episodes)) < n_episodes:
            episodes += run_wave(noisy, venv, min(venv.num_envs, n_episodes - done), seed + done, deterministic)
    returns, lengths = (np.array(column) for column in zip(*episodes, strict=True))
    return CertifiedReturn(returns, noisy.sigma, confidence, int(lengths.max()))


def radius_of(epsilon: float, n_features: int, n_steps: int) -> float:
    """
    :param epsilon: By how much an attack may move each feature at each step.
    :param n_features: Number of features that it moves.
    :param n_steps: Number of steps of an episode at which it moves them.
    :return: The L2 norm of all perturbations of an episode together, at most.
    """
    return epsilon * math.sqrt(n_features * n_steps)
