"""The lab's mathematics: against brute force, finite differences, and values derived by hand."""

import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch as th
from torch.distributions import Bernoulli, kl_divergence

from sb3_barpo import lab
from sb3_barpo.lab import FAMILIES, IntervalPolicy, Method, Problem, SetPolicy, TabularMDP, footbridge, swamp

FOOTBRIDGE, SWAMP = footbridge(), swamp()
BOTH = pytest.mark.parametrize("problem", [FOOTBRIDGE, SWAMP], ids=lambda problem: problem.name)
#: Far from kinks, with both signs of everything.
SOME = {"footbridge": np.array([[0.7, 0.4], [-1.3, 0.9], [2.1, -1.7], [-0.4, -0.8]]), "swamp": np.array([[0.7, 0.4]])}


def random_problem(n_states: int, policy: lab.Policy, seed: int) -> Problem:
    rng = np.random.default_rng(seed)
    transitions = rng.dirichlet(np.ones(n_states), (n_states, 2))
    start = rng.dirichlet(np.ones(n_states))
    return Problem("random", TabularMDP(transitions, rng.standard_normal((n_states, 2)), start), policy)


def only(choice: tuple[int, ...], n_candidates: int) -> lab.Adversary:
    """Shows one fixed candidate in each state."""
    return lambda mdp, seen: np.broadcast_to(np.eye(n_candidates)[list(choice)], seen.shape[:3])


def differences(function, theta: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Central finite differences of M values with respect to M rows of parameters."""
    slopes = [(function(theta + h) - function(theta - h)) / (2 * step) for h in step * np.eye(theta.shape[1])]
    return np.stack(slopes, -1)


# The footbridge by hand, for gamma = 0.9: with s and t the probabilities of a0 on the shore and on the bridge,
# V(shore) = -0.2 (1 - s) + 0.9 (s V(bridge) + (1 - s) V(shore)) and V(bridge) = 0.3 t - (1 - t) + 0.9 V(shore).


def by_hand(s: float, t: float) -> float:
    bridge = 1.3 * t - 1
    shore = (-0.2 * (1 - s) + 0.9 * s * bridge) / (1 - 0.9 * (1 - s) - 0.81 * s)
    return 0.8 * shore + 0.2 * (bridge + 0.9 * shore)


@pytest.mark.parametrize(("s", "t"), [(0.0, 0.0), (1.0, 1.0), (0.3, 0.8), (0.9, 0.1)])
def test_values_of_the_footbridge_are_those_derived_by_hand(s, t):
    acting = np.array([[[s, 1 - s], [t, 1 - t]]])
    assert FOOTBRIDGE.mdp.value(acting) == pytest.approx([by_hand(s, t)], abs=1e-12)


def test_best_and_worst_value_of_the_footbridge():
    assert FOOTBRIDGE.mdp.optimum()[0] == pytest.approx((0.8 * 27 + 0.2 * 30) / 19)
    assert FOOTBRIDGE.mdp.pessimum() == pytest.approx(-(0.8 * 0.9 + 0.2) / 0.19)


def test_optimum_of_a_random_mdp_is_the_best_of_all_its_policies():
    mdp = random_problem(3, IntervalPolicy([0, 1, 2], 1), seed=4).mdp
    values = mdp.value(np.array([np.eye(2)[list(actions)] for actions in product(range(2), repeat=3)]))
    assert mdp.optimum()[0] == pytest.approx(values.max())
    assert mdp.pessimum() == pytest.approx(values.min())


def test_visits_are_those_of_the_first_steps_summed_up():
    mdp = random_problem(3, IntervalPolicy([0, 1, 2], 1), seed=1).mdp
    acting = np.random.default_rng(0).dirichlet([1, 1], (1, 3))
    now, summed = mdp.start, 0
    for step in range(400):
        summed = summed + 0.9**step * now
        now = np.einsum("s,sa,sat->t", now, acting[0], mdp.transitions)
    assert mdp.evaluate(acting).visits[0] == pytest.approx(summed, abs=1e-12)


# Adversaries


@pytest.mark.parametrize(
    "policy",
    [IntervalPolicy([1.0, 0.2, -0.5], 0.7, points=5), SetPolicy([[0, 1, 2], [1, 0], [2]])],
    ids=["interval", "sets"],
)
@pytest.mark.parametrize("strength", [0.4, 1.0])
def test_the_strongest_adversary_is_the_worst_of_all(policy, strength):
    problem = random_problem(3, policy, seed=2)
    theta = policy.starts(20, seed=3)
    n_candidates = policy.probabilities(theta).shape[2]
    everything = [
        problem.value(theta, only(choice, n_candidates), strength) for choice in product(range(n_candidates), repeat=3)
    ]
    assert problem.value(theta, lab.strongest, strength) == pytest.approx(np.min(everything, axis=0), abs=1e-11)


@pytest.mark.parametrize("adversary", [lab.strongest, lab.kl])
def test_the_ends_of_an_interval_are_enough(adversary):
    mdp = FOOTBRIDGE.mdp
    coarse, fine = (Problem("", mdp, IntervalPolicy([1.0, 0.0], 1.2, points=points)) for points in (3, 41))
    theta = lab.grid(coarse, 12)
    assert coarse.value(theta, adversary) == pytest.approx(fine.value(theta, adversary), abs=1e-11)


def test_divergences_are_those_of_torch():
    seen = FOOTBRIDGE.policy.probabilities(SOME["footbridge"])
    first = th.as_tensor(seen[..., 0])
    expected = kl_divergence(Bernoulli(first[:, :, :1].expand_as(first)), Bernoulli(first))
    assert lab.divergences(seen) == pytest.approx(expected.numpy(), abs=1e-12)


def test_the_kl_adversary_has_the_largest_divergence():
    seen = FOOTBRIDGE.policy.probabilities(lab.grid(FOOTBRIDGE, 9))
    found = (lab.divergences(seen) * lab.kl(FOOTBRIDGE.mdp, seen)).sum(-1)
    assert (found == lab.divergences(seen).max(-1)).all()


@BOTH
def test_mixtures_lie_between_the_strongest_and_an_even_one(problem):
    theta = SOME[problem.name]
    seen = problem.policy.probabilities(theta)
    assert problem.value(theta, lab.mixture(1e-4)) == pytest.approx(problem.robust(theta), abs=1e-6)
    assert lab.mixture(1e6)(problem.mdp, seen) == pytest.approx(np.full(seen.shape[:3], 1 / seen.shape[2]), abs=1e-4)
    between = problem.value(theta, lab.mixture(0.3))
    assert (problem.robust(theta) < between).all()


@BOTH
@pytest.mark.parametrize("adversary", [lab.strongest, lab.kl])
def test_without_strength_nothing_is_attacked(problem, adversary):
    theta = problem.policy.starts(20, seed=0)
    assert problem.value(theta, adversary, strength=0.0) == pytest.approx(problem.natural(theta))


def test_policies_that_ignore_the_observation_lose_nothing():
    bias = np.linspace(-4, 4, 9)
    theta = np.stack([0 * bias, bias], -1)
    expected = [by_hand(p, p) for p in 1 / (1 + np.exp(-bias))]
    assert FOOTBRIDGE.natural(theta) == pytest.approx(expected)
    assert FOOTBRIDGE.robust(theta) == pytest.approx(expected)


# Gradients


@BOTH
@pytest.mark.parametrize("adversary", [lab.clean, lab.strongest, lab.kl])
@pytest.mark.parametrize("kappa", [0.0, 0.7])
@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_gradients_are_the_finite_differences_with_the_adversary_held_fixed(problem, adversary, kappa, strength):
    theta, method = SOME[problem.name], Method(adversary, kappa, strength)
    shown = adversary(problem.mdp, problem.policy.probabilities(theta, strength))

    def held(moved: np.ndarray) -> np.ndarray:
        attacked = problem.value(moved, lambda mdp, seen: shown, strength)
        return (attacked + kappa * problem.natural(moved)) / (1 + kappa)

    assert lab.gradient(problem, theta, method) == pytest.approx(differences(held, theta), abs=1e-6)


@BOTH
def test_the_strongest_adversary_s_gradient_is_that_of_the_worst_case(problem):
    """Danskin's theorem: where one adversary is the worst, its own reaction does not count."""
    theta = SOME[problem.name]
    expected = differences(problem.robust, theta)
    assert lab.gradient(problem, theta, Method(lab.strongest)) == pytest.approx(expected, abs=1e-6)


@BOTH
def test_clean_rollouts_weigh_what_is_seen_by_clean_visits_and_advantages(problem):
    theta = SOME[problem.name]
    seen = problem.policy.probabilities(theta)
    solved = problem.mdp.evaluate(lab.acting(seen, lab.clean(problem.mdp, seen)))
    shown = lab.kl(problem.mdp, seen)
    weights = solved.visits[..., None] * (solved.q_values - solved.values[..., None])

    def surrogate(moved: np.ndarray) -> np.ndarray:
        return (weights * lab.acting(problem.policy.probabilities(moved), shown)).sum((1, 2))

    method = Method(lab.kl, clean_visits=True, clean_advantages=True)
    assert lab.gradient(problem, theta, method) == pytest.approx(differences(surrogate, theta), abs=1e-6)


# Ascents


@BOTH
def test_an_adversary_without_strength_leaves_plain_ascent(problem):
    starts = problem.policy.starts(10, seed=1)
    plain = lab.ascend(problem, starts, lab.METHODS["SPO"], steps=60)
    for method in (Method(lab.strongest, strength=0.0), Method(lab.kl, kappa=1.0, strength="ramp_0")):
        assert lab.ascend(problem, starts, method, steps=60) == pytest.approx(plain, abs=1e-9)


def test_ascent_climbs_and_stays_in_the_box():
    starts = FOOTBRIDGE.policy.starts(20, seed=1)
    path = lab.ascend(FOOTBRIDGE, starts, lab.METHODS["SPO"], steps=300)
    values = np.array([FOOTBRIDGE.natural(theta) for theta in path])
    assert (path[0] == starts).all()
    assert np.abs(path).max() <= 4
    assert (values[-1] > values[0]).all()
    assert np.diff(values, axis=0).min() > -0.01
    lengths = np.linalg.norm(np.diff(path, axis=0), axis=-1)
    assert lengths.max() <= 0.05 + 1e-12


def test_schedules_and_callables_set_strength_and_guidance():
    late = Method(lab.strongest, kappa=lambda remaining: 2 * remaining, strength="ramp_1_0.8_0.4")
    assert [late.at(time) for time in (0.0, 0.5, 1.0)] == [(2.0, 0.0), (1.0, pytest.approx(0.25)), (0.0, 1.0)]
    path = lab.ascend(FOOTBRIDGE, SOME["footbridge"], late, steps=50)
    plain = lab.ascend(FOOTBRIDGE, SOME["footbridge"], lab.METHODS["SPO"], steps=50)
    assert path[:21] == pytest.approx(plain[:21])
    assert np.abs(path[-1] - plain[-1]).max() > 0.01


# Ends


def test_ends_are_told_apart():
    theta = np.array([[0.0, -4.0], [4.0, -2.0], [4.0, 4.0], [0.0, 4.0]])
    assert lab.classify(FOOTBRIDGE, theta).tolist() == ["trapped", "low", "fragile", "good"]
    assert lab.shares(np.array(["good", "good", "low", "trapped"])) == {
        "trapped": 0.25, "low": 0.25, "fragile": 0.0, "good": 0.5
    }  # fmt: skip


def test_slopes_are_gradients_where_there_is_one():
    theta = SOME["footbridge"]
    norms = np.linalg.norm(lab.gradient(FOOTBRIDGE, theta, lab.METHODS["SPO"]), axis=-1)
    assert lab.slope(FOOTBRIDGE, theta, lab.METHODS["SPO"]) == pytest.approx(norms, rel=1e-3)


def test_maps_hold_the_kinds_of_ends_of_a_grid():
    found = lab.basins(FOOTBRIDGE, lab.METHODS["ARPO"], points=5)
    single = lab.ascend(FOOTBRIDGE, np.array([[-4.0, -4.0], [4.0, 4.0]]), lab.METHODS["ARPO"], 300, 0.13)[-1]
    assert found.shape == (5, 5)
    assert [found[0, 0], found[-1, -1]] == lab.classify(FOOTBRIDGE, single).tolist() == ["trapped", "good"]


# ISA-MDPs and searches


def test_both_chosen_problems_are_isa_mdps():
    assert lab.is_isa(FOOTBRIDGE)
    assert lab.is_isa(SWAMP)


def test_an_isa_mdp_s_optimal_policy_is_robust():
    always_first = np.ones((1, 2))
    assert SWAMP.robust(always_first) == pytest.approx([SWAMP.mdp.optimum()[0]])


def test_where_optimal_actions_differ_only_what_cannot_be_confused_is_isa():
    swerving = footbridge(straight=-1.0, swerve=0.3).mdp  # a1 is best on the bridge, a0 on the shore
    assert swerving.optimal_actions() == [{0}, {1}]
    assert not lab.is_isa(Problem("", swerving, IntervalPolicy([1.0, 0.0], 0.5)))
    assert lab.is_isa(Problem("", swerving, IntervalPolicy([1.0, 0.0], 0.49)))
    assert not lab.is_isa(Problem("", swerving, SetPolicy([[0, 1], [1]])))
    assert lab.is_isa(Problem("", swerving, SetPolicy([[0], [1]])))


def test_three_intervals_are_compared_where_all_three_overlap():
    """a0 is best in one outer state, a1 in the other, both in the middle: each agrees with its neighbour."""
    rewards = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    mdp = TabularMDP(np.full((3, 2, 3), 1 / 3), rewards, np.full(3, 1 / 3))
    assert lab.is_isa(Problem("", mdp, IntervalPolicy([0.0, 1.0, 2.0], 0.9)))
    assert not lab.is_isa(Problem("", mdp, IntervalPolicy([0.0, 1.0, 2.0], 1.1)))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_search_finds_the_same_again_and_says_out_of_how_many(family):
    few, more = (lab.search(FAMILIES[family], lab.is_isa, n, seed=5) for n in (2, 6))
    assert [len(few.problems), len(more.problems)] == [2, 6]
    assert few.tried <= more.tried
    assert all(lab.is_isa(problem) for problem in more.problems)
    for one, other in zip(few.problems, more.problems, strict=False):
        assert (one.mdp.rewards == other.mdp.rewards).all()


def test_a_search_in_vain_ends():
    found = lab.search(lab.any_mdp, lambda problem: False, 1, max_tries=7)
    assert found == ([], 7)


# Refusals


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"rewards": [0.0]}, r"rewards must have shape \(S, A\), but it has shape \(1,\)"),
        ({"start": [1.0]}, r"start must have shape \(2,\) to fit the rewards"),
        ({"start": [0.5, 0.6]}, r"start must hold probabilities that sum to 1, but it is \[0.5, 0.6\]"),
        ({"start": [1.5, -0.5]}, "start must hold probabilities"),
        ({"transitions": np.ones((2, 2, 2))}, "transitions must hold probabilities"),
        ({"gamma": 1.0}, r"gamma must be at least 0 and below 1, but it is 1.0"),
    ],
)
def test_what_is_no_mdp_is_refused(wrong, match):
    right = {"transitions": np.full((2, 2, 2), 0.5), "rewards": np.zeros((2, 2)), "start": [1.0, 0.0]}
    with pytest.raises(ValueError, match=match):
        TabularMDP(**{**right, **wrong})


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: IntervalPolicy([0.0], -0.1), "epsilon must be at least 0, but it is -0.1"),
        (lambda: IntervalPolicy([0.0], 0.1, points=4), "points must be odd and at least 3, but it is 4"),
        (lambda: SetPolicy([[0], [0, 1]]), r"The set of state 1 must begin with 1 .* but it is \[0, 1\]"),
        (lambda: SetPolicy([[0, 2], [1]]), "name states below 2"),
        (lambda: lab.mixture(0.0), "temperature must be above 0, but it is 0.0"),
        (lambda: lab.ascend(SWAMP, np.ones((1, 2)), lab.METHODS["SPO"], steps=0), "steps and step_size must be above"),
        (lambda: Method(lab.kl, kappa="ramp_x"), "'x' is no number"),
        (lambda: Problem("", SWAMP.mdp, SetPolicy([[0], [1], [2]])), r"3 states and 2 actions, but .* shape \(2, 2\)"),
        (lambda: SWAMP.value(np.ones((1, 2)), lab.kl, strength=1.5), "a probability here, from 0 to 1, but it is 1.5"),
        (
            lambda: lab.slope(random_problem(3, SetPolicy([[0], [1], [2]]), 0), np.ones((1, 3)), lab.METHODS["SPO"]),
            "needs a problem with two parameters, but random has 3",
        ),
        (lambda: lab.grid(random_problem(3, SetPolicy([[0], [1], [2]]), 0), 5), "random has 3"),
    ],
)
def test_bad_settings_are_refused(build, match):
    with pytest.raises(ValueError, match=match):
        build()


# Its place in the package


def test_the_lab_needs_nothing_of_the_package_but_strengths():
    for module in Path(lab.__file__).parent.glob("*.py"):
        if module.name != "landscape.py":  # the bridge to trained agents
            needed = re.findall(
                r"^\s*(?:from|import) (sb3_barpo[\w.]*)", module.read_text(encoding="utf-8"), re.MULTILINE
            )
            allowed = r"sb3_barpo\.(lab|schedules|controllers)\b"
            assert [name for name in needed if not re.match(allowed, name)] == [], module.name
