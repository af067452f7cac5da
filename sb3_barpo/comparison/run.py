"""`compare`: trains and attacks what is missing, in parallel processes, and reports on all that is there."""

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch as th
from joblib import Parallel, delayed
from stable_baselines3.common.callbacks import BaseCallback

from sb3_barpo import experiment
from sb3_barpo.comparison.pages import write_pages
from sb3_barpo.comparison.report import ComparisonReport
from sb3_barpo.comparison.settings import Comparison, Task
from sb3_barpo.evaluation import RobustnessReport
from sb3_barpo.evaluation.judged import circumstances
from sb3_barpo.evaluation.progress import Progress, Tell
from sb3_barpo.evaluation.rows import NATURAL
from sb3_barpo.experiment import Agent, Evaluation, Trained, recorded
from sb3_barpo.figures import display, number
from sb3_barpo.resume import check_writable, read_record, replacing, write_record
from sb3_barpo.seeds import REPORT


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
        as ``{"algo": "barpo", "label": "BARPO, κ 0", "kappa": 0.0}``. Settings come from the packaged entries.
    :param env: Ids of the environments, ``My-v0`` or ``mymod:My-v0``.
    :param seeds: Seeds of training.
    :param steps: Steps of training for each agent, for all tasks or by environment; by default the entry's.
    :param n_envs: Number of environments of training that step together; by default the entry's.
    :param hyperparams: Settings of all algorithms in place of the entry's. A setting that only some of them know goes
        to those.
    :param agents: Trained agents to be attacked beside them, as mappings: ``label``, ``path`` (one or several, one for
        each seed), ``env``, and what :class:`sb3_barpo.experiment.Trained` takes.
    :param epsilon: The strength that is to be withstood, for all tasks or by environment: that of all attacks, and of
        training at its end. By default the entry's.
    :param attacks: Names of the attacks.
    :param budget: How hard to search for attacks that are learned.
    :param n_eval_episodes: Episodes for each attack.
    :param eval_seed: Seed of the first episode.
    :param gym_packages: Modules to import, which register environments.
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
    )
    output = Path(output)
    check_writable(output)
    shelves = [Shelf(task, output / task.folder, any_settings=report_only) for task in settings.tasks()]
    failed: list[str] = []
    if not report_only:
        _check(shelves)
        write_record_in(output / "settings.json", settings.to_dict())
        failed = _work(shelves, n_jobs, progress_bar)
    stored = {shelf.task.env: one for shelf in shelves if (one := shelf.report()) is not None}
    if not stored:
        what = failed[0] if failed else "Nothing is finished yet"
        raise (FailedAgentsError if failed else ValueError)(f"There is nothing to report on: {what}.")
    missing = [line for shelf in shelves for line in _in_words(shelf)]
    labels = list(dict.fromkeys(label for shelf in shelves for label in shelf.task.labels))
    report = ComparisonReport(stored, labels, missing, circumstances(command))
    report.left_out = {shelf.task.env: names for shelf in shelves if (names := shelf.left_out())}
    write_record_in(output / "settings.json", settings.to_dict())  # those of the report
    write_pages(report, output)
    if failed:
        raise FailedAgentsError(f"{len(failed)} of the agents failed; the report is without them. " + "\n".join(failed))
    return report


def _check(shelves: Sequence["Shelf"]) -> None:
    """Build an agent of each kind: settings that do not fit should not wait for hours."""
    kinds = {(shelf.task.env, agent.label): agent for shelf in shelves for agent in shelf.missing()}
    for agent in kinds.values():
        if isinstance(agent, Agent):
            model = experiment.make_model(agent)
            assert model.env is not None  # for mypy: it was made with environments
            model.env.close()


def _in_words(shelf: "Shelf") -> list[str]:
    """Which agents are not finished."""
    missing: dict[str, list[str]] = {}
    for agent in shelf.missing():
        missing.setdefault(agent.label, []).append(str(agent.seed) if isinstance(agent, Agent) else agent.name)
    return [f"{label} on {shelf.task.env} ({', '.join(which)})" for label, which in missing.items()]


def write_record_in(path: Path, content: Any) -> None:
    """:func:`sb3_barpo.resume.write_record`, with the folders above."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_record(path, content)


class Shelf:
    """
    Where a task's rows are stored: with each agent, and all together in ``rows.csv``, which is enough for a report.

    :param task: The task.
    :param folder: Its folder.
    :param any_settings: Whether rows count that were made with other settings of training, or attacks.
    """

    def __init__(self, task: Task, folder: Path, any_settings: bool) -> None:
        self.task = task
        self.root = folder / "agents"
        self._rows, self._record = folder / "rows.csv", folder / "rows.json"
        self._any = any_settings
        self._kept = self._read()
        self._found: dict[str, RobustnessReport] = {}

    def missing(self) -> list[Agent | Trained]:
        """The agents that are not finished."""
        return [agent for agent in self.task.agents if self._one(agent) is None]

    def report(self) -> RobustnessReport | None:
        """The report on those that are; ``None`` if none is."""
        found = [report for agent in self.task.agents if (report := self._one(agent)) is not None]
        return RobustnessReport.merge(_comparable(found)) if found else None

    def left_out(self) -> list[str]:
        """Attacks that not all agents went through."""
        found = [report.attacks for agent in self.task.agents if (report := self._one(agent)) is not None]
        return sorted({attack for one in found for attack in one if not all(attack in other for other in found)})

    def add(self) -> None:
        """Write the rows of all that is finished, and keep those of agents that this comparison does not name."""
        mine = {agent.name: agent for agent in self.task.agents if self._one(agent) is not None}
        rows = [one for agent in mine.values() if (one := self._one(agent)) is not None]
        records = {name: asdict(agent) for name, agent in mine.items()}
        judged = {name: one.judged["agents"].get(name, {}) for name, one in zip(mine, rows, strict=True)}
        for name, (record, report) in self._kept.items():
            if name not in mine and self._is_comparable():
                rows.append(report)
                records[name], judged[name] = record, report.judged["agents"].get(name, {})
        with replacing(self._rows) as partial:
            pd.concat([one.to_frame() for one in rows]).to_csv(partial, index=False)
        evaluation = asdict(self._evaluation)
        write_record(self._record, {"evaluation": evaluation, "agents": records, "judged": judged})

    def found(self, agent: Agent | Trained) -> str:
        """In a few words, what is stored of an agent."""
        report = self._one(agent)
        assert report is not None  # for mypy: it is asked for what was just added
        worst = display(str(report.summary()["worst_attack"].iloc[0]))
        return f"natural {number(report.natural)}, worst case {number(report.worst_case)} ({worst})"

    @property
    def _evaluation(self) -> Evaluation:
        return self.task.evaluation.on(REPORT)

    def _is_comparable(self) -> bool:
        record = read_record(self._record)
        return record is not None and recorded(Evaluation, record["evaluation"]) == self._evaluation

    def _read(self) -> dict[str, tuple[dict[str, Any], RobustnessReport]]:
        record = read_record(self._record)
        if record is None or not (self._any or self._is_comparable()):
            return {}
        frame = pd.read_csv(self._rows, dtype=str, keep_default_na=False)  # as reports read theirs
        return {
            str(name): (
                record["agents"][name],
                RobustnessReport(rows, {"agents": {str(name): record["judged"][name]}}),
            )
            for name, rows in frame.groupby("agent", sort=False)
        }

    def _one(self, agent: Agent | Trained) -> RobustnessReport | None:
        if agent.name not in self._found:
            report = experiment.attacked(agent, self._evaluation, self.root)
            if report is None and agent.name in self._kept:
                record, kept = self._kept[agent.name]
                report = kept if self._any or _same(agent, recorded(type(agent), record)) else None
            if report is None:
                return None
            self._found[agent.name] = _labelled(report, agent.label)
        return self._found[agent.name]


def _comparable(reports: Sequence[RobustnessReport]) -> list[RobustnessReport]:
    """The same reports without attacks that some lack: ``"auto"`` takes those that suit a victim."""
    shared = {NATURAL}.union(set.intersection(*(set(one.attacks) for one in reports)))
    frames = [one.to_frame() for one in reports]
    return [
        RobustnessReport(frame[frame["attack"].isin(shared)], one.judged)
        for frame, one in zip(frames, reports, strict=True)
    ]


def _same(agent: Agent | Trained, other: Any) -> bool:
    """An agent whose file is not there is the one whose rows are."""
    if isinstance(agent, Trained) and isinstance(other, Trained) and not agent.digest:
        return replace(other, digest="") == agent
    return bool(agent == other)


def _labelled(report: RobustnessReport, label: str) -> RobustnessReport:
    """With the label of today: that of the rows may be an older one."""
    return RobustnessReport(report.to_frame().assign(algorithm=label), report.judged)


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
