"""Random, Critic and MAD: known answers, and what must hold of every attack."""

import random
from typing import Any

import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch.testing import assert_close
from victims import linear_victim, victim

from sb3_barpo import BARPO
from sb3_barpo.adversary import KL, PGD, Adversary, Bounds, L2Ball, LinfBall, Value
from sb3_barpo.attacks import MAD, Attack, Critic, GradientAttack, Random

THREE = [Random, Critic, MAD]
VICTIMS = [("Pendulum-v1", PPO), ("Pendulum-v1", A2C), ("Pendulum-v1", BARPO), ("CartPole-v1", PPO)]
EPSILON = 0.1

three = pytest.mark.parametrize("kind", THREE)
victims = pytest.mark.parametrize(("env_id", "algorithm"), VICTIMS)


def states(model: OnPolicyAlgorithm, n: int = 64, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(n, *model.observation_space.shape)).astype(dtype)


# --- the nets and the divergence, each in its own words


def network(hidden: th.nn.Sequential, last: th.nn.Linear, z: th.Tensor) -> th.Tensor:
    for layer in hidden:
        if isinstance(layer, th.nn.Linear):
            z = th.tanh(z @ layer.weight.T + layer.bias)
    return z @ last.weight.T + last.bias


def head(model: OnPolicyAlgorithm, z: th.Tensor) -> th.Tensor:
    """Mean of a Gaussian, or logits of a categorical policy."""
    return network(model.policy.mlp_extractor.policy_net, model.policy.action_net, z)


def value(model: OnPolicyAlgorithm, z: th.Tensor) -> th.Tensor:
    return network(model.policy.mlp_extractor.value_net, model.policy.value_net, z)[:, 0]


def divergence(model: OnPolicyAlgorithm, z: th.Tensor, perturbed: th.Tensor) -> th.Tensor:
    if hasattr(model.policy, "log_std"):
        shift = (head(model, perturbed) - head(model, z)) / model.policy.log_std.exp()
        return 0.5 * (shift**2).sum(1)
    p, q = head(model, z).softmax(1), head(model, perturbed).softmax(1)
    return (p * (p / q).log()).sum(1)


# --- known answers


def test_random_is_uniform() -> None:
    model = victim()
    clean = np.zeros((20_000, 3), np.float32)
    draws = Random(model, 0.5, seed=0).perturb(clean)
    deciles = np.quantile(draws, np.linspace(0, 1, 11), axis=0)
    np.testing.assert_allclose(deciles, np.linspace(-0.5, 0.5, 11)[:, None].repeat(3, 1), atol=0.02)
    np.testing.assert_allclose(np.corrcoef(draws.T), np.eye(3), atol=0.03)


def test_critic_of_a_linear_value_goes_to_its_lowest_corner() -> None:
    """Ten steps of a tenth reach the corner, short of it at most by the start's tenth; a feature of no value rests."""
    attack = Critic(linear_victim([3.0, -2.0, 0.0]), EPSILON, seed=0)
    delta = attack.perturb(np.zeros((100, 3)))
    assert np.all(np.abs(delta - [-EPSILON, EPSILON, 0]) <= EPSILON / 10 + 1e-9)
    assert np.all(np.abs(delta).max(0) > [0.0999, 0.0999, 0])


def test_mad_of_a_linear_policy_goes_to_one_of_two_corners() -> None:
    """Its start decides which; it ends there, or one tenth before where the start's feature pointed the other way."""
    delta = MAD(linear_victim([30.0, -20.0]), EPSILON, seed=0).perturb(np.zeros((100, 2)))
    assert set(map(tuple, np.sign(delta))) == {(1, -1), (-1, 1)}
    tenths = np.abs(delta) / EPSILON
    assert np.all(np.isclose(tenths, 0.9) | np.isclose(tenths, 1.0))


def test_an_adversary_of_ones_own() -> None:
    """One step of the size of the ball from the clean observation: the corner exactly, and no dice."""
    adversary = Adversary(Value(), PGD(n_steps=1, step_size=1.0, start_radius=0), LinfBall([1.0, 0.5, 0.0]))
    attack = GradientAttack(linear_victim([3.0, -2.0, 1.0]), EPSILON, adversary)
    corner = np.array([[-EPSILON, EPSILON / 2, 0]], dtype=np.float32)
    np.testing.assert_array_equal(attack.perturb(np.zeros((1, 3), dtype=np.float32)), corner)


def test_a_longer_search_of_ones_own_beats_mad() -> None:
    model = victim()
    clean = states(model)
    strong = GradientAttack(model, EPSILON, Adversary(KL(), PGD(n_steps=30, restarts=4)), seed=0)
    assert moved(model, clean, strong).mean() > moved(model, clean, MAD(model, EPSILON, seed=0)).mean()


# --- what the attacks achieve


def moved(model: OnPolicyAlgorithm, clean: np.ndarray, attack: Attack) -> th.Tensor:
    with th.no_grad():
        return divergence(model, th.as_tensor(clean), th.as_tensor(attack.perturb(clean)))


@victims
def test_mad_moves_the_policy_further_than_random(env_id: str, algorithm: Any) -> None:
    model = victim(env_id, algorithm)
    clean = states(model)
    mad, noise = (moved(model, clean, kind(model, EPSILON, seed=0)).mean() for kind in (MAD, Random))
    assert mad > 1.5 * noise > 0


@victims
def test_critic_lowers_every_value(env_id: str, algorithm: Any) -> None:
    model = victim(env_id, algorithm)
    clean = states(model)
    with th.no_grad():
        before, after = (value(model, th.as_tensor(s)) for s in (clean, Critic(model, EPSILON, seed=0).perturb(clean)))
    assert th.all(after < before)


# --- what must hold of every attack


@settings(max_examples=60, deadline=None, database=None)
@given(
    kind=st.sampled_from(THREE),
    env_id=st.sampled_from(["Pendulum-v1", "CartPole-v1"]),
    dtype=st.sampled_from([np.float32, np.float64]),
    ball=st.sampled_from([LinfBall(), LinfBall(0.3), L2Ball(), L2Ball(2.0)]),
    epsilon=st.floats(1e-3, 3),
    size=st.floats(1e-3, 10),
    shape_and_seed=st.tuples(st.integers(1, 5), st.integers(0, 2**32)),
)
def test_stays_in_the_ball_and_in_the_bounds(
    kind: Any, env_id: str, dtype: Any, ball: Any, epsilon: float, size: float, shape_and_seed: tuple[int, int]
) -> None:
    n, seed = shape_and_seed
    model = victim(env_id)
    attack = kind(model, epsilon, ball=ball, seed=seed)
    clean = size * states(model, n, dtype)
    low, high = (th.tensor(limit) for limit in (-size * np.ones(clean.shape[1]), np.full(clean.shape[1], np.inf)))
    for bounds in (None, Bounds(low, high)):
        perturbed = attack.perturb(clean.astype(dtype), bounds)
        assert perturbed.dtype == dtype
        assert perturbed.shape == clean.shape
        order = 2 if isinstance(ball, L2Ball) else np.inf
        norm = np.linalg.norm((perturbed.astype(np.float64) - clean) / ball.scale, ord=order, axis=1)
        assert np.all(norm <= epsilon * (1 + 1e-5) + 1e-5 * size * (dtype is np.float32))
        if bounds is not None:  # one that is outside already may stay there
            assert np.all(perturbed >= np.minimum(clean, dtype(-size)) - 1e-6 * size)


@three
@pytest.mark.parametrize("ball", [LinfBall, L2Ball])
def test_a_scale_per_feature(kind: Any, ball: Any) -> None:
    model = victim()
    clean = states(model)
    delta = kind(model, EPSILON, ball=ball([2.0, 0.5, 0.0]), seed=0).perturb(clean) - clean
    furthest = np.abs(delta).max(0)
    assert np.all(furthest <= np.array([2, 0.5, 0]) * EPSILON + 1e-6)
    assert furthest[0] > EPSILON  # it makes use of the larger radius
    assert np.all(delta[:, 2] == 0)


@three
def test_strength_0_changes_nothing(kind: Any) -> None:
    model = victim()
    np.testing.assert_array_equal(kind(model, 0, seed=0).perturb(states(model)), states(model))


@three
def test_a_seed_tells_all(kind: Any) -> None:
    model = victim()
    clean = states(model)
    attack = kind(model, EPSILON, seed=3)
    first, second = attack.perturb(clean), attack.perturb(clean)
    attack.seed(3)
    np.testing.assert_array_equal(attack.perturb(clean), first)
    np.testing.assert_array_equal(attack.perturb(clean), second)
    for other in (kind(model, EPSILON, seed=4), kind(model, EPSILON), kind(model, EPSILON)):
        assert not np.array_equal(other.perturb(clean), first)


@three
@pytest.mark.parametrize("training", [True, False])
def test_leaves_no_trace(kind: Any, training: bool) -> None:
    """Neither in the model's weights, gradients and mode, nor in the observations, nor in anyone's dice."""
    model = victim(seed=1)
    model.policy.set_training_mode(training)
    for parameter in model.policy.parameters():
        parameter.grad = th.full_like(parameter, 0.5)
    weights = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    dice = th.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    clean = states(model)
    kind(model, EPSILON).perturb(clean)
    np.testing.assert_array_equal(clean, states(model))
    assert model.policy.training is training
    assert all(th.all(parameter.grad == 0.5) for parameter in model.policy.parameters())
    assert_close(dict(model.policy.state_dict()), weights, rtol=0, atol=0)
    assert th.equal(th.get_rng_state(), dice[0])
    np.testing.assert_array_equal(np.random.get_state()[1], dice[1])
    assert random.getstate() == dice[2]


@three
def test_a_row_does_not_feel_its_neighbours(kind: Any) -> None:
    """The first row of a batch with other neighbours: same draws, same perturbation."""
    model = victim()
    clean = states(model, 4)
    other = np.concatenate([clean[:1], 7 * clean[1:]])
    first, second = (kind(model, EPSILON, seed=0).perturb(batch)[0] for batch in (clean, other))
    np.testing.assert_allclose(first, second, rtol=0, atol=1e-6)
