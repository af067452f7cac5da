"""Balls: closed forms, and what must hold for every perturbation, scale and radius."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sb3_barpo.adversary import L2Ball, LinfBall

BALLS = [LinfBall, L2Ball]
SHAPES = [(1,), (3,), (2, 2)]
each_ball = pytest.mark.parametrize("make", BALLS)
radii = st.floats(1 / 1024, 100, width=32)


def arrays(shape, low, high):
    return hnp.arrays(np.float32, shape, elements=st.floats(low, high, width=32))


@st.composite
def cases(draw, limit=1e3):
    """A batch ``(B, *obs)`` and a scale for it, with features that may not move."""
    obs = draw(st.sampled_from(SHAPES))
    rows = draw(arrays((draw(st.integers(1, 12)), *obs), -limit, limit))
    positive = st.floats(1 / 64, 64, width=32)
    scale = draw(positive | hnp.arrays(np.float32, obs, elements=st.just(0.0) | positive).filter(np.any))
    return th.as_tensor(rows), scale


def dual_norm(ball, gradient):
    """The largest value of the linear function over the unit ball, by the closed form."""
    pull = np.abs(ball.scale.astype(float) * gradient.numpy().astype(float)).reshape(len(gradient), -1)
    return pull.sum(1) if isinstance(ball, LinfBall) else np.sqrt((pull**2).sum(1))


def inner(a, b):
    return (a.double() * b.double()).flatten(1).sum(1).numpy()


def frozen(ball, like):
    return th.as_tensor(np.broadcast_to(ball.scale == 0, like.shape).copy())


# Projection


@each_ball
@given(case=cases(), epsilon=radii)
def test_projection_lands_in_the_ball_and_frozen_features_on_the_clean_value(make, case, epsilon):
    delta, scale = case
    projected = make(scale).project(delta, epsilon)
    assert (make(scale).norm(projected) <= epsilon * (1 + 1e-5)).all()
    assert (projected[frozen(make(scale), delta)] == 0).all()


@each_ball
@given(case=cases(), epsilon=radii)
def test_projection_leaves_a_point_of_the_interior_exactly_where_it_is(make, case, epsilon):
    delta, scale = case
    within = 0.99 * make(scale).project(delta, epsilon)
    assert th.equal(make(scale).project(within, epsilon), within)


@each_ball
@given(case=cases(), epsilon=radii)
def test_projecting_twice_is_projecting_once(make, case, epsilon):
    delta, scale = case
    once = make(scale).project(delta, epsilon)
    th.testing.assert_close(make(scale).project(once, epsilon), once, rtol=1e-6, atol=0)


@given(case=cases(), epsilon=radii)
def test_linf_projection_clips_each_feature(case, epsilon):
    delta, scale = case
    reach = np.float32(epsilon) * np.asarray(scale, np.float32)
    expected = np.clip(delta.numpy(), -reach, reach)
    np.testing.assert_allclose(LinfBall(scale).project(delta, epsilon), expected, rtol=1e-6)


def test_l2_projection_moves_along_the_ray():
    projected = L2Ball().project(th.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]]), 1.0)
    th.testing.assert_close(projected, th.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))
    th.testing.assert_close(L2Ball([3.0, 4.0]).project(th.tensor([[3.0, 4.0]]), 1.0), th.tensor([[3.0, 4.0]]) / 2**0.5)


def test_l2_projection_of_a_frozen_feature_leaves_the_others_their_whole_radius():
    th.testing.assert_close(L2Ball([1.0, 0.0]).project(th.tensor([[3.0, 4.0]]), 2.0), th.tensor([[2.0, 0.0]]))


# Steepest ascent


@each_ball
@given(case=cases(), seed=st.integers(0, 2**31))
def test_steepest_reaches_the_dual_norm_and_no_point_of_the_ball_beats_it(make, case, seed):
    gradient, scale = case
    ball, generator = make(scale), th.Generator().manual_seed(seed)
    best = ball.steepest(gradient)
    assert (ball.norm(best) <= 1 + 1e-5).all()
    np.testing.assert_allclose(inner(gradient, best), dual_norm(ball, gradient), rtol=1e-4, atol=1e-30)
    for _ in range(5):
        other = ball.sample(gradient, generator)
        assert (inner(gradient, other) <= inner(gradient, best) * (1 + 1e-5) + 1e-30).all()


@each_ball
def test_steepest_is_zero_where_nothing_pulls(make):
    assert not make([1.0, 0.0]).steepest(th.tensor([[0.0, 0.0], [0.0, 5.0]])).any()


@each_ball
@pytest.mark.parametrize("magnitude", [1e-40, 1e-30, 1e-15, 1e15, 1e30])
def test_steepest_does_not_depend_on_the_gradient_length(make, magnitude):
    gradient = th.tensor([[3.0, -4.0]])
    th.testing.assert_close(make().steepest(magnitude * gradient), make().steepest(gradient), rtol=1e-4, atol=0)


def test_steepest_known_answers():
    gradient = th.tensor([[3.0, -4.0]])
    th.testing.assert_close(LinfBall([2.0, 0.5]).steepest(gradient), th.tensor([[2.0, -0.5]]))
    th.testing.assert_close(L2Ball().steepest(gradient), th.tensor([[0.6, -0.8]]))
    # Maximise 3x - 4y over (x / 4)² + (y / 4)² <= 1, and over (x / 4)² + (y / 2.25)² <= 1: pull (12, -9), length 15.
    th.testing.assert_close(L2Ball(4.0).steepest(gradient), th.tensor([[2.4, -3.2]]))
    th.testing.assert_close(L2Ball([4.0, 2.25]).steepest(gradient), th.tensor([[3.2, -1.35]]))


# Sampling


@each_ball
@given(case=cases(), seed=st.integers(0, 2**31))
def test_samples_lie_in_the_unit_ball_with_frozen_features_exactly_zero(make, case, seed):
    like, scale = case
    drawn = make(scale).sample(like, th.Generator().manual_seed(seed))
    assert drawn.shape == like.shape
    assert drawn.dtype == like.dtype
    assert (make(scale).norm(drawn) <= 1 + 1e-5).all()
    assert (drawn[frozen(make(scale), like)] == 0).all()


def test_linf_samples_are_uniform():
    scale = th.tensor([1.0, 0.5, 0.0, 3.0])
    units = LinfBall(scale).sample(th.zeros(50_000, 4), th.Generator().manual_seed(0))[:, [0, 1, 3]] / scale[[0, 1, 3]]
    th.testing.assert_close(units.mean(0), th.zeros(3), atol=0.015, rtol=0)
    th.testing.assert_close(units.abs().mean(0), th.full((3,), 1 / 2), atol=0.01, rtol=0)
    th.testing.assert_close(units.T.cov(), th.eye(3) / 3, atol=0.01, rtol=0)


@pytest.mark.parametrize("scale", [[1.0], [2.0, 1.0], [1.0, 0.0, 3.0, 0.5], [1.0] * 10], ids=len)
def test_l2_samples_are_uniform(scale):
    scale = th.tensor(scale)
    free = scale > 0
    d = int(free.sum())
    ball = L2Ball(scale)
    drawn = ball.sample(th.zeros(50_000, len(scale)), th.Generator().manual_seed(0))
    radius = ball.norm(drawn)
    units = drawn[:, free] / scale[free]
    assert radius.mean().item() == pytest.approx(d / (d + 1), abs=0.01)
    assert (radius**2).mean().item() == pytest.approx(d / (d + 2), abs=0.01)
    th.testing.assert_close(units.mean(0), th.zeros(d), atol=0.015, rtol=0)
    th.testing.assert_close(units.T.cov().reshape(d, d), th.eye(d) / (d + 2), atol=0.01, rtol=0)


@each_ball
def test_the_same_seed_draws_the_same_sample_and_the_global_generator_rests(make):
    before = th.get_rng_state()
    first, second = (make().sample(th.zeros(3, 2), th.Generator().manual_seed(7)) for _ in range(2))
    assert th.equal(first, second)
    assert th.equal(th.get_rng_state(), before)


# Norm, types, rows


@pytest.mark.parametrize(
    ("ball", "expected"),
    [
        (LinfBall(), [4.0, 0.0]),
        (LinfBall(2.0), [2.0, 0.0]),
        (LinfBall([1.0, 8.0]), [3.0, 0.0]),
        (LinfBall([1.0, 0.0]), [3.0, 0.0]),
        (L2Ball(), [5.0, 0.0]),
        (L2Ball(2.0), [2.5, 0.0]),
        (L2Ball([3.0, 4.0]), [2**0.5, 0.0]),
        (L2Ball([1.0, 0.0]), [3.0, 0.0]),
    ],
    ids=repr,
)
def test_norm_known_answers(ball, expected):
    th.testing.assert_close(ball.norm(th.tensor([[3.0, -4.0], [0.0, 0.0]])), th.tensor(expected))


@each_ball
@given(case=cases(), epsilon=radii)
def test_each_row_stands_alone(make, case, epsilon):
    delta, scale = case
    ball = make(scale)
    for whole, of_rows in [
        (ball.norm(delta), ball.norm),
        (ball.steepest(delta), ball.steepest),
        (ball.project(delta, epsilon), lambda row: ball.project(row, epsilon)),
    ]:
        th.testing.assert_close(whole, th.cat([of_rows(row[None]) for row in delta]), rtol=1e-6, atol=0)


@each_ball
@pytest.mark.parametrize("dtype", [th.float32, th.float64])
def test_the_type_of_the_observations_is_kept(make, dtype):
    delta = th.ones((2, 3), dtype=dtype)
    ball = make([1.0, 0.0, 2.0])
    sample = ball.sample(delta, th.Generator())
    for result in (ball.steepest(delta), ball.project(delta, 0.1), sample, ball.norm(delta)):
        assert result.dtype == dtype


# Settings


@each_ball
@pytest.mark.parametrize("scale", [-1.0, 0.0, np.nan, np.inf, [1.0, -0.1], [0.0, 0.0], [1.0, np.nan], [], None])
def test_a_scale_that_gives_no_ball_is_refused(make, scale):
    with pytest.raises(ValueError, match="must be finite, at least 0, and above 0 somewhere"):
        make(scale)


@each_ball
@pytest.mark.parametrize("scale", [0.5, [1.0, 0.0, 2.0]])
def test_a_scale_of_one_value_or_of_the_observation_shape_fits(make, scale):
    make(scale).check(spaces.Box(-1.0, 1.0, (3,)))


@each_ball
@pytest.mark.parametrize("scale", [[1.0], [1.0, 2.0], [[1.0, 2.0, 3.0]]])
def test_a_scale_of_another_shape_does_not_fit(make, scale):
    with pytest.raises(ValueError, match=r"must be a number or have the observation's shape \(3,\), but its shape is"):
        make(scale).check(spaces.Box(-1.0, 1.0, (3,)))


@each_ball
def test_repr_tells_the_scale(make):
    assert repr(make([1, 0])) == f"{make.__name__}(scale=[1.0, 0.0])"


@pytest.mark.parametrize("ball", [LinfBall(), LinfBall(0.5), LinfBall([1.0, 0.5, 0.0]), L2Ball()], ids=repr)
def test_a_step_is_the_steepest_move_and_a_projection(ball):
    rows = th.Generator().manual_seed(0)
    delta, gradient = (0.3 * th.randn((20, 3), generator=rows) for _ in range(2))
    gradient[0] = 0
    before = delta.clone()
    stepped = ball.step(delta, gradient, 0.2, 0.4)
    th.testing.assert_close(stepped, ball.project(delta + 0.2 * ball.steepest(gradient), 0.4))
    assert th.equal(delta, before)
    assert not th.equal(stepped, ball.project(delta, 0.4))
