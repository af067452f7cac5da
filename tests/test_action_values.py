"""Action values and the objectives on them: known answers, sound bounds, and gradients that equal autograd's."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_barpo.adversary import (
    KL,
    PGD,
    ActionValue,
    Adversary,
    Ball,
    L2Ball,
    LinfBall,
    Objective,
    QNetwork,
    Towards,
    Value,
    Weighted,
)
from sb3_barpo.adversary.goals import ClosedForm
from sb3_barpo.policies.evaluate import policy_output

FEATURES, ROWS = 5, 32
OBSERVATIONS = spaces.Box(-np.inf, np.inf, (FEATURES,), np.float32)
BOX, DISCRETE = spaces.Box(-1.0, 1.0, (3,), np.float32), spaces.Discrete(4)

both_spaces = pytest.mark.parametrize("action_space", [BOX, DISCRETE], ids=["Box", "Discrete"])


def make_q(action_space: spaces.Space[Any], observation_space: spaces.Box = OBSERVATIONS) -> QNetwork:
    with th.random.fork_rng(devices=[]):
        th.manual_seed(0)
        q = QNetwork(observation_space, action_space)
        with th.no_grad():  # a fresh one has biases of 0
            for parameter in q.parameters():
                parameter.add_(0.2 * th.randn_like(parameter))
    return q


def make_policy(action_space: spaces.Space[Any], **kwargs: Any) -> ActorCriticPolicy:
    with th.random.fork_rng(devices=[]):
        th.manual_seed(1)
        policy = ActorCriticPolicy(OBSERVATIONS, action_space, lambda _: 1e-3, **kwargs)
        with th.no_grad():  # SB3 begins with a policy that is almost constant
            for parameter in policy.parameters():
                parameter.add_(0.3 * th.randn_like(parameter))
    return policy


def normal(*shape: int, seed: int = 0, dtype: th.dtype = th.float32) -> th.Tensor:
    return th.randn(shape, generator=th.Generator().manual_seed(seed), dtype=dtype)


def actions_of(space: spaces.Space[Any], rows: int = ROWS) -> th.Tensor:
    return th.arange(rows) % 4 if isinstance(space, spaces.Discrete) else normal(rows, 3, seed=2)


def by_autograd(goal: Callable[[th.Tensor], th.Tensor], perturbed: th.Tensor) -> th.Tensor:
    leaf = perturbed.clone().requires_grad_()
    return th.autograd.grad(goal(leaf).sum(), leaf)[0]


# --- the network


@both_spaces
def test_one_value_per_row(action_space: spaces.Space[Any]) -> None:
    q = make_q(action_space)
    values = q(normal(ROWS, FEATURES), actions_of(action_space))
    assert values.shape == (ROWS,)
    assert len(set(values.tolist())) == ROWS
    assert q.inputs(normal(ROWS, FEATURES), actions_of(action_space)).shape == (
        ROWS,
        FEATURES + (3, 4)[q.n_actions == 4],
    )


def test_observations_and_actions_of_several_dimensions() -> None:
    grid = spaces.Box(-1.0, 1.0, (2, 3), np.float32)
    q = make_q(spaces.Box(-1.0, 1.0, (2, 2), np.float32), grid)
    observations, actions = normal(4, 2, 3, dtype=th.float64), normal(4, 2, 2)
    assert q(observations, actions).shape == (4,)
    th.testing.assert_close(q.inputs(observations, actions)[:, :6], observations.flatten(1).float())


def test_hidden_layers_are_orthogonal_and_biases_0() -> None:
    q = QNetwork(OBSERVATIONS, BOX)
    linears = [layer for layer in q.net if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in linears] == [64, 64, 1]
    assert not any(layer.bias.any() for layer in linears)
    th.testing.assert_close(linears[1].weight @ linears[1].weight.t(), 2 * th.eye(64), rtol=0, atol=1e-5)
    assert linears[2].weight.norm().item() == pytest.approx(1)


def test_the_value_of_each_discrete_action() -> None:
    q, observations = make_q(DISCRETE), normal(ROWS, FEATURES)
    one_by_one = th.stack([q(observations, th.full((ROWS,), action)) for action in range(4)], dim=1)
    th.testing.assert_close(q.of_each_action(observations), one_by_one)
    assert one_by_one.std(1).min() > 1e-3


@pytest.mark.parametrize("space", [spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2)], ids=["discrete", "binary"])
def test_other_actions_have_no_action_value(space: spaces.Space[Any]) -> None:
    with pytest.raises(TypeError, match="An action value needs Box or Discrete actions, but the action space is Multi"):
        QNetwork(OBSERVATIONS, space)


# --- its bounds


@given(radius=st.floats(1e-3, 3), seed=st.integers(0, 2**32), action_space=st.sampled_from([BOX, DISCRETE]))
def test_bounds_hold_in_the_whole_box(radius: float, seed: int, action_space: spaces.Space[Any]) -> None:
    q = make_q(action_space)
    centres = q.inputs(normal(4, FEATURES, seed=seed), actions_of(action_space, 4))
    uniform = th.rand((200, *centres.shape), generator=th.Generator().manual_seed(seed))
    moves = 2 * uniform - 1
    moves[100:] = moves[100:].sign()  # the corners, where a monotone function has its extremes
    with th.no_grad():
        low, high = q.bounds(centres, radius)
        values = q.net((centres + radius * moves).flatten(0, 1)).reshape(200, 4)
    assert (low < high).all()
    assert (values >= low - 1e-5).all()
    assert (values <= high + 1e-5).all()


@both_spaces
def test_bounds_at_radius_0_are_the_value(action_space: spaces.Space[Any]) -> None:
    q, observations, actions = make_q(action_space), normal(ROWS, FEATURES), actions_of(action_space)
    for bound in q.bounds(q.inputs(observations, actions), 0.0):
        th.testing.assert_close(bound, q(observations, actions))


def test_bounds_of_a_linear_value_are_exact() -> None:
    """Q = 3 s - 2 a + 1 changes by up to 5 r in a box of radius r."""
    line = spaces.Box(-1.0, 1.0, (1,), np.float32)
    q = QNetwork(line, line, hidden=())
    with th.no_grad():
        q.net[0].weight.copy_(th.tensor([[3.0, -2.0]]))
        q.net[0].bias.fill_(1.0)
    low, high = q.bounds(th.tensor([[0.0, 0.0], [1.0, 2.0]]), 0.1)
    th.testing.assert_close(low, th.tensor([0.5, -0.5]))
    th.testing.assert_close(high, th.tensor([1.5, 0.5]))


def test_bounds_of_one_unit_are_exact() -> None:
    """Q = tanh(s + a) is largest and smallest at two corners, where its argument has changed by 2 r."""
    line = spaces.Box(-1.0, 1.0, (1,), np.float32)
    q = QNetwork(line, line, hidden=(1,))
    with th.no_grad():
        for layer in (q.net[0], q.net[2]):
            layer.weight.fill_(1.0)
    low, high = q.bounds(th.tensor([[0.3, 0.2]]), 0.1)
    assert (low.item(), high.item()) == pytest.approx((math.tanh(0.3), math.tanh(0.7)))


# --- the objectives


def test_action_value_of_what_the_policy_would_do() -> None:
    q, policy, clean, perturbed = make_q(BOX), make_policy(BOX), normal(ROWS, FEATURES), normal(ROWS, FEATURES, seed=1)
    mean = policy.get_distribution(perturbed).distribution.mean
    th.testing.assert_close(ActionValue(q).prepare(policy, clean)(perturbed), -q(clean, mean))


def test_action_value_of_discrete_actions_is_their_expectation() -> None:
    q, policy, clean = make_q(DISCRETE), make_policy(DISCRETE), normal(ROWS, FEATURES)
    perturbed = normal(ROWS, FEATURES, seed=1)
    probabilities = policy.get_distribution(perturbed).distribution.probs
    expected = -sum(probabilities[:, action] * q(clean, th.full((ROWS,), action)) for action in range(4))
    th.testing.assert_close(ActionValue(q).prepare(policy, clean)(perturbed), expected)


def test_towards_is_the_shift_of_the_mean_along_the_unit_direction() -> None:
    policy, clean, perturbed = make_policy(BOX), normal(ROWS, FEATURES), normal(ROWS, FEATURES, seed=1)
    after, before = (policy.get_distribution(z).distribution.mean.clone() for z in (perturbed, clean))
    goal = Towards(th.tensor([[0.0, 3.0, -4.0]]).repeat(ROWS, 1)).prepare(policy, clean)
    shift = after - before
    th.testing.assert_close(goal(perturbed), 0.6 * shift[:, 1] - 0.8 * shift[:, 2])
    assert not goal(clean).any()


def test_towards_an_action_raises_its_probability() -> None:
    policy, clean = make_policy(DISCRETE), normal(ROWS, FEATURES)
    towards = Towards(nn.functional.one_hot(th.full((ROWS,), 2), 4).float())
    perturbed = Adversary(towards, PGD(5, start_radius=0)).perturb(policy, clean, 0.1)
    probability = [policy.get_distribution(z).distribution.probs[:, 2].clone() for z in (clean, perturbed)]
    assert (probability[1] > probability[0]).all()


@pytest.mark.parametrize("n_directions", [ROWS - 1, ROWS + 1])
def test_towards_without_a_direction_for_each_row(n_directions: int) -> None:
    with pytest.raises(ValueError, match=f"for each of the {ROWS} observations, but its directions have the shape"):
        Towards(th.ones(n_directions, 3)).prepare(make_policy(BOX), normal(ROWS, FEATURES))


def objectives(action_space: spaces.Space[Any], dtype: th.dtype = th.float32) -> dict[str, Objective]:
    n_outputs = 4 if isinstance(action_space, spaces.Discrete) else 3
    action_value = ActionValue(make_q(action_space))
    towards = Towards(normal(ROWS, n_outputs, seed=3, dtype=dtype))
    mixture = Weighted([(0.7, action_value), (0.3, KL()), (2.0, Value())])
    return {"action value": action_value, "towards": towards, "weighted": mixture}


@pytest.mark.parametrize("dtype", [th.float32, th.float64])
@both_spaces
@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize("net_arch", [[], [64, 64]], ids=str)
@pytest.mark.parametrize("name", ["action value", "towards", "weighted"])
def test_gradient_equals_autograd(
    name: str, net_arch: list[int], activation: type[nn.Module], action_space: spaces.Space[Any], dtype: th.dtype
) -> None:
    policy = make_policy(action_space, net_arch=net_arch, activation_fn=activation, log_std_init=-0.5)
    clean = normal(ROWS, FEATURES, dtype=dtype)
    perturbed = clean + 0.3 * normal(ROWS, FEATURES, seed=1, dtype=dtype)
    goal = objectives(action_space, dtype)[name].prepare(policy, clean)

    assert isinstance(goal, ClosedForm)
    gradient = goal.gradient(perturbed)
    assert gradient.dtype == dtype
    assert gradient.abs().max() > 1e-3
    th.testing.assert_close(gradient, by_autograd(goal, perturbed), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["multi_discrete", "multi_binary", "gsde"])
def test_towards_takes_the_general_path_elsewhere(kind: str, policy_of: Any, observations_of: Any) -> None:
    policy, clean, perturbed = policy_of(kind), observations_of(8), observations_of(8, seed=1)
    with th.no_grad():
        before, after = (policy_output(policy, z) for z in (clean, perturbed))
    assert before.shape == (8, {"multi_discrete": 5, "multi_binary": 2, "gsde": 2}[kind])
    direction = nn.functional.normalize(normal(*before.shape), dim=1)
    goal = Towards(7 * direction).prepare(policy, clean)
    assert not isinstance(goal, ClosedForm)
    th.testing.assert_close(goal(perturbed), ((after - before) * direction).sum(1))
    gradient = by_autograd(goal, perturbed)
    assert gradient.isfinite().all()
    assert gradient.any(1).all()


def test_action_value_of_gsde_takes_the_general_path(policy_of: Any, observations_of: Any) -> None:
    policy, clean = policy_of("gsde"), observations_of(8)
    q = make_q(policy.action_space, policy.observation_space)
    goal = ActionValue(q).prepare(policy, clean)
    assert not isinstance(goal, ClosedForm)
    th.testing.assert_close(goal(clean), -q(clean, policy_output(policy, clean)))


@both_spaces
def test_weighted_is_the_weighted_sum(action_space: spaces.Space[Any]) -> None:
    policy, clean, perturbed = make_policy(action_space), normal(ROWS, FEATURES), normal(ROWS, FEATURES, seed=1)
    parts = [(0.7, ActionValue(make_q(action_space))), (0.3, KL()), (2.0, Value())]
    expected = sum(weight * part.prepare(policy, clean)(perturbed) for weight, part in parts)
    th.testing.assert_close(Weighted(parts).prepare(policy, clean)(perturbed), expected)


def test_weighted_takes_the_general_path_where_a_part_does(policy_of: Any, observations_of: Any) -> None:
    policy, clean = policy_of("multi_discrete"), observations_of(8)
    assert not isinstance(Weighted([(1.0, Value()), (1.0, KL())]).prepare(policy, clean), ClosedForm)
    assert isinstance(Weighted([(1.0, Value())]).prepare(policy, clean), ClosedForm)


def test_weighted_is_stationary_if_all_its_parts_are() -> None:
    assert Weighted([(1.0, KL()), (2.0, KL())]).stationary_at_clean
    assert not Weighted([(1.0, KL()), (0.1, Value())]).stationary_at_clean
    assert Weighted([(1.0, KL()), (0.0, Value())]).stationary_at_clean  # a part of no weight has no gradient
    with pytest.raises(ValueError, match=r"Weighted\(\[\(1.0, KL\(\)\)\]\) has no gradient at the clean observation"):
        Adversary(Weighted([(1.0, KL())]), PGD(start_radius=0))


# --- what a learned adversary chooses


@pytest.mark.parametrize("epsilon", [0.1, 2.0])
def test_within_the_box_of_each_feature(epsilon: float) -> None:
    moves = th.tensor([[0.5, -1.0, 1.0], [3.0, -7.0, 1.0]])
    expected = epsilon * th.tensor([[1.0, -0.5, 0.0], [2.0, -0.5, 0.0]])
    th.testing.assert_close(LinfBall([2.0, 0.5, 0.0]).within(moves, epsilon), expected)


def test_within_the_ellipsoid_long_moves_are_projected() -> None:
    moves = th.tensor([[0.3, 0.4, 9.0], [3.0, 4.0, 9.0]])
    expected = 0.1 * th.tensor([[0.6, 0.4, 0.0], [1.2, 0.8, 0.0]])
    th.testing.assert_close(L2Ball([2.0, 1.0, 0.0]).within(moves, 0.1), expected)


@pytest.mark.parametrize("ball", [LinfBall(0.5), L2Ball(0.5)], ids=repr)
def test_within_at_full_reach_or_none(ball: Ball) -> None:
    unit = th.tensor([[0.0, 1.0], [-1.0, 0.0]])
    th.testing.assert_close(ball.within(unit, 0.2), 0.1 * unit)
    assert not ball.within(th.zeros(2, 2), 0.2).any()


def test_only_discrete_actions_can_be_listed() -> None:
    with pytest.raises(TypeError, match="Only Discrete actions can be listed"):
        QNetwork(spaces.Box(-1.0, 1.0, (3,)), spaces.Box(-1.0, 1.0, (1,))).of_each_action(th.zeros(2, 3))
