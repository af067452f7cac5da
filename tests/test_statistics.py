"""Statistics over seeds of training, on numbers worked out by hand and on distributions with known intervals."""

import math

import numpy as np
import pandas as pd
import pytest
from test_report import report_of

from sb3_barpo.evaluation import RobustnessReport
from sb3_barpo.evaluation.rows import Rows
from sb3_barpo.evaluation.statistics import (
    bootstrap_interval,
    by_algorithm,
    interquartile_mean,
    mann_whitney,
    probability_of_improvement,
)


@pytest.mark.parametrize(
    ("scores", "mean"),
    [([7], 7), ([1, 2, 6], 3), ([-1e6, 2, 4, 1e6], 3), ([9, 1, 2, 3, 4, 100, -50, 5], 3.5), ([0] * 9 + [1000], 0)],
)
def test_the_interquartile_mean_drops_a_quarter_at_each_end(scores: list[float], mean: float) -> None:
    assert interquartile_mean(scores) == mean


def test_the_bootstrap_interval_of_a_mean_is_the_normal_one() -> None:
    scores = np.random.default_rng(0).normal(5, 2, 400)
    low, high = bootstrap_interval(scores, np.mean)
    half = 1.96 * scores.std() / 20
    assert (low, high) == pytest.approx((scores.mean() - half, scores.mean() + half), abs=0.03)
    narrow = bootstrap_interval(scores, np.mean, confidence_level=0.5)
    assert narrow[1] - narrow[0] == pytest.approx(2 * 0.674 * scores.std() / 20, rel=0.1)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    intervals = [bootstrap_interval(rng.normal(size=40), np.mean) for _ in range(150)]
    assert 0.88 <= np.mean([low <= 0 <= high for low, high in intervals]) <= 0.99


def test_an_interval_is_repeatable_and_within_the_scores() -> None:
    scores = [3.0, 1.0, 2.0]
    assert bootstrap_interval(scores) == bootstrap_interval(scores) == (1.0, 3.0)
    assert bootstrap_interval([4.0, 4.0, 4.0]) == (4.0, 4.0)


@pytest.mark.parametrize(
    ("scores", "others", "probability"),
    [
        ([2, 3], [0, 1], 1.0),
        ([0, 1], [2, 3], 0.0),
        ([1, 2], [1, 2], 0.5),
        ([1, 3], [2], 0.5),
        ([2, 5, 5], [1, 3], 5 / 6),
    ],
)
def test_probability_of_improvement_counts_pairs(scores: list[float], others: list[float], probability: float) -> None:
    assert probability_of_improvement(scores, others) == pytest.approx(probability)
    assert probability_of_improvement(others, scores) == pytest.approx(1 - probability)


@pytest.mark.parametrize(
    ("scores", "others", "p"),
    [
        ([4, 5, 6], [1, 2, 3], 2 / 20),  # one of the 20 ways to choose three of six, and its mirror image
        ([5, 6, 7, 8], [1, 2, 3, 4], 2 / 70),
        ([1, 2, 4], [3, 5, 6], 4 / 20),
        ([1], [2], 1.0),
        ([3, 3], [3, 3, 3], 1.0),
    ],
)
def test_the_test_of_mann_and_whitney_by_hand(scores: list[float], others: list[float], p: float) -> None:
    assert mann_whitney(scores, others) == pytest.approx(p)
    assert mann_whitney(others, scores) == pytest.approx(p)


def test_ties_are_approximated() -> None:
    """U is 0.5 of 9; its variance with one pair of equals is 9/12 · (7 - 6/30)."""
    z = (4.5 - 0.5 - 0.5) / (9 / 12 * (7 - 6 / 30)) ** 0.5
    assert mann_whitney([4, 5, 6], [1, 2, 4]) == pytest.approx(math.erfc(z / 2**0.5))


def test_seeds_of_an_algorithm_are_summarised_together() -> None:
    natural = {"ppo-seed0": 100, "ppo-seed1": 200, "ppo-seed2": 600, "barpo-seed0": 150}
    report = report_of(**{name: {("natural", 0.0): [one], ("mad", 0.1): [one / 2]} for name, one in natural.items()})
    table = by_algorithm(report)
    assert table.equals(report.by_algorithm())
    assert list(table.index) == ["ppo", "barpo"]
    assert table["n_seeds"].to_list() == [3, 1]
    assert table["natural"].to_list() == [300, 150]
    assert table["worst_case"].to_list() == [150, 75]
    assert table.loc["ppo", ["worst_case_low", "worst_case_high"]].to_list() == [50, 300]
    assert table.loc["barpo", ["natural_low", "natural_high"]].isna().all()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: interquartile_mean([]), "at least one"),
        (lambda: interquartile_mean([1.0, float("nan")]), "finite numbers"),
        (lambda: bootstrap_interval([1.0]), "at least two scores"),
        (lambda: bootstrap_interval([1.0, 2.0], confidence_level=95), "between 0 and 1, but it is 95"),
        (lambda: probability_of_improvement([1.0], []), "at least one"),
        (lambda: mann_whitney([], [1.0]), "at least one"),
    ],
)
def test_what_has_no_statistics(call: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call()  # type: ignore[operator]


def test_rows_know_algorithm_and_seed_of_training() -> None:
    frame = report_of(A={("natural", 0.0): [1, 2], ("mad", 0.1): [1, 2]}).to_frame()
    named = Rows(frame.assign(algorithm="BARPO", train_seed=7))
    assert named.origins.loc["A"].to_list() == ["BARPO", 7, "", ""]
    unknown = Rows(frame.assign(algorithm="BARPO", train_seed=None))
    assert unknown.origins["train_seed"].isna().all()
    with pytest.raises(ValueError, match="one algorithm, train_seed, env and unit, but A has several"):
        Rows(frame.assign(algorithm="BARPO", train_seed=[0, 0, 1, 1]))


@pytest.mark.parametrize(
    ("name", "algorithm", "seed"),
    [
        ("ppo-seed12", "ppo", 12),
        ("barpo-cold-seed0", "barpo-cold", 0),
        ("PPO", "PPO", None),
        ("a-seedling", "a-seedling", None),
    ],
)
def test_reports_of_version_0_1_are_read_by_the_names_of_their_agents(
    name: str, algorithm: str, seed: int | None
) -> None:
    old = ["agent", "attack", "epsilon", "episode", "seed", "return", "length"]
    rows = [(name, "natural", 0.0, 0, 3, 1.0, 5), (name, "mad", 0.1, 0, 3, 0.5, 5)]
    origin = RobustnessReport(pd.DataFrame(rows, columns=old)).origins.loc[name]
    assert origin["algorithm"] == algorithm
    assert origin["train_seed"] == seed if seed is not None else pd.isna(origin["train_seed"])
