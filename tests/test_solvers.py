"""Solvers: known optima, rows that do not feel each other, and randomness from the given generator alone."""

import math

import pytest
import torch as th

from sb3_barpo.adversary import PGD, SGLD, L2Ball, LinfBall, Uniform

EPSILON = 0.3
SCALE = [1.0, 0.5, 0.0, 2.0]
WEIGHTS = th.tensor([1.0, -2.0, 3.0, 0.5])
TARGETS = {
    "inside": th.tensor([0.05, -0.1, 0.02, 0.08]),
    "outside": th.tensor([0.5, -0.1, 0.0, 2.0]),
}
CLIMBERS = [PGD(), PGD(restarts=3), PGD(n_steps=3, step_size=0.2, start_radius=0.5), SGLD(), SGLD(beta=1.0)]
SOLVERS = [*CLIMBERS, Uniform()]
each_solver = pytest.mark.parametrize("solver", SOLVERS, ids=repr)
each_climber = pytest.mark.parametrize("solver", CLIMBERS, ids=repr)
each_ball = pytest.mark.parametrize("ball", [LinfBall(), LinfBall(SCALE), L2Ball(), L2Ball(SCALE)], ids=repr)


def seeded(seed=0):
    return th.Generator().manual_seed(seed)


def batch(rows=16, seed=0):
    return th.randn((rows, 4), generator=seeded(seed))


def linear(perturbed):
    """Products and sums row by row: no rounding that depends on the size of the batch."""
    return (perturbed * WEIGHTS).sum(1)


def waves(perturbed):
    """Many local optima, other ones for each row."""
    return th.sin(20 * perturbed).sum(1) + 0.3 * th.cos(47 * perturbed).sum(1)


def to_target(clean, target):
    return lambda perturbed: -((perturbed - (clean + target)) ** 2).sum(1)


def solve(solver, goal, clean, ball=None, seed=0, start=None):
    return solver.solve(goal, clean, LinfBall() if ball is None else ball, EPSILON, seeded(seed), start)


# Known optima: a linear objective is largest at ε times the ball's steepest point


@pytest.mark.parametrize("scale", [1.0, SCALE], ids=repr)
@pytest.mark.parametrize("seed", range(5))
def test_pgd_reaches_the_corner_of_a_linear_objective_from_anywhere(scale, seed):
    found = solve(PGD(), linear, batch(), LinfBall(scale), seed)
    th.testing.assert_close(found, (EPSILON * th.tensor(scale) * WEIGHTS.sign()).expand(16, 4), rtol=1e-5, atol=0)


@pytest.mark.parametrize("solver", [SGLD(), SGLD(beta=1.0), PGD(), PGD(start_radius=0.1)], ids=repr)
@pytest.mark.parametrize("kind", [LinfBall, L2Ball])
def test_a_scale_is_a_radius(solver, kind):
    """A ball of scale 0.01 at ε is the plain one at 0.01 ε, noise and all: the same sign of every step."""
    scaled, plain = kind([0.01] * 4), kind()
    found = solver.solve(waves, batch(), scaled, EPSILON, seeded())
    expected = solver.solve(waves, batch(), plain, 0.01 * EPSILON, seeded())
    th.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
    assert plain.is_plain
    assert not scaled.is_plain


def test_noise_is_that_of_each_feature_s_radius():
    """Where there is no gradient, each feature walks by its own noise; the sizes of the steps do not tell, signs do."""
    drawn = []

    class Seen(LinfBall):
        def step(self, delta, gradient, length, epsilon):
            drawn.append(gradient.clone())
            return super().step(delta, gradient, length, epsilon)

    def nothing(perturbed):
        return 0 * perturbed.sum(1)

    SGLD(1, beta=1.0).solve(nothing, batch(20_000), Seen([1.0, 0.25, 0.0, 4.0]), 0.08, seeded())
    expected = math.sqrt(2 * 0.08) / 2 * th.tensor([1.0, 0.5, 0.0, 2.0])
    th.testing.assert_close(drawn[0].std(0), expected, rtol=0.02, atol=0)


def test_pgd_crosses_the_whole_box_in_its_steps():
    start = (-EPSILON * WEIGHTS.sign()).expand(16, 4)
    th.testing.assert_close(solve(PGD(), linear, batch(), start=start), -start, rtol=1e-5, atol=0)
    short = solve(PGD(step_size=0.1), linear, batch(), start=start)  # the field's step ends in the middle
    th.testing.assert_close(short, th.zeros(16, 4), rtol=0, atol=1e-6)


def test_pgd_reaches_the_point_of_the_sphere_on_a_linear_objective():
    found = solve(PGD(n_steps=40, step_size=0.5), linear, batch(), L2Ball())
    th.testing.assert_close(found, (EPSILON * WEIGHTS / WEIGHTS.norm()).expand(16, 4), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_steps", [1, 2, 10])
def test_sgld_on_a_linear_objective_ends_at_the_corner_or_the_one_step_short_that_it_started_wrong(n_steps):
    short = 1 - solve(SGLD(n_steps), linear, batch(200)) * WEIGHTS.sign() / EPSILON
    wrong = short > 0.5 / n_steps
    th.testing.assert_close(short, wrong / n_steps, rtol=1e-4, atol=1e-6)
    assert 0.4 < wrong.float().mean() < 0.6  # a random corner


@pytest.mark.parametrize("n_steps", [1, 2, 10])
def test_sgld_in_the_round_ball_ends_within_one_step_of_the_optimum(n_steps):
    distance = (solve(SGLD(n_steps), linear, batch(), L2Ball()) - EPSILON * WEIGHTS / WEIGHTS.norm()).norm(dim=1)
    assert (distance <= EPSILON / n_steps * 1.01).all()


# Known optima: a concave quadratic is largest at its target, or at the boundary


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("solver", "step"), [(PGD(n_steps=40), 0.05), (SGLD(n_steps=40, beta=0.0), 0.025)], ids=["PGD", "SGLD"]
)
def test_the_top_of_a_quadratic_is_found_to_one_step_in_the_box(target, solver, step):
    clean, target = batch(), TARGETS[target]
    found = solve(solver, to_target(clean, target), clean)
    assert ((found - target.clamp(-EPSILON, EPSILON)).abs() <= EPSILON * step * 1.01).all()


@pytest.mark.parametrize("target", TARGETS)
def test_the_top_of_a_quadratic_is_found_to_one_step_in_the_round_ball(target):
    clean, target = batch(), TARGETS[target]
    found = solve(PGD(n_steps=80, step_size=0.05), to_target(clean, target), clean, L2Ball())
    optimum = target * min(1.0, EPSILON / target.norm().item())
    assert ((found - optimum).norm(dim=1) <= EPSILON * 0.05 * 1.01).all()


@each_solver
@each_ball
@pytest.mark.parametrize("goal", [linear, waves])
def test_every_search_ends_in_the_ball(solver, ball, goal):
    found = solve(solver, goal, batch(200), ball)
    assert (ball.norm(found) <= EPSILON * (1 + 1e-5)).all()
    assert not found[:, th.as_tensor(ball.scale == 0).expand(4)].any()


@each_climber
@each_ball
def test_every_climber_gains_on_the_clean_observation(solver, ball):
    clean = batch(200)
    assert (linear(clean + solve(solver, linear, clean, ball)) > linear(clean)).all()


# Restarts


def test_pgd_with_restarts_keeps_the_best_of_its_starts_for_each_row():
    clean, generator = batch(50), seeded()
    singles = th.stack([PGD().solve(waves, clean, LinfBall(), EPSILON, generator) for _ in range(4)])
    heights = waves((clean + singles).flatten(0, 1)).reshape(4, 50)
    assert len(heights.argmax(0).unique()) > 1  # other starts win in other rows
    found = solve(PGD(restarts=4), waves, clean)
    assert th.equal(waves(clean + found), heights.amax(0))


def test_pgd_restarts_are_never_worse_than_the_given_start_which_serves_once():
    clean = batch(50)
    start = th.zeros_like(clean)
    one, several = (waves(clean + solve(PGD(restarts=n), waves, clean, start=start)) for n in (1, 6))
    assert (several >= one).all()
    assert (several > one).any()


# SGLD's noise


@pytest.mark.parametrize("beta", [1e-5, 1.0])
def test_sgld_s_noise_shrinks_with_the_steps_and_grows_with_the_temperature(beta):
    """
    Two steps on a slope of the size of the first one's noise, sqrt(2 h β) / 2 with h = ε / 2. The second one's is
    sqrt(2 h β) / 3, so the steps go uphill with probabilities p = Φ(1) and q = Φ(1.5). From the start, h up or down,
    three signs of size h are summed, and what leaves the ball is cut off: in units of ε 1, 1/2, -1/2 or -1.
    """
    p, q = 0.841345, 0.933193
    both, one, none = p * q, p * (1 - q) + (1 - p) * q, (1 - p) * (1 - q)
    expected = ((both + one / 2 - none / 2) + (both / 2 - one / 2 - none)) / 2
    slope = math.sqrt(2 * EPSILON / 2 * beta) / 2
    found = (
        solve(SGLD(n_steps=2, beta=beta), lambda perturbed: slope * perturbed.sum(1), th.zeros(100_000, 1)) / EPSILON
    )
    assert found.mean().item() == pytest.approx(expected, abs=0.008)
    th.testing.assert_close(found.unique(), th.tensor([-1.0, -0.5, 0.5, 1.0]))


def test_sgld_noise_matters_where_the_objective_is_flat_and_its_temperature_elsewhere():
    clean = batch()
    flat = solve(SGLD(), lambda perturbed: 0 * perturbed.sum(1), clean)
    assert flat.unique().numel() > 2  # a walk, not the starting corner
    cold, warm, hot = (solve(SGLD(beta=beta), linear, clean) for beta in (0.0, 1e-5, 1e5))
    assert th.equal(cold, warm)
    assert not th.equal(cold, hot)


# Rows


@pytest.mark.parametrize("solver", [PGD(), SGLD(beta=0.0)], ids=repr)
@each_ball
def test_a_row_does_not_depend_on_its_place_or_its_company(solver, ball):
    clean = batch()
    start = 0.5 * EPSILON * ball.sample(clean, seeded(1))
    together = solve(solver, waves, clean, ball, start=start)
    order = th.randperm(16, generator=seeded(2))
    assert th.equal(solve(solver, waves, clean[order], ball, start=start[order]), together[order])
    alone = solve(solver, waves, clean[5:6], ball, start=start[5:6])
    assert th.equal(alone[0], together[5])


@each_solver
@each_ball
def test_a_row_does_not_feel_what_its_neighbours_contain(solver, ball):
    clean, others = batch(), batch(seed=1)
    others[5] = clean[5]
    found, beside_others = solve(solver, waves, clean, ball), solve(solver, waves, others, ball)
    assert th.equal(found[5], beside_others[5])


# Randomness


@each_solver
def test_the_seed_determines_the_result(solver):
    first, again, other = (solve(solver, waves, batch(), seed=seed) for seed in (0, 0, 1))
    assert th.equal(first, again)
    assert not th.equal(first, other)


def test_uniform_is_one_draw_from_the_ball_without_a_look_at_the_objective():
    def unused(perturbed):
        raise AssertionError("the objective was asked")

    for ball in (LinfBall(SCALE), L2Ball()):
        assert th.equal(solve(Uniform(), unused, batch(), ball), EPSILON * ball.sample(batch(), seeded()))


@pytest.mark.parametrize(("radius", "largest"), [(0.0, 0.0), (0.25, 0.25), (1.0, 1.0)])
def test_pgd_starts_in_the_ball_of_its_start_radius(radius, largest):
    seen = []

    def watched(perturbed):
        seen.append(perturbed.detach().clone())
        return linear(perturbed)

    clean = th.zeros(500, 4)
    solve(PGD(start_radius=radius), watched, clean)
    assert seen[0].abs().max().item() == pytest.approx(largest * EPSILON, rel=0.02)


# Settings


@pytest.mark.parametrize("solver", [PGD, SGLD])
@pytest.mark.parametrize("n_steps", [0, -1, 2.5, math.nan, "10", True, None])
def test_a_search_without_a_whole_number_of_steps_is_refused(solver, n_steps):
    with pytest.raises(ValueError, match=rf"{solver.__name__}'s n_steps is .*, but .* whole number of steps, at least"):
        solver(n_steps=n_steps)


@pytest.mark.parametrize("restarts", [0, -1, 1.5])
def test_a_search_without_a_whole_number_of_starts_is_refused(restarts):
    with pytest.raises(ValueError, match=r"PGD's restarts is .*, but .* whole number of starts, at least 1"):
        PGD(restarts=restarts)


@pytest.mark.parametrize("step_size", [0, -0.1, math.nan, math.inf])
def test_a_step_that_leads_nowhere_is_refused(step_size):
    with pytest.raises(ValueError, match=r"PGD's step_size is .*, but it must be finite and above 0, or None"):
        PGD(step_size=step_size)


@pytest.mark.parametrize("start_radius", [-0.1, 1.1, math.nan])
def test_a_start_outside_the_ball_is_refused(start_radius):
    with pytest.raises(ValueError, match=r"PGD's start_radius is .*, but it must lie between 0 and 1"):
        PGD(start_radius=start_radius)


@pytest.mark.parametrize("beta", [-1e-5, math.nan, math.inf])
def test_a_temperature_that_is_none_is_refused(beta):
    with pytest.raises(ValueError, match=r"SGLD's beta is .*, but a temperature is finite and at least 0"):
        SGLD(beta=beta)


def test_who_starts_clean_and_who_is_blind():
    assert [s.starts_clean for s in (PGD(start_radius=0), PGD(), SGLD(), Uniform())] == [True, False, False, False]
    assert [s.blind for s in (PGD(), SGLD(), Uniform())] == [False, False, True]


def test_solvers_are_values():
    assert SGLD(10) == SGLD() != SGLD(5)
    assert repr(SGLD()) == "SGLD(n_steps=10, beta=1e-05)"
    assert len({PGD(), PGD(restarts=1), PGD(restarts=2)}) == 2
