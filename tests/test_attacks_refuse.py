"""What attacks refuse, and what they say then; and their choice by name."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from sb3_contrib.common.envs import InvalidActionEnvDiscrete
from stable_baselines3 import DQN, PPO, SAC
from victims import Replay, victim

from sb3_barpo.adversary import KL, PGD, SGLD, Adversary, L2Ball, LinfBall, Surrogate
from sb3_barpo.attacks import ATTACKS, AUTO, MAD, SIX, Critic, GradientAttack, Random, attack_names

three = pytest.mark.parametrize("kind", [Random, Critic, MAD])


def unsupported(policy: str, space: spaces.Space[Any]) -> PPO:
    return PPO(policy, Replay([space.sample()], space), n_steps=2, batch_size=2, device="cpu")


@three
@pytest.mark.parametrize("epsilon", [-0.1, np.nan, np.inf, "0.1", None])
def test_strength_out_of_range(kind: Any, epsilon: Any) -> None:
    with pytest.raises(ValueError, match="epsilon must be a finite number, at least 0, but it is"):
        kind(victim(), epsilon)


@pytest.mark.parametrize("epsilon", [1, np.float32(0.5), np.float64(0.5), np.int64(2)])
def test_strength_of_any_number_type(epsilon: Any) -> None:
    attack = Random(victim(), epsilon)
    assert type(attack.epsilon) is float
    assert attack.epsilon == epsilon


@three
@pytest.mark.parametrize(
    ("build", "who"),
    [
        (lambda: SAC("MlpPolicy", "Pendulum-v1", buffer_size=10, device="cpu"), "SAC with policy SACPolicy"),
        (lambda: DQN("MlpPolicy", "CartPole-v1", buffer_size=10, device="cpu"), "DQN with policy DQNPolicy"),
        (
            lambda: MaskablePPO("MlpPolicy", InvalidActionEnvDiscrete(), device="cpu"),
            "MaskablePPO with policy Maskable",
        ),
        (lambda: gym.make("CartPole-v1"), "OrderEnforcing|TimeLimit"),
    ],
    ids=["SAC", "DQN", "maskable", "no model"],
)
def test_a_model_it_cannot_examine(kind: Any, build: Callable[[], Any], who: str) -> None:
    with pytest.raises(TypeError, match=rf"needs an on-policy SB3 agent .*({who})"):
        kind(build(), 0.1)


@three
@pytest.mark.parametrize(
    ("policy", "space"),
    [("MlpPolicy", spaces.Discrete(3)), ("MlpPolicy", spaces.MultiBinary(3))],
    ids=["discrete", "binary"],
)
def test_a_space_it_cannot_perturb(kind: Any, policy: str, space: spaces.Space[Any]) -> None:
    with pytest.raises(TypeError, match="no neighbours at a small distance"):
        kind(unsupported(policy, space), 0.1)


@three
@pytest.mark.parametrize("ball", [LinfBall, L2Ball])
@pytest.mark.parametrize("scale", [[1.0, 2.0], [[1.0, 1.0, 1.0]]])
def test_a_ball_of_another_shape(kind: Any, ball: Any, scale: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"have the observation's shape \(3,\), but its shape is"):
        kind(victim(), 0.1, ball=ball(scale))


@three
@pytest.mark.parametrize("shape", [(), (3,), (2, 4), (2, 3, 1), (2, 2, 3)])
def test_observations_of_another_shape(kind: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"a batch of observations of shape \(B, \*\(3,\)\), but got"):
        kind(victim(), 0.1).perturb(np.zeros(shape, np.float32))


@three
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("epsilon", [0, 0.1])
def test_observations_not_finite(kind: Any, wrong: float, epsilon: float) -> None:
    observations = np.zeros((4, 3), np.float32)
    observations[2, 1] = wrong
    with pytest.raises(ValueError, match="An observation is NaN or infinite"):
        kind(victim(), epsilon).perturb(observations)


@pytest.mark.parametrize(("kind", "solver"), [(Critic, "PGD"), (MAD, "SGLD")])
@pytest.mark.parametrize("n_steps", [0, -3])
def test_no_steps(kind: Any, solver: str, n_steps: int) -> None:
    with pytest.raises(
        ValueError, match=rf"{solver}'s n_steps is {n_steps}, but a search takes a whole number of steps, at least 1"
    ):
        kind(victim(), 0.1, n_steps=n_steps)


def test_an_objective_that_needs_a_rollout() -> None:
    attack = GradientAttack(victim(), 0.1, Adversary(Surrogate(), SGLD()))
    with pytest.raises(ValueError, match=r"Surrogate objective needs .* of a rollout.* use KL\(\) or Value\(\)"):
        attack.perturb(np.zeros((1, 3), np.float32))


def test_names_and_attacks_one_by_one() -> None:
    own = GradientAttack(victim(), 0.3, Adversary(KL(), PGD()))
    assert attack_names(["mad", own, "random"]) == ["mad", own, "random"]
    assert attack_names(("sarsa_mad",)) == ["sarsa_mad"]
    assert attack_names("critic") == ["critic"]
    assert attack_names(own) == [own]


def test_all_are_the_six_of_the_field() -> None:
    assert attack_names("all") == SIX == ["random", "critic", "mad", "robust_sarsa", "sarl", "paad"]
    assert attack_names(["sarsa_mad", "all"]) == ["sarsa_mad", *SIX]
    assert attack_names("standard") == SIX


def test_auto_searches_among_all_of_them_and_more() -> None:
    assert attack_names("auto") == AUTO
    assert set(SIX) < set(AUTO)
    assert {*AUTO, "sarsa_mad"} == set(ATTACKS)


def test_each_kind_is_known_by_its_own_name() -> None:
    assert all(kind.name == name for name, kind in ATTACKS.items())


@pytest.mark.parametrize(("names", "unknown"), [(["mad", "max"], "'max'"), ("MAD", "'MAD'"), ("", "''")])
def test_unknown_names(names: Any, unknown: str) -> None:
    with pytest.raises(ValueError, match=rf"Unknown attack {unknown}\. Choose from random, critic, mad, .*, or 'all'"):
        attack_names(names)


def test_no_attacks() -> None:
    with pytest.raises(ValueError, match=r"There are no attacks: attacks is \[\]. Name at least one"):
        attack_names([])


@pytest.mark.parametrize("what", [MAD, 0.1, None])
def test_what_is_neither_name_nor_attack(what: Any) -> None:
    with pytest.raises(TypeError, match=r"An attack is a name or an Attack object, .*, not "):
        attack_names(["mad", what])
