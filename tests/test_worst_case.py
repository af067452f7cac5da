"""Attacks on a system whose worst case is known, what Robust Sarsa learns from, and the ball that nothing leaves."""

from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import make_envs
from linear_system import CONTRACTION, COST, DRIFT, PUSH, controller, damage, play, returns_of, systems
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize
from torch.nn.functional import mse_loss
from victims import victim

from sb3_barpo.adversary import Ball, L2Ball, LinfBall
from sb3_barpo.attacks import (
    ATTACKS,
    MAD,
    PAAD,
    SARL,
    Attack,
    AttackObservation,
    Critic,
    LearnedAttack,
    MaxKL,
    Push,
    Random,
    RobustSarsa,
    SarsaMAD,
    UnderAttack,
    VecAttackObservation,
    WorstQ,
)
from sb3_barpo.attacks.sarsa import Transitions

EPSILON, GAMMA, LOG_STD = 0.3, 0.9, -0.5
PPO_SETTINGS: dict[str, Any] = {"learning_rate": 1e-2, "n_steps": 32, "batch_size": 128, "gamma": 0.5}
SARSA_SETTINGS: dict[str, Any] = {
    "learning_rate": 1e-2,
    "n_epochs": 20,
    "batch_size": 256,
    "gamma": GAMMA,
    "regularization": 0,
}
LEARNED = [RobustSarsa, SarsaMAD, WorstQ, SARL, PAAD]

the_model = cache(controller)


@cache
def fitted(kind: type[LearnedAttack]) -> Any:
    if kind in (SarsaMAD, WorstQ):
        return kind.from_sarsa(fitted(RobustSarsa))
    if kind is RobustSarsa:
        return RobustSarsa(the_model(LOG_STD), EPSILON, seed=1, **SARSA_SETTINGS).fit(systems(32), 16_384)
    return kind(the_model(LOG_STD), EPSILON, seed=0, **PPO_SETTINGS).fit(systems(16), 6144)


# --- the system itself


class ByHand(Attack):
    """The worst perturbation, by formula."""

    name = "by_hand"

    def _perturb(self, observations: th.Tensor, policy: Any) -> th.Tensor:
        return observations - self.epsilon * observations.sign()


@pytest.mark.parametrize("epsilon", [0.0, EPSILON])
def test_returns_by_formula_are_those_of_the_environment(epsilon: float) -> None:
    starts, returns = play(the_model(LOG_STD), ByHand(the_model(LOG_STD), epsilon))
    np.testing.assert_allclose(returns, returns_of(starts, epsilon), rtol=1e-5)
    assert len(set(map(tuple, np.sign(starts)))) == 4


def test_the_worst_corner_is_the_worst_of_many_perturbations() -> None:
    """Corners drawn at each step never take as much; more than corners is not needed, as costs are convex."""
    model, dice = the_model(LOG_STD), np.random.default_rng(0)

    class Signs(Attack):
        name = "signs"

        def _perturb(self, observations: th.Tensor, policy: Any) -> th.Tensor:
            return observations + self.epsilon * th.as_tensor(dice.choice([-1.0, 1.0], observations.shape)).float()

    for _ in range(20):
        assert damage(model, Signs(model, EPSILON)).max() < 1


# --- how near the attacks come to it


@pytest.mark.parametrize("kind", [SARL, PAAD])
def test_a_trained_adversary_finds_the_worst_case(kind: type[LearnedAttack]) -> None:
    attack = fitted(kind)
    assert damage(attack.model, attack).mean() >= 0.95


@pytest.mark.parametrize("kind", [RobustSarsa, SarsaMAD, WorstQ])
def test_the_true_action_value_leads_to_the_worst_case(kind: type[LearnedAttack]) -> None:
    """
    Whoever lowers the true Q pushes away from 0 at each step, which is the worst case here. Ten steps of a tenth from a
    start within a tenth end short of the corner at times.
    """
    attack = fitted(kind)
    assert damage(attack.model, attack).mean() >= 0.9


@pytest.mark.parametrize("kind", ATTACKS.values(), ids=ATTACKS)
def test_no_attack_passes_the_worst_case(kind: type[Attack]) -> None:
    attack = fitted(kind) if issubclass(kind, LearnedAttack) else kind(the_model(LOG_STD), EPSILON, seed=0)
    assert damage(attack.model, attack).mean() > 0
    assert damage(attack.model, attack).max() <= 1 + 1e-5


@pytest.mark.parametrize("kind", [Random, Critic, MAD, MaxKL, Push])
def test_attacks_that_learn_nothing_stay_further_away(kind: Any) -> None:
    model = the_model(LOG_STD)
    assert damage(model, kind(model, EPSILON, seed=0)).mean() < damage(model, fitted(SARL)).mean() - 0.1


# --- what Robust Sarsa learns


def test_the_action_value_is_the_analytic_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The exploring victim does a = -K s + σ n with normal n. With s' = α s + b a and c = α - b K, coordinate by
    coordinate: V(s) = E[-q s'² + γ V(s')] is solved by V(s) = -w c² s² - m, where w = q / (1 - γ c²) and
    m = w b² σ² / (1 - γ). So Q(s, a) = -q s'² + γ V(s') = -w s'² - γ m. A time limit that counted as an end, or
    successors of other rows, would make its mean or its shape another one.

    The loss is squared here. Robust Sarsa's Huber loss estimates what lies between mean and median, and the targets
    are skewed: that makes its Q a few percent too high.
    """
    monkeypatch.setattr("sb3_barpo.attacks.sarsa.smooth_l1_loss", mse_loss)
    seen: list[Transitions] = []

    class Watched(RobustSarsa):
        def _epoch(self, state: Any, tell: Any) -> int:
            seen.append(state.data)
            return super()._epoch(state, tell)

    attack = Watched(the_model(LOG_STD), EPSILON, seed=0, **SARSA_SETTINGS).fit(systems(32), 16_384)

    inputs, scaled = seen[0].inputs.double().numpy(), seen[0].rewards.numpy()
    successors = DRIFT * inputs[:, :2] + PUSH * inputs[:, 2:]
    assert np.abs(scaled).max() < 10  # where they are cut off
    scale = np.median(-(successors**2 @ COST) / scaled)
    weight = COST / (1 - GAMMA * CONTRACTION**2)
    noise = weight @ PUSH**2 * np.exp(LOG_STD) ** 2 / (1 - GAMMA)
    expected = -(successors**2 @ weight) - GAMMA * noise
    with th.no_grad():
        learned = scale * attack.q.net(seen[0].inputs).squeeze(1).numpy()
    assert np.corrcoef(learned, expected)[0, 1] > 0.99
    assert np.abs(learned - expected).mean() < 0.03 * np.abs(expected).mean()


# --- the ball and the bounds

SMALL: dict[type[LearnedAttack], dict[str, Any]] = {
    RobustSarsa: {"n_epochs": 1},
    SarsaMAD: {"n_epochs": 1},
    WorstQ: {"n_epochs": 1},
    # SB3's policies begin next to 0; after one large step they move observations far.
    SARL: {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "learning_rate": 0.3},
    PAAD: {"n_steps": 16, "batch_size": 16, "n_epochs": 1},
}
LOW = np.array([-1.0, -1.0, -8.0], np.float32)

learned = pytest.mark.parametrize("kind", LEARNED)


@learned
@pytest.mark.parametrize("ball", [LinfBall([2.0, 0.5, 0.0]), L2Ball([2.0, 0.5, 0.0]), L2Ball(0.7)], ids=repr)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_learned_attack_leaves_its_ball(kind: Any, ball: Ball, dtype: type) -> None:
    attack = kind(victim(), 0.2, ball=ball, seed=0, **SMALL[kind]).fit(make_envs(), 16)
    clean = np.random.default_rng(0).normal(size=(256, 3)).astype(dtype)
    for epsilon in (0.2, 1.5):
        perturbed = attack.at(epsilon).perturb(clean)
        assert perturbed.dtype == dtype
        delta = perturbed.astype(np.float64) - clean
        radii = ball.norm(th.as_tensor(delta)).numpy()
        assert radii.max() <= epsilon * (1 + 1e-4)
        assert radii.max() > epsilon / 10
        if ball.scale.ndim:
            assert not delta[:, 2].any()


class Echo:
    """Does what it sees."""

    observation_space = spaces.Box(LOW, -LOW)

    def predict(self, observation: np.ndarray, *_: Any) -> tuple[np.ndarray, None]:
        return observation, None

    def get_vec_normalize_env(self) -> None:
        return None


@learned
@pytest.mark.parametrize("normalized", [False, True])
def test_the_faces_keep_the_bounds_of_the_space(kind: Any, normalized: bool) -> None:
    """Pendulum shows a cosine, a sine and a speed of at most 8; a strength of 5 would leave all three."""
    model = victim()
    venv = make_envs(n_envs=2, normalized=normalized)
    if isinstance(venv, VecNormalize):
        for _ in range(20):
            venv.reset()
        venv.training = False
    attack = kind(model, 5.0, seed=0, **SMALL[kind]).fit(venv, 32)
    normalize = venv if isinstance(venv, VecNormalize) else None
    low, high = (venv.normalize_obs(limit) if normalize else limit for limit in (LOW, -LOW))
    clean = venv.reset()
    by_vec = VecAttackObservation(venv, attack).reset()

    by_model, _ = UnderAttack(Echo(), attack, normalize).predict(clean)

    for seen in (by_vec, by_model):
        assert np.all(seen >= low - 1e-5)
        assert np.all(seen <= high + 1e-5)
        assert np.abs(seen - clean).max() > 0.05
    env = AttackObservation(gym.make("Pendulum-v1"), attack, normalize)
    assert env.observation_space.contains(env.reset(seed=0)[0])


@learned
def test_an_attack_in_training_keeps_the_bounds_of_the_space(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []
    predict = PPO.predict

    def listen(self: PPO, observation: np.ndarray, *args: Any, **kwargs: Any) -> Any:
        if self is victim():
            seen.append(observation)
        return predict(self, observation, *args, **kwargs)

    monkeypatch.setattr(PPO, "predict", listen)
    kind(victim(), 5.0, seed=0, **SMALL[kind]).fit(make_envs(), 64)
    if kind in (SARL, PAAD):
        assert len(seen) == 64
        assert np.abs(np.concatenate(seen)).max(0) == pytest.approx(-LOW)  # both reach the edge, and stop there
    else:
        assert not seen  # Sarsa watches clean episodes
