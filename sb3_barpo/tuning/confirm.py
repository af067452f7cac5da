"""Confirmation: the best strengths of a study and the paper's, retrained on fresh seeds, under stronger attacks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from sb3_barpo.attacks import ATTACKS, attack_names
from sb3_barpo.evaluation import RobustnessReport
from sb3_barpo.evaluation.budgets import check_budget
from sb3_barpo.evaluation.robustness import learned_names
from sb3_barpo.evaluation.statistics import mann_whitney, probability_of_improvement
from sb3_barpo.experiment import Evaluation, run
from sb3_barpo.seeds import CONFIRMATION, RETRAINING
from sb3_barpo.tuning.trials import Tuning

#: Name of the paper's setting among the candidates.
PAPER = "paper"
#: The same of PPO, which has no paper's strength: the entry with which the study began.
ENTRY = "entry"


@dataclass(frozen=True)
class Confirmation:
    """
    How winners are confirmed.

    :param top: How many of the study's best trials are confirmed, besides the paper's setting; 0 confirms nothing.
    :param n_seeds: On how many seeds of training each.
    :param first_seed: The first of them. Trials are trained with the seed of ``Tuning.agent`` plus their number.
    :param attacks: Names of the attacks.
    :param budget: How hard to search for those that are learned.
    :param n_eval_episodes: Episodes for each attack.
    :param eval_seed: Seed of the first of them; trials are compared on :data:`sb3_barpo.seeds.CALLBACKS`.
    :raises ValueError: for a number out of range, or an unknown attack or budget.
    """

    top: int = 3
    n_seeds: int = 3
    first_seed: int = RETRAINING.start
    attacks: Sequence[str] = ("all",)
    budget: str = "quick"
    n_eval_episodes: int = 50
    eval_seed: int = CONFIRMATION.start

    def __post_init__(self) -> None:
        if self.top < 0 or self.n_seeds < 1:
            raise ValueError(
                f"Of the best trials at least 0 are confirmed, on at least 1 seed, but top is {self.top} and n_seeds "
                f"is {self.n_seeds}."
            )
        attack_names(list(self.attacks))
        check_budget(self.budget)

    @property
    def learns(self) -> bool:
        """Whether one of the attacks is learned."""
        return bool(learned_names(attack_names(list(self.attacks))))

    def evaluation(self, epsilon: float) -> Evaluation:
        """:return: How the agents are attacked, at this ε."""
        return Evaluation(
            [epsilon], list(self.attacks), self.n_eval_episodes, self.eval_seed, n_envs=8, budget=self.budget
        )


def best_trials(study: optuna.Study, tuning: Tuning, top: int) -> list[FrozenTrial]:
    """
    :param study: The study.
    :param tuning: What its trials did.
    :param top: How many to take at most.
    :return: The best allowed trials other than the paper's setting, best first; of a Pareto front, as evenly spread
        over it as can be.
    """
    if len(study.directions) > 1:
        front = sorted(study.best_trials, key=lambda trial: trial.values[0])
        front = [trial for trial in front if trial.user_attrs.get("setting") != PAPER]
        count = min(top, len(front))
        return [front[round(i * (len(front) - 1) / max(count - 1, 1))] for i in range(count)]
    return [trial for trial in ranked(study, tuning) if trial.user_attrs.get("setting") != PAPER][:top]


def ranked(study: optuna.Study, tuning: Tuning) -> list[FrozenTrial]:
    """
    :param study: The study.
    :param tuning: What its trials did.
    :return: The complete trials that are allowed, the most preferred first.
    :raises ValueError: if there is none.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    allowed = [trial for trial in complete if all(value <= 0 for value in trial.constraints.values())]
    if not allowed:
        raise ValueError(
            f"The study {study.study_name!r} has {len(complete)} complete trials, but none that is allowed. Run more "
            "trials, or ask for less in a study of another name."
        )
    return sorted(allowed, key=lambda trial: _preference(tuning, trial), reverse=True)


def _preference(tuning: Tuning, trial: FrozenTrial) -> float:
    return tuning.criterion.preference(trial.user_attrs["natural"], trial.user_attrs["worst_case"])


def candidate(trial: FrozenTrial) -> str:
    """:return: The trial's name among the candidates."""
    return PAPER if trial.user_attrs.get("setting") == PAPER else f"trial-{trial.number}"


def strengths(study: optuna.Study, tuning: Tuning, top: int) -> dict[str, dict[str, Any]]:
    """
    :return: The candidates by name, the paper's setting first, of PPO that of its entry: arguments of the algorithm.
    """
    best = {candidate(trial): tuning.suggest(trial) for trial in best_trials(study, tuning, top)}
    return {usual_setting(tuning): tuning.paper, **best}


def confirm(
    study: optuna.Study,
    tuning: Tuning,
    confirmation: Confirmation,
    root: Path,
    n_jobs: int = 1,
    progress_bar: bool = False,
) -> RobustnessReport:
    """
    Train and attack the candidates. Finished work is reused.

    :param study: The study.
    :param tuning: What its trials did.
    :param confirmation: How to confirm.
    :param root: Folder of the agents, which stay there.
    :param n_jobs: Number of processes.
    :param progress_bar: Whether to show a bar for each agent.
    :return: The report on all agents, which are called ``<candidate>-seed<seed>``.
    """
    candidates = strengths(study, tuning, confirmation.top)
    seeds = range(confirmation.first_seed, confirmation.first_seed + confirmation.n_seeds)
    agents = [
        replace(tuning.trained_with(strength, f"{name}-seed{seed}", seed), label=name)
        for seed in seeds
        for name, strength in candidates.items()
    ]
    return run(agents, confirmation.evaluation(tuning.epsilon), root, n_jobs, progress_bar)


def by_candidate(report: RobustnessReport, tuning: Tuning) -> pd.DataFrame:
    """
    :param report: What :func:`confirm` returned.
    :param tuning: What the study's trials did.
    :return: One row a candidate, the best first: means over the seeds of ``natural``, of the return under each attack
        and of ``worst_case``, the lowest worst case of a seed, ``preference``. Beside the
        usual setting, the paper's or PPO's entry: ``improvement``, the probability that a seed of the candidate is
        preferred to one of that, and ``p``, of Mann and Whitney's two-sided test that there is no difference, times the
        number of candidates that are compared with it (Bonferroni's correction).
    """
    table = report.summary()
    columns = ["natural", *(name for name in ATTACKS if name in table), "worst_case"]
    names = report.origins["algorithm"].loc[table.index]
    grouped = table[columns].groupby(names)
    rows = grouped.mean()
    rows["lowest"] = grouped["worst_case"].min()
    rows["preference"] = _preferences(rows, tuning)
    seeds = {name: _preferences(table[names == name], tuning) for name in rows.index}
    usual = seeds.pop(usual_setting(tuning))
    rows["improvement"] = pd.Series({name: probability_of_improvement(one, usual) for name, one in seeds.items()})
    rows["p"] = pd.Series({name: min(mann_whitney(one, usual) * len(seeds), 1.0) for name, one in seeds.items()})
    return rows.rename_axis("candidate").sort_values("preference", ascending=False)


def _preferences(rows: pd.DataFrame, tuning: Tuning) -> list[float]:
    return [tuning.criterion.preference(*row) for row in rows[["natural", "worst_case"]].to_numpy()]


def usual_setting(tuning: Tuning) -> str:
    """:return: What the study's best are compared with: the paper's setting, of PPO its entry."""
    return PAPER if tuning.space else ENTRY
