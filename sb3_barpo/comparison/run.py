"""`compare`: trains and attacks what is missing, in parallel processes, and reports on all that is there."""

import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch as th
from joblib import Parallel, delayed
from stable_baselines3.common.callbacks import BaseCallback

from sb3_barpo import experiment
from sb3_barpo.comparison.pages import write_pages
from sb3_barpo.comparison.report import ComparisonReport
from sb3_barpo.comparison.settings import Comparison, to_file
from sb3_barpo.comparison.shelf import Shelf
from sb3_barpo.evaluation.judged import circumstances
from sb3_barpo.evaluation.progress import Progress, Tell
from sb3_barpo.experiment import Agent, Evaluation, Trained
from sb3_barpo.resume import check_writable
from sb3_barpo.seeds import REPORT
from sb3_barpo.sensors import SensorsLike


class FailedAgentsError(RuntimeError):
    """Some agents could not be trained or attacked. The others are stored and in the report."""


def compare(
    algorithms: Sequence[str | Mapping[str, Any]] = (),
    env: str | Sequence[str] = (),
    seeds: Sequence[int] = (0, 1, 2),
    steps: int | Mapping[str, int] | None = None,
    n_envs: int | None = None,
    hyperparams: Mapping[str, Any] | None = None,
    agents: Sequence[Mapping[str, Any]] = (),
    epsilon: float | Mapping[str, float] | None = None,
    attacks: Sequence[str] = ("all",),
    budget: str = "standard",
    n_eval_episodes: int = 50,
    eval_seed: int = REPORT.start,
    gym_packages: Sequence[str] = (),
    sensors: SensorsLike | None = None,
    *,
    output: str | Path = "comparison",
    n_jobs: int = 1,
    report_only: bool = False,
    progress_bar: bool = False,
    command: str = "",
) -> ComparisonReport:
    """
    Train several algorithms on several tasks with several seeds, attack all agents in the same way, and report:
    interquartile means over the seeds with bootstrap intervals, probabilities of improvement, performance profiles,
    natural against worst-case return, every seed.

    Rows are stored as they come. Call it again with the same arguments to resume; what is finished is reused. In a
    script with several processes, call this below ``if __name__ == "__main__":``.

    :param algorithms: Names of algorithms, or variants of them as mappings: ``algo``, ``label`` and own settings, such
        as ``{"algo": "barpo", "label": "BARPO, κ 0", "kappa": 0.0}``. Settings come from the packaged entries. A
        setting may be a mapping from environments to values, such as ``"margin": {"Hopper-v5": 1.5}``; the other tasks
        keep the entry's.
    :param env: Ids of the environments, ``My-v0`` or ``mymod:My-v0``.
    :param seeds: Seeds of training.
    :param steps: Steps of training for each agent, for all tasks or by environment; by default the entry's.
    :param n_envs: Number of environments of training that step together; by default the entry's.
    :param hyperparams: Settings of all algorithms in place of the entry's. A setting that only some of them know goes
        to those. By environment, as above.
    :param agents: Trained agents to be attacked beside them, as mappings: ``label``, ``path`` (one or several, one for
        each seed), ``env``, and what :class:`sb3_barpo.experiment.Trained` takes.
    :param epsilon: The strength that is to be withstood, for all tasks or by environment: that of all attacks, and of
        training at its end. By default the entry's.
    :param attacks: Names of the attacks.
    :param budget: How hard to search for attacks that are learned.
    :param n_eval_episodes: Episodes for each attack.
    :param eval_seed: Seed of the first episode.
    :param gym_packages: Modules to import, which register environments.
    :param sensors: A spec sheet, its YAML file, or it as plain data: robust algorithms train within it, and all agents
        are attacked within it. ``epsilon`` then is a share of the sheet, by default 1.
    :param output: Folder to write to: ``report.md`` with its pictures, ``agents.csv``, ``algorithms.csv``,
        ``tables.tex``, ``settings.json``, and for each task a folder with ``rows.csv`` and the agents.
    :param n_jobs: Number of processes.
    :param report_only: Train and attack nothing: report on what is stored.
    :param progress_bar: Whether to show the progress.
    :param command: The command line, to be written down.
    :return: The report.
    :raises ValueError: for invalid settings, or if there is nothing to report on.
    :raises OSError: if the folder cannot be written.
    :raises FailedAgentsError: if agents could not be trained or attacked; once the report on the others is written.
    """
    settings = Comparison(
        algorithms=algorithms,
        env=env,
        seeds=seeds,
        steps=steps,
        n_envs=n_envs,
        hyperparams=hyperparams or {},
        agents=agents,
        epsilon=epsilon,
        attacks=attacks,
        budget=budget,
        n_eval_episodes=n_eval_episodes,
        eval_seed=eval_seed,
        gym_packages=gym_packages,
        sensors=sensors,
    )
    output = Path(output)
    check_writable(output)
    shelves = [Shelf(task, output / task.folder, any_settings=report_only) for task in settings.tasks()]
    failed: list[str] = []
    if not report_only:
        _check(shelves)
        to_file(settings, output / "settings.json")
        failed = _work(shelves, n_jobs, progress_bar)
    stored = {shelf.task.env: one for shelf in shelves if (one := shelf.report()) is not None}
    if not stored:
        what = failed[0] if failed else "Nothing is finished yet"
        raise (FailedAgentsError if failed else ValueError)(f"There is nothing to report on: {what}.")
    missing = [line for shelf in shelves for line in _in_words(shelf)]
    labels = list(dict.fromkeys(label for shelf in shelves for label in shelf.task.labels))
    report = ComparisonReport(stored, labels, missing, circumstances(command))
    report.left_out = {shelf.task.env: names for shelf in shelves if (names := shelf.left_out())}
    to_file(settings, output / "settings.json")  # those of the report
    write_pages(report, output)
    if failed:
        raise FailedAgentsError(f"{len(failed)} of the agents failed; the report is without them. " + "\n".join(failed))
    return report


def _check(shelves: Sequence[Shelf]) -> None:
    """Build an agent of each kind: settings that do not fit should not wait for hours."""
    kinds = {(shelf.task.env, agent.label): agent for shelf in shelves for agent in shelf.missing()}
    for agent in kinds.values():
        if isinstance(agent, Agent):
            model = experiment.make_model(agent)
            assert model.env is not None  # for mypy: it was made with environments
            model.env.close()


def _in_words(shelf: Shelf) -> list[str]:
    """Which agents are not finished."""
    missing: dict[str, list[str]] = {}
    for agent in shelf.missing():
        missing.setdefault(agent.label, []).append(str(agent.seed) if isinstance(agent, Agent) else agent.name)
    return [f"{label} on {shelf.task.env} ({', '.join(which)})" for label, which in missing.items()]


def _work(shelves: Sequence[Shelf], n_jobs: int, progress_bar: bool) -> list[str]:
    """Train and attack what is missing. :return: What failed, in words."""
    jobs = [(shelf, agent) for shelf in shelves for agent in shelf.missing()]
    # By seeds, so that what is finished can be compared.
    jobs.sort(key=lambda job: job[1].seed if isinstance(job[1], Agent) else -1)
    steps = sum(agent.steps for _, agent in jobs if isinstance(agent, Agent))
    failed = []
    for shelf in shelves:
        shelf.root.mkdir(parents=True, exist_ok=True)
        if shelf.report() is not None:
            shelf.add()
    with Progress("agents", len(jobs), steps, "step", progress_bar, n_jobs) as progress:
        work = (
            delayed(_train_and_attack)(i, agent, shelf.task.evaluation, shelf.root, progress.tell)
            for i, (shelf, agent) in enumerate(jobs)
        )
        for i, error in Parallel(n_jobs, return_as="generator_unordered")(work):
            shelf, agent = jobs[i]
            label = f"{agent.name} on {shelf.task.env}"
            if error:
                failed.append(f"{label}: {error.strip().splitlines()[-1]}")
                (shelf.root / f"{agent.name}.error.txt").write_text(error, encoding="utf-8")
                progress.finished(f"failed: {failed[-1]}")
            else:
                shelf.add()
                progress.finished(f"{label}: {shelf.found(agent)}")
    return failed


def _train_and_attack(
    index: int, agent: Agent | Trained, evaluation: Evaluation, root: Path, tell: Tell
) -> tuple[int, str]:
    """:return: The index, and the traceback of an error that stops this agent, but not the others."""
    th.set_num_threads(1)  # processes share the cores; more threads slow small networks down
    try:
        if isinstance(agent, Agent):
            experiment.train(agent, root, _Steps(tell))
        tell(0)
        experiment.attack(agent, evaluation, root)
    except Exception:
        return index, traceback.format_exc()
    return index, ""


class _Steps(BaseCallback):
    """Tells of the steps of each rollout."""

    def __init__(self, tell: Tell) -> None:
        super().__init__()
        self._tell = tell
        self._told = 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self._tell(self.num_timesteps - self._told)
        self._told = self.num_timesteps
