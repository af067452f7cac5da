"""Where the rows of a comparison are stored, and what of them is found again."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from sb3_barpo import experiment
from sb3_barpo.comparison.settings import Task
from sb3_barpo.evaluation import RobustnessReport
from sb3_barpo.evaluation.rows import NATURAL
from sb3_barpo.experiment import Agent, Evaluation, Trained, recorded
from sb3_barpo.figures import display, number
from sb3_barpo.resume import read_record, replacing, write_record
from sb3_barpo.seeds import REPORT


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
