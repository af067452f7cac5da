"""
Statistics over seeds of training: interquartile mean, bootstrap intervals, probability of improvement.

These are the measures of Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice"
(NeurIPS 2021). The unit is an agent, whose score is its mean over the episodes: episodes of one agent say nothing about
another seed of training.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from sb3_barpo.evaluation.rows import Rows

#: Resamples of every bootstrap interval.
N_RESAMPLES = 2_000

_middle_half: Callable[..., Any] = partial(stats.trim_mean, proportiontocut=0.25)

Scores = Sequence[float] | NDArray[np.floating]


def interquartile_mean(scores: Scores) -> float:
    """
    Mean of the middle half: a quarter of the scores, rounded down, is dropped at each end.

    :param scores: One number a seed, shape ``(n,)``. Of fewer than four, this is the mean.
    :return: The mean of what remains.
    :raises ValueError: if there are no scores, or one of them is not finite.
    """
    return float(_middle_half(_finite(scores)))


def bootstrap_interval(
    scores: Scores,
    statistic: Callable[..., Any] = _middle_half,
    confidence_level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """
    Percentile bootstrap interval of a statistic. It is too narrow for few scores: at three seeds it cannot reach
    beyond the best and the worst of them.

    :param scores: One number a seed, shape ``(n,)``, at least two.
    :param statistic: Function of an array and an ``axis``, such as ``np.mean``; the interquartile mean by default.
    :param confidence_level: The share of intervals that shall hold the true value, between 0 and 1.
    :param seed: Seed of the resampling; the same seed gives the same interval.
    :return: Lower and upper end.
    :raises ValueError: for fewer than two scores, one that is not finite, or a confidence level out of range.
    """
    values = _finite(scores)
    if len(values) < 2:
        raise ValueError("A bootstrap interval needs at least two scores, but there is one. Train more seeds.")
    if not 0 < confidence_level < 1:
        raise ValueError(f"confidence_level must be between 0 and 1, but it is {confidence_level}. 0.95 is usual.")
    with np.errstate(over="ignore"):  # of a standard error that nobody reads
        interval = stats.bootstrap(
            (values,),
            statistic,
            n_resamples=N_RESAMPLES,
            confidence_level=confidence_level,
            method="percentile",
            random_state=np.random.default_rng(seed),
        ).confidence_interval
    return float(interval.low), float(interval.high)


def probability_of_improvement(scores: Scores, others: Scores) -> float:
    """
    The probability that a random one of the scores is higher than a random one of the others; ties count half. It is
    Mann and Whitney's U divided by the number of pairs.

    :param scores: One number a seed, shape ``(n,)``.
    :param others: One number a seed, shape ``(m,)``.
    :return: Between 0 and 1; 0.5 where neither improves on the other.
    :raises ValueError: if one side has no scores, or one of them is not finite.
    """
    first, second = _finite(scores), _finite(others)
    return float(stats.mannwhitneyu(first, second).statistic) / (len(first) * len(second))


def mann_whitney(scores: Scores, others: Scores) -> float:
    """
    The two-sided p-value of Mann and Whitney's test: how often two samples from one distribution differ as much as
    these. Three scores a side cannot come below 0.1, four not below 0.029.

    :param scores: One number a seed, shape ``(n,)``.
    :param others: One number a seed, shape ``(m,)``.
    :return: Between 0 and 1; exact where no two scores are the same, otherwise by the normal approximation.
    :raises ValueError: if one side has no scores, or one of them is not finite.
    """
    first, second = _finite(scores), _finite(others)
    ties = len(np.unique([*first, *second])) < len(first) + len(second)
    if ties and np.ptp([*first, *second]) == 0:  # which the approximation does not cover
        return 1.0
    return float(stats.mannwhitneyu(first, second, method="asymptotic" if ties else "exact").pvalue)


def by_algorithm(rows: Rows, epsilon: float | None = None) -> pd.DataFrame:
    """
    :param rows: The episodes.
    :param epsilon: The strength, the largest by default.
    :return: One row an algorithm, in the order of the rows: ``n_seeds``, the number of its agents, and the
        interquartile means over them of ``natural`` and ``worst_case``, each with the ends of its 95 % bootstrap
        interval (``natural_low``, ``natural_high``), which are NaN for a single agent.
    :raises ValueError: if there are no episodes at this ε.
    """
    summary = rows.summary(epsilon)
    algorithms = rows.origins.loc[summary.index, "algorithm"]
    table = []
    for algorithm in algorithms.unique():
        agents = summary[algorithms == algorithm]
        row: dict[str, object] = {"algorithm": algorithm, "n_seeds": len(agents)}
        for column in ("natural", "worst_case"):
            scores = agents[column].to_numpy(dtype=float)
            low, high = bootstrap_interval(scores) if len(scores) > 1 else (np.nan, np.nan)
            row |= {column: interquartile_mean(scores), f"{column}_low": low, f"{column}_high": high}
        table.append(row)
    return pd.DataFrame(table).set_index("algorithm")


def _finite(scores: Scores) -> NDArray[np.float64]:
    values = np.asarray(scores, dtype=float)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"Scores are a list of finite numbers, at least one, but they are {scores!r}.")
    return values
