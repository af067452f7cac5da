"""`ComparisonReport`: the agents' returns on all tasks, and statistics over seeds and tasks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from sb3_barpo.evaluation import RobustnessReport
from sb3_barpo.evaluation.statistics import (
    N_RESAMPLES,
    bootstrap_interval,
    interquartile_mean,
    mann_whitney,
    probability_of_improvement,
)

#: What is compared of each agent: mean returns over its episodes.
MEASURES = ["natural", "worst_case"]


class ComparisonReport:
    """
    Agents of several algorithms, tasks and seeds, all attacked in the same way.

    The unit is an agent: its mean return over the episodes without an attack (``natural``) and under the attack that is
    worst for it (``worst_case``). The measures over agents are those of Agarwal et al., "Deep Reinforcement Learning at
    the Edge of the Statistical Precipice" (NeurIPS 2021).

    :param reports: By environment, the report on its agents, at one ε each. Agents of one ``algorithm`` differ in their
        seed only.
    :param algorithms: The order of the algorithms, by default that of the reports.
    :param missing: Which agents are not finished yet, in words.
    :param judged: How it came about, see :func:`sb3_barpo.evaluation.judged.circumstances`.
    :raises ValueError: without a report.
    """

    def __init__(
        self,
        reports: Mapping[str, RobustnessReport],
        algorithms: Sequence[str] | None = None,
        missing: Sequence[str] = (),
        judged: Mapping[str, Any] | None = None,
    ) -> None:
        if not reports:
            raise ValueError("A comparison needs a report on at least one environment, but there is none.")
        #: The reports by environment, with every episode.
        self.reports = dict(reports)
        #: Who is not finished yet.
        self.missing = list(missing)
        #: By environment, attacks that some agent did not go through. They are not part of the report.
        self.left_out: dict[str, list[str]] = {}
        #: How it came about.
        self.judged = dict(judged or {})
        #: One row an agent: ``env``, ``epsilon``, ``algorithm``, ``train_seed``, ``agent``, ``natural``, the attacks,
        #: ``worst_case``, ``worst_attack``.
        self.agents = pd.concat([_agents(env, report) for env, report in reports.items()], ignore_index=True)
        found = list(self.agents["algorithm"].unique())
        order = [
            *(one for one in algorithms or found if one in found),
            *(one for one in found if one not in (algorithms or found)),
        ]
        #: The algorithms, in the order of tables and pictures.
        self.algorithms: list[str] = order
        self.agents = self.agents.sort_values(
            "algorithm", key=lambda column: column.map(order.index), kind="stable"
        ).sort_values("env", key=lambda column: column.map(self.envs.index), kind="stable", ignore_index=True)

    @property
    def envs(self) -> list[str]:
        """The environments, in the order of the reports."""
        return list(self.reports)

    @property
    def attacks(self) -> list[str]:
        """The attacks, in the order of the reports."""
        return list(dict.fromkeys(attack for report in self.reports.values() for attack in report.attacks))

    @property
    def n_seeds(self) -> int:
        """The largest number of agents of one algorithm on one task."""
        return int(self.agents.groupby(["env", "algorithm"]).size().max())

    def scores(self, env: str, algorithm: str, measure: str = "worst_case") -> NDArray[np.float64]:
        """
        :param env: A task.
        :param algorithm: An algorithm.
        :param measure: ``"natural"``, ``"worst_case"`` or an attack.
        :return: One mean return a seed, shape ``(n_seeds,)``, empty if there is no agent.
        """
        chosen = (self.agents["env"] == env) & (self.agents["algorithm"] == algorithm)
        scores: NDArray[np.float64] = self.agents.loc[chosen, measure].to_numpy(dtype=float)
        return scores

    def by_algorithm(self) -> pd.DataFrame:
        """
        :return: One row a task and algorithm: ``n_seeds``; for ``natural`` and ``worst_case`` the interquartile mean
            over the seeds, the ends of its 95 % bootstrap interval (``natural_low``, ``natural_high``, NaN for one
            seed) and the median (``natural_median``); the interquartile means under each attack; ``kept``, the worst
            case's share of the natural return, NaN where one of them is not above 0; ``p``, of Mann and Whitney's
            two-sided test that worst cases are distributed as those of the algorithm that has the task's highest
            interquartile mean of them, NaN for that one.
        """
        rows = []
        for env in self.envs:
            best = max(self.algorithms, key=lambda one: self._worst_case(env, one))
            for algorithm in self.algorithms:
                if not (n := len(self.scores(env, algorithm))):
                    continue
                row: dict[str, Any] = {"env": env, "algorithm": algorithm, "n_seeds": n}
                for measure in MEASURES:
                    scores = self.scores(env, algorithm, measure)
                    low, high = bootstrap_interval(scores) if n > 1 else (np.nan, np.nan)
                    row |= {measure: interquartile_mean(scores), f"{measure}_low": low, f"{measure}_high": high}
                    row[f"{measure}_median"] = float(np.median(scores))
                row |= {
                    attack: interquartile_mean(self.scores(env, algorithm, attack))
                    for attack in self.reports[env].attacks
                }
                positive = row["natural"] > 0 and row["worst_case"] > 0
                row["kept"] = row["worst_case"] / row["natural"] if positive else np.nan
                worst = self.scores(env, algorithm, "worst_case")
                row["p"] = np.nan if algorithm == best else mann_whitney(worst, self.scores(env, best, "worst_case"))
                rows.append(row)
        return pd.DataFrame(rows)

    def _worst_case(self, env: str, algorithm: str) -> float:
        scores = self.scores(env, algorithm, "worst_case")
        return interquartile_mean(scores) if len(scores) else -np.inf

    def scaled(self, measure: str) -> dict[str, list[NDArray[np.float64]]]:
        """
        Returns on a scale that tasks share: 1 is the highest natural interquartile mean of an algorithm on the task, 0
        is a return of 0, or the lowest mean return of an agent where that is below 0.

        :param measure: ``"natural"`` or ``"worst_case"``.
        :return: By algorithm, for each of :attr:`common` tasks, one number a seed.
        """
        tables: dict[str, list[NDArray[np.float64]]] = {algorithm: [] for algorithm in self.algorithms}
        for env in self.common:
            best = max(interquartile_mean(self.scores(env, algorithm, "natural")) for algorithm in self.algorithms)
            here = self.agents[self.agents["env"] == env]
            zero = min(0.0, float(here[MEASURES].to_numpy().min()))
            for algorithm in self.algorithms:
                tables[algorithm].append((self.scores(env, algorithm, measure) - zero) / ((best - zero) or 1.0))
        return tables

    @property
    def common(self) -> list[str]:
        """The tasks on which every algorithm has an agent: over others no mean is comparable."""
        return [env for env in self.envs if all(len(self.scores(env, algorithm)) for algorithm in self.algorithms)]

    def overall(self) -> pd.DataFrame:
        """
        :return: By algorithm, over all seeds of all :attr:`common` tasks on the scale of :meth:`scaled`: the
            interquartile means of ``natural`` and ``worst_case`` with the ends of their 95 % stratified bootstrap
            intervals, NaN for one seed, and ``rank``, the mean over the tasks of the rank by worst case.
        """
        rows = pd.DataFrame({"algorithm": self.algorithms}).set_index("algorithm")
        for measure in MEASURES:
            tables = self.scaled(measure)
            rows[measure] = [interquartile_mean(np.concatenate(tables[one])) for one in self.algorithms]
            ends = [_stratified(tables[one], _middle_half) for one in self.algorithms]
            rows[[f"{measure}_low", f"{measure}_high"]] = ends
        worst = self.by_algorithm().pivot(index="algorithm", columns="env", values="worst_case")
        rows["rank"] = worst[self.common].rank(ascending=False).mean(axis="columns")
        return rows

    def improvement(self, measure: str = "worst_case") -> pd.DataFrame:
        """
        :param measure: ``"natural"``, ``"worst_case"`` or an attack.
        :return: The probability that a random agent of the row's algorithm has a higher return than one of the
            column's, on the same task, ties counted half; its mean over the :attr:`common` tasks.
        """
        table = {
            other: [
                float(np.mean([self._improvement(env, one, other, measure) for env in self.common]))
                for one in self.algorithms
            ]
            for other in self.algorithms
        }
        return pd.DataFrame(table, index=self.algorithms)

    def _improvement(self, env: str, one: str, other: str, measure: str) -> float:
        return probability_of_improvement(self.scores(env, one, measure), self.scores(env, other, measure))

    def profiles(self, measure: str, at: NDArray[np.float64]) -> dict[str, tuple[NDArray[np.float64], ...]]:
        """
        Performance profiles.

        :param measure: ``"natural"`` or ``"worst_case"``.
        :param at: Scores on the scale of :meth:`scaled`, shape ``(n,)``.
        :return: By algorithm, the share of its agents, over all :attr:`common` tasks, whose score is above each,
            with the ends of its 95 % stratified bootstrap interval, each of shape ``(n,)``.
        """

        def above(scores: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
            shares: NDArray[np.float64] = (scores[..., None] > at).mean(axis=-2)
            return shares

        return {
            algorithm: (above(np.concatenate(tables)), *_stratified(tables, above))
            for algorithm, tables in self.scaled(measure).items()
        }

    def __repr__(self) -> str:
        return f"ComparisonReport(algorithms={self.algorithms}, envs={self.envs}, n_seeds={self.n_seeds})"


def _agents(env: str, report: RobustnessReport) -> pd.DataFrame:
    summary = report.summary()
    kept = ["natural", *report.attacks, "worst_case", "worst_attack"]
    origins = report.origins.loc[summary.index, ["algorithm", "train_seed"]]
    table = pd.concat([origins, summary[kept]], axis="columns").rename_axis("agent").reset_index()
    table.insert(0, "env", env)
    table.insert(1, "epsilon", report.epsilons[-1])
    return table


def _middle_half(scores: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
    means: NDArray[np.float64] = stats.trim_mean(scores, 0.25, axis=axis)
    return means


def _stratified(
    tables: Sequence[NDArray[np.float64]], statistic: Callable[..., NDArray[np.float64]]
) -> tuple[Any, Any]:
    """
    The ends of the 95 % percentile bootstrap interval of a statistic over all tasks, whose seeds are drawn again
    task by task; NaN if no task has two seeds.
    """
    generator = np.random.default_rng(0)
    if max((len(scores) for scores in tables), default=0) < 2:
        nothing = np.full(np.shape(statistic(np.concatenate([*tables, np.zeros(1)]))), np.nan)
        return nothing, nothing
    draws = [generator.choice(scores, (N_RESAMPLES, len(scores))) for scores in tables]
    low, high = np.quantile(statistic(np.concatenate(draws, axis=1), axis=-1), [0.025, 0.975], axis=0)
    return low, high
