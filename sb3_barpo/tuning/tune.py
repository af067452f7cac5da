"""Whole studies: trials, confirmation of the best, results."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
import pandas as pd

from sb3_barpo.algorithms import OURS, find
from sb3_barpo.environments import find_env
from sb3_barpo.experiment import Agent, make_model
from sb3_barpo.expressions import read_kwargs
from sb3_barpo.figures import number
from sb3_barpo.hyperparams import entry
from sb3_barpo.resume import check_writable
from sb3_barpo.schedules import as_schedule
from sb3_barpo.sensors import EPSILON_OF_SHEET, as_sensors
from sb3_barpo.tuning.confirm import (
    ENTRY,
    PAPER,
    Confirmation,
    by_candidate,
    candidate,
    confirm,
    ranked,
    strengths,
    usual_setting,
)
from sb3_barpo.tuning.results import confirmed_markdown, plain, script, write_study, zoo_entry
from sb3_barpo.tuning.spaces import own_settings
from sb3_barpo.tuning.study import load_study, state_name, stored_tuning
from sb3_barpo.tuning.trials import Tuning
from sb3_barpo.tuning.workers import run_trials
from sb3_barpo.zoo.settings import check_settings

#: A difference of candidates with a lower p is called more than chance.
_LEVEL = 0.05


@dataclass(frozen=True)
class TuningResult:
    """
    What a study found.

    :param study: The study.
    :param best: The name of the best candidate, ``paper`` (``entry`` for PPO) or ``trial-<number>``; without
        confirmation it has been judged by the seeds of its trial, one by default.
    :param strength: Its arguments for the algorithm.
    :param confirmed: One row a candidate, see :func:`sb3_barpo.tuning.confirm.by_candidate`; ``None`` without
        confirmation.
    """

    study: optuna.Study
    best: str
    strength: dict[str, Any] = field(repr=False)
    confirmed: pd.DataFrame | None = field(repr=False)


def tune_strength(
    tuning: Tuning,
    output: str | Path = "tuning",
    n_trials: int = 40,
    n_jobs: int = 1,
    storage: str | Path | None = None,
    study_name: str = "strength",
    confirmation: Confirmation | None = None,
    seed: int | None = None,
    progress_bar: bool = False,
) -> TuningResult:
    """
    Search for the settings of a defence that suit a task, the schedule of its strength above all, or for PPO's own. The
    best are confirmed on fresh seeds, under stronger attacks. Finished work is reused: call it again to resume a killed
    search, or to add trials.

    Writes ``trials.csv``, ``confirmed.csv`` (the report's rows), ``best.yml`` (an entry for RL Zoo), ``best.py``,
    pictures, ``report.md``, and the confirmed agents under ``agents``.

    :param tuning: What trials do.
    :param output: Folder to write to.
    :param n_trials: Number of finished trials of the study; with 0 an existing study is only reported on.
    :param n_jobs: Number of processes. In a script with several, call this below ``if __name__ == "__main__":``.
    :param storage: Where the study lives, see :func:`sb3_barpo.tuning.storage.open_storage`; by default a journal in
        the output folder.
    :param study_name: The study's name.
    :param confirmation: How winners are confirmed.
    :param seed: Seed of the sampler.
    :param progress_bar: Whether to show the progress.
    :return: What was found.
    :raises ValueError: for invalid settings, settings that differ from the study's, or a study that does not exist.
    :raises OSError: if the output folder cannot be written.
    :raises ConnectionError: if the storage cannot be reached.
    :raises sb3_barpo.tuning.TuningError: if trials keep failing, or workers keep being killed.
    """
    if n_trials < 0 or n_jobs < 1:
        raise ValueError(f"A study has at least 0 trials and 1 process, but n_trials is {n_trials}, n_jobs {n_jobs}.")
    confirmation = Confirmation() if confirmation is None else confirmation
    output = Path(output)
    check_writable(output)
    storage = output / "study.log" if storage is None else storage
    if n_trials == 0:
        study = load_study(storage, study_name)
        tuning = stored_tuning(study)
    else:
        if tuning.adapt_steps is not None and tuning.attackers is None:
            tuning = replace(tuning, attackers=str(output.absolute() / "attackers"))
        _check(tuning)
        study = run_trials(tuning, storage, study_name, n_trials, n_jobs, seed, progress_bar)
    first = ranked(study, tuning)[0]
    candidates = strengths(study, tuning, confirmation.top)
    if confirmation.top == 0:
        candidates[candidate(first)] = tuning.suggest(first)
    confirmed, best = None, candidate(first)
    pictures = write_study(study, tuning, candidates, output)
    if confirmation.top > 0:
        report = confirm(study, tuning, confirmation, output / "agents", n_jobs, progress_bar)
        report.to_csv(output / "confirmed.csv")
        confirmed = by_candidate(report, tuning)
        best = str(confirmed.index[0])
    result = TuningResult(study, best, plain(candidates[best], tuning.agent.algo), confirmed)
    (output / "best.yml").write_text(zoo_entry(tuning.agent, result.strength), encoding="utf-8")
    (output / "best.py").write_text(script(tuning.agent, result.strength), encoding="utf-8")
    (output / "report.md").write_text(_markdown(result, tuning, confirmation, pictures), encoding="utf-8")
    return result


def task(algo: str, env: str, **changes: Any) -> tuple[Agent, float]:
    """
    The settings of this package for a task.

    :param algo: Name of an algorithm of this package, ``"barpo"`` or ``"carppo_lstm"`` for example, or of PPO.
    :param env: Id of the environment, ``My-v0`` or ``mymod:My-v0``; one without an entry takes the default one.
    :param changes: Arguments of :class:`sb3_barpo.experiment.Agent` that replace the entry's; ``kwargs`` are added to
        the entry's, and take all keys that an entry of the RL Zoo has.
    :return: The agent without a strength, and the entry's strength at the end of training; 1 with ``sensors``. For PPO,
        that of the algorithms that build on it.
    :raises ValueError: for an unknown algorithm, environment or setting.
    """
    searched_names = own_settings(algo)
    given = {key: value for key, value in changes.items() if value is not None}
    own = dict(given.pop("kwargs", {}))
    check_settings(algo, own)
    if searched := [name for name in ("epsilon", "margin", "adversary", *searched_names) if name in own]:
        raise ValueError(
            f"{', '.join(searched)} cannot be set in a study, which searches for it. Set the strength to be robust "
            "against, or the ranges of the search, the same number twice for one that stays."
        )
    name = find_env(env, given.get("gym_packages", ()))
    robust = algo if algo in OURS else next(row.name for row in OURS.values() if row.base == algo)
    usual, strength, sheet = entry(algo, name), entry(robust, name)["epsilon"], own.get("sensors")
    epsilon = as_schedule(strength if sheet is None else EPSILON_OF_SHEET)(0.0)
    if sheet is not None:
        own["sensors"] = as_sensors(sheet).spec()  # what a study stores must not change with a file
    for setting in ("policy", "epsilon", "margin", *searched_names):
        _drop(usual, setting)
    kwargs = usual | own
    settings = {
        "steps": int(kwargs.pop("n_timesteps")),
        "n_envs": kwargs.pop("n_envs", 1),
        "normalize": kwargs.pop("normalize"),
    }
    return Agent(algo, algo, env, **{"seed": 0, **settings, **given, "kwargs": kwargs}), epsilon


def _drop(kwargs: dict[str, Any], name: str) -> None:
    """Take a setting out of an entry; a dot leads into an argument that holds others."""
    outer, _, inner = name.partition(".")
    held = kwargs.pop(outer, None)
    if inner and held and (rest := {key: value for key, value in read_kwargs(held).items() if key != inner}):
        kwargs[outer] = rest


def _check(tuning: Tuning) -> None:
    """Build one agent: settings that do not fit should not wait for the first trial, nor look like a failed one."""
    model = make_model(tuning.trained_with(tuning.paper, "check", tuning.agent.seed))
    assert model.env is not None  # for mypy: it was made with environments
    model.env.close()


def _markdown(result: TuningResult, tuning: Tuning, confirmation: Confirmation, pictures: list[str]) -> str:
    states = pd.Series([state_name(trial) for trial in result.study.get_trials(deepcopy=False)]).value_counts()
    trials = ", ".join(f"{count} {state}" for state, count in states.items())
    criterion = ", ".join(f"{key} {value}" for key, value in tuning.criterion.to_spec().items())
    if result.confirmed is None:
        verdict = (
            f"The best trial is {result.best}. It was judged by {tuning.judges} and not confirmed, which says little."
        )
    else:
        verdict = (
            f"{_verdict(result)}\n\n{confirmed_markdown(result.confirmed)}\n\nMeans over fresh seeds of "
            f"training, {confirmation.n_seeds} each, and over {confirmation.n_eval_episodes} episodes for each attack "
            f"at ε = {tuning.epsilon:g}"
            + (f"; learned attacks by the budget `{confirmation.budget}`." if confirmation.learns else ".")
            + f" The last two columns compare seeds with those of {usual_setting(tuning)}, by the criterion: the "
            "probability that one is better, and p of Mann and Whitney's two-sided test, corrected for the number of "
            "candidates."
        )
    settings = "\n".join(f"    {line}" for line in zoo_entry(tuning.agent, result.strength).splitlines())
    images = "\n\n".join(f"![{name}]({name})" for name in pictures)
    return f"""# {find(tuning.agent.algo).class_name}, tuned on {tuning.agent.env}

{tuning.agent.steps} steps for each agent, {tuning.judges} a trial; {trials}; criterion: {criterion}.

{verdict}

{settings}

{images}
"""


def _verdict(result: TuningResult) -> str:
    """The best candidate beside the usual setting, and whether the difference may be chance."""
    assert result.confirmed is not None  # for mypy: the caller has looked
    said = {
        name: f"natural return {number(natural)} and worst case {number(worst_case)}"
        for name, natural, worst_case in result.confirmed[["natural", "worst_case"]].itertuples()
    }
    usual, its_name = (PAPER, "the paper's setting") if PAPER in said else (ENTRY, "the entry's setting")
    if result.best == usual:
        return (
            f"Confirmed on fresh seeds, none of the study's best trials is better than {its_name}, which has "
            f"{said[usual]}."
        )
    improvement, p = result.confirmed.loc[[result.best], ["improvement", "p"]].to_numpy()[0]
    return (
        f"Confirmed on fresh seeds, {result.best} has {said[result.best]}; {its_name} has {said[usual]}. Of one seed "
        f"of each, that of {result.best} is the better with probability {improvement:.2f} (p = {p:.2g}). "
        + ("That is more than chance." if p < _LEVEL else "Chance alone may do that: confirm on more seeds.")
    )
