"""Certificates of returns: right where the answer is known, of the right coverage, and held under attack."""

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from helpers import Still
from linear_system import HORIZON, controller, systems
from scipy import stats
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_barpo.adversary import L2Ball
from sb3_barpo.attacks import ATTACKS, Attack, LearnedAttack, UnderAttack
from sb3_barpo.certify import CertifiedReturn, NoisyModel, certify_return, radius_of
from sb3_barpo.episodes import run_wave

SIGMA, STEPS = 0.5, 4
WEIGHTS = np.array([0.6, 0.8], dtype=np.float32)


class Sum(gym.Env[np.ndarray, np.ndarray]):
    """Shows zeros for four steps; the reward is the action. The victim does ``w · s``, with ``‖w‖ = 1``."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-1e6, 1e6, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        return np.zeros(2, np.float32), float(action[0]), self.time == STEPS, False, {}


def summing(n_envs: int) -> tuple[PPO, VecEnv]:
    venv = make_vec_env(Sum, n_envs)
    model = PPO("MlpPolicy", venv, device="cpu", policy_kwargs={"net_arch": []})
    model.policy.action_net.weight.data.copy_(model.policy.action_net.weight.new_tensor(WEIGHTS[None]))
    model.policy.action_net.bias.data.zero_()
    return model, venv


def true_quantile(q: float, radius: float) -> float:
    """
    The return is a Gaussian of standard deviation ``2 σ``. The worst attack spends ``radius / 2`` on each of the four
    steps against w, which takes ``2 radius``: exactly the certificate's shift, so the certificate cannot be better.
    """
    return math.sqrt(STEPS) * (SIGMA * float(stats.norm.ppf(q)) - radius)


def test_a_case_with_a_known_answer() -> None:
    """1,000 episodes: the bounds are below the truth, and near it."""
    found = certify_return(*summing(200), SIGMA, seed=1)
    assert len(found.returns) == 1_000
    assert found.returns.std() == pytest.approx(math.sqrt(STEPS) * SIGMA, rel=0.1)
    for q, radius in [(0.5, 0.0), (0.5, 0.5), (0.2, 0.3), (0.9, 1.0)]:
        truth = true_quantile(q, radius)
        assert truth - 0.5 < found.quantile(q, radius) < truth
        p = stats.norm.cdf((0 - true_quantile(0.5, radius)) / (math.sqrt(STEPS) * SIGMA))
        assert 1 - p - 0.06 < found.probability(0.0, radius) < 1 - p


@pytest.mark.parametrize("confidence", [0.9, 0.99])
@pytest.mark.parametrize("radius", [0.0, 0.4])
def test_the_coverage_is_the_binomial_one(radius: float, confidence: float) -> None:
    """1,500 certificates of 200 episodes each: how often a bound holds is known, and not below what is stated."""
    draw, n, q = np.random.default_rng(0), 200, 0.3
    samples = draw.normal(0, math.sqrt(STEPS) * SIGMA, (1_500, n))
    truth = true_quantile(q, radius)
    held = np.mean([CertifiedReturn(row, SIGMA, confidence).quantile(q, radius) <= truth for row in samples])
    p = 1 - stats.norm.cdf(stats.norm.ppf(1 - q) + radius / SIGMA)
    k = max(k for k in range(1, n) if stats.binom.cdf(k - 1, n, p) <= 1 - confidence)
    expected = 1 - stats.binom.cdf(k - 1, n, p)
    assert expected >= confidence
    assert held == pytest.approx(expected, abs=3 * math.sqrt(expected * (1 - expected) / 1_500))


def test_the_coverage_of_probabilities_and_means() -> None:
    """The return is 1 with probability 0.8, otherwise 0; attacked at worst with ``Φ(Φ⁻¹(0.8) - 0.6)``."""
    draw, n, radius = np.random.default_rng(0), 150, 0.3
    samples = (draw.random((2_000, n)) < 0.8).astype(float)
    truth = stats.norm.cdf(stats.norm.ppf(0.8) - radius / SIGMA)
    certificates = [CertifiedReturn(row, SIGMA, 0.9) for row in samples]
    by_probability = np.array([one.probability(1.0, radius) for one in certificates])
    by_mean = np.array([one.mean(radius, lowest=0.0) for one in certificates])
    reached = np.arange(n + 1)
    holds = stats.norm.cdf(stats.norm.ppf(_clopper_pearson(reached, n, 0.9)) - radius / SIGMA) <= truth
    expected = stats.binom.pmf(reached, n, 0.8)[holds].sum()
    assert expected >= 0.9
    assert (by_probability <= truth).mean() == pytest.approx(expected, abs=0.02)
    assert (by_mean <= truth).mean() >= 0.9
    assert (by_mean <= by_probability).all()
    assert truth - 0.15 < by_mean.mean() < truth


def _clopper_pearson(reached: np.ndarray, n: int, confidence: float) -> np.ndarray:
    """The p at which reaching so many has the probability ``1 - confidence``, by bisection of the binomial itself."""
    low, high = np.zeros(len(reached)), np.ones(len(reached))
    for _ in range(50):
        middle = (low + high) / 2
        above = stats.binom.sf(reached - 1, n, middle) > 1 - confidence
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return low


def test_means_by_hand() -> None:
    """Returns 1, 2 and 4 of at least 0: segments of length 1, 1 and 2, reached by 3, 2 and 1 of 3."""
    found = CertifiedReturn(np.array([4.0, 1.0, 2.0]), 1.0, 0.5)
    unsure = math.sqrt(math.log(2) / 6)
    shares = [1 - unsure, 2 / 3 - unsure, max(1 / 3 - unsure, 0)]
    assert found.mean(0.0, lowest=0.0) == pytest.approx(shares[0] + shares[1] + 2 * shares[2])
    moved = stats.norm.cdf(stats.norm.ppf(shares) - 0.7)
    assert found.mean(0.7, lowest=0.0) == pytest.approx(moved[0] + moved[1] + 2 * moved[2])


def test_bounds_fall_with_the_radius_until_episodes_are_too_few() -> None:
    found = CertifiedReturn(np.arange(100.0), 2.0)
    radii = np.linspace(0, found.largest_radius(0.5), 20)[:-1]
    bounds = [found.quantile(0.5, radius) for radius in radii]
    assert bounds == sorted(bounds, reverse=True)
    assert min(bounds) >= 0
    assert found.quantile(0.5, found.largest_radius(0.5) + 1e-6) == -math.inf
    assert found.largest_radius(0.5) == pytest.approx(2 * stats.norm.ppf(0.05**0.01))
    assert CertifiedReturn(np.arange(3.0), 2.0).largest_radius(0.1) == 0
    assert found.probability(200.0, 0.1) == 0


@pytest.mark.parametrize("name", list(ATTACKS))
def test_the_bound_holds_under_attack(name: str) -> None:
    """The linear system, whose noisy controller is attacked within the same budget, spread over the episode."""
    model, radius = controller(), 0.6
    certificate = certify_return(model, systems(100), 0.3, n_episodes=400, seed=5)
    epsilon = radius / math.sqrt(HORIZON)
    kind: Any = ATTACKS[name]
    attack: Attack = kind(
        model, epsilon, ball=L2Ball(), seed=0, **({"n_steps": 64} if name in ("sarl", "paad") else {})
    )
    if isinstance(attack, LearnedAttack):
        attack.fit(systems(8), 512)
    returns = attacked(model, attack, 400)
    for q in (0.1, 0.5, 0.9):
        assert certificate.quantile(q, radius) < np.quantile(returns, q)


def test_the_bound_holds_under_the_worst_attack() -> None:
    """Which pushes away from 0 at each step (see ``returns_of``), and the same spent in the first steps alone."""

    class Worst(Attack):
        name = "worst"
        step = 0
        until = HORIZON

        def _perturb(self, observations: Any, policy: Any) -> Any:
            active = self.step < self.until
            self.step = (self.step + 1) % HORIZON
            return observations - active * self.epsilon / math.sqrt(2) * observations.sign()

    model = controller()
    for radius in (0.3, 1.0):
        certificate = certify_return(model, systems(500), 0.3, n_episodes=1_000, seed=5)
        for until in (1, 3, HORIZON):
            attack = Worst(model, radius / math.sqrt(until))
            attack.until = until
            returns = attacked(model, attack, 1_000)
            assert returns.mean() < certificate.returns.mean()
            for q in (0.1, 0.5, 0.9):
                assert certificate.quantile(q, radius) < np.quantile(returns, q)


def attacked(model: PPO, attack: Attack, n: int) -> np.ndarray:
    noisy = NoisyModel(model, 0.3, seed=11)
    episodes = run_wave(UnderAttack(noisy, attack), systems(n), n, 77, deterministic=True)
    return np.array([episode.reward for episode in episodes])


def test_noise_is_seeded_and_leaves_the_type() -> None:
    model, _ = summing(1)
    seen = np.zeros((3, 2), np.float32)
    first, again, other = (NoisyModel(model, 0.1, seed).predict(seen, deterministic=True)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()
    noise = 0.1 * np.random.default_rng(0).standard_normal((3, 2)).astype(np.float32)
    np.testing.assert_allclose(first[:, 0], noise @ WEIGHTS, rtol=1e-5)


def test_the_same_seed_gives_the_same_certificate() -> None:
    first, again = (certify_return(*summing(7), SIGMA, n_episodes=20, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.returns, again.returns)


def test_a_memory_is_supported() -> None:
    contrib = pytest.importorskip("sb3_contrib")
    model = contrib.RecurrentPPO("MlpLstmPolicy", make_vec_env(Sum, 2), device="cpu", n_steps=8, batch_size=8)
    assert len(certify_return(model, make_vec_env(Sum, 3), SIGMA, n_episodes=5).returns) == 5


def test_radius_of_a_strength() -> None:
    assert radius_of(0.1, 4, 25) == pytest.approx(1.0)
    delta = np.full((25, 4), 0.1)
    assert radius_of(0.1, 4, 25) == pytest.approx(np.linalg.norm(delta))


def test_bad_settings() -> None:
    model, venv = summing(1)
    for sigma in (0, -1.0, math.inf, True):
        with pytest.raises(ValueError, match="but the noise's standard deviation must be finite and above 0"):
            certify_return(model, venv, sigma)
    with pytest.raises(ValueError, match="n_episodes is 0, but it must be a whole number, at least 1"):
        certify_return(model, venv, 0.1, n_episodes=0)
    with pytest.raises(ValueError, match=r"confidence is 1\.0, but it must be at least 0\.5 and below 1"):
        certify_return(model, venv, 0.1, confidence=1.0)
    with pytest.raises(ValueError, match="The environment's observation_space must be the model's"):
        certify_return(model, make_vec_env("CartPole-v1"), 0.1)
    pixels = DummyVecEnv([lambda: Still(spaces.Box(0, 255, (4,), np.uint8))])
    with pytest.raises(TypeError, match="Gaussian noise is added to a Box of floating-point numbers"):
        certify_return(PPO("MlpPolicy", pixels, device="cpu"), pixels, 0.1)
    found = CertifiedReturn(np.array([1.0, 2.0]), 0.1)
    with pytest.raises(ValueError, match=r"q is 1\.0, but a quantile lies between 0 and 1"):
        found.quantile(1.0, 0.1)
    with pytest.raises(ValueError, match="q is 0, but a quantile lies between 0 and 1"):
        found.largest_radius(0)
    with pytest.raises(ValueError, match="radius is -1, but the budget of an episode must be finite and at least 0"):
        found.quantile(0.5, -1)
    with pytest.raises(ValueError, match=r"lowest is 1\.5, but no return may be below it, and one was 1"):
        found.mean(0.1, lowest=1.5)
    for returns in ([], [math.nan], [[1.0]]):
        with pytest.raises(ValueError, match="Returns are finite numbers, one an episode"):
            CertifiedReturn(np.array(returns), 0.1)
