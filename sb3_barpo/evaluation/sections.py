"""Parts of an evaluation's page beside the attacks: which sensor must be good, and robustness across channels."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import torch as th
from joblib import Parallel, delayed

from sb3_barpo.agents.load import LoadedAgent
from sb3_barpo.agents.pack import pack, unpack
from sb3_barpo.evaluation.channel_report import ChannelReport
from sb3_barpo.evaluation.channels import evaluate_channels
from sb3_barpo.evaluation.pages import Block, file_name
from sb3_barpo.evaluation.progress import Progress
from sb3_barpo.evaluation.ranking import SensorRanking, rank_sensors
from sb3_barpo.evaluation.settings import EvalConfig
from sb3_barpo.figures import counted, number
from sb3_barpo.sensors import Sensors

T = TypeVar("T")


def sensor_blocks(
    agents: Sequence[LoadedAgent],
    sheet: Sensors,
    strengths: Sequence[float],
    config: EvalConfig,
    output: Path,
    n_jobs: int = 1,
    progress_bar: bool = False,
) -> list[Block]:
    """
    Rank the sensors of each agent, and write ``sensors-<agent>.csv`` and ``sensors-<agent>.png``.

    :param agents: The agents.
    :param sheet: The spec sheet.
    :param strengths: Shares of the sheet.
    :param config: Which episodes are run.
    :param output: Folder to write to.
    :param n_jobs: Number of processes.
    :param progress_bar: Whether to show the progress.
    :return: What the page says of it.
    """
    strengths = [share for share in strengths if share > 0]
    if not strengths:
        return []
    blocks = [Block("heading", "Which sensor must be good"), Block("text", _RANKED.format(sheet=sheet))]
    rankings = _parallel("sensors", agents, _ranked, (sheet, strengths, config), n_jobs, progress_bar)
    for agent, ranking in zip(agents, rankings, strict=True):
        stem = f"sensors-{file_name(agent.name)}"
        ranking.frame.to_csv(output / f"{stem}.csv", index=False)
        ranking.plot().savefig(output / f"{stem}.png")
        blocks += [
            Block("picture", f"Sensors of {agent.name}", f"{stem}.png"),
            Block("text", f"{agent.name}, mean returns; {number(ranking.natural)} with perfect sensors."),
            Block("table", ranking.to_markdown),
            Block("text", _TOLERATED),
            Block("table", partial(_tolerated, ranking)),
        ]
    return blocks


def channel_blocks(
    agents: Sequence[LoadedAgent], config: EvalConfig, output: Path, n_jobs: int = 1, progress_bar: bool = False
) -> list[Block]:
    """
    Evaluate all agents across channels, and write ``channels.csv`` and ``channels.png``.

    :param agents: The agents.
    :param config: Which episodes are run.
    :param output: Folder to write to.
    :param n_jobs: Number of processes.
    :param progress_bar: Whether to show the progress.
    :return: What the page says of it.
    """
    found = _parallel("channels", agents, _across, (config,), n_jobs, progress_bar)
    report = ChannelReport({agent.name: frame for agent, frame in zip(agents, found, strict=True)}, _groups(agents))
    report.frame.to_csv(output / "channels.csv", index=False)
    report.plot().savefig(output / "channels.png")
    return [
        Block("heading", "Across channels"),
        Block("text", f"{_CHANNELS} {counted(config.n_eval_episodes)} each, the same for all."),
        Block("picture", "Return across channels", "channels.png"),
        Block("table", report.to_markdown),
    ]


def _groups(agents: Sequence[LoadedAgent]) -> dict[str, str]:
    """By agent its algorithm, where agents of one algorithm differ in their seeds; else its own name."""
    kinds = {agent.name: type(agent.model).__name__ for agent in agents}
    seeds = {(kinds[agent.name], agent.model.seed) for agent in agents if agent.model.seed is not None}
    return kinds if len(seeds) == len(agents) else {name: name for name in kinds}


def _parallel(
    what: str,
    agents: Sequence[LoadedAgent],
    work: Callable[..., T],
    arguments: tuple[Any, ...],
    n_jobs: int,
    progress_bar: bool,
) -> list[T]:
    """``work`` on each agent."""

    def results() -> Iterator[T]:
        waiting = (delayed(work)(pack(agent.model, agent.venv), *arguments) for agent in agents)
        with Progress(what, len(agents), 0, "agent", progress_bar, n_jobs) as progress:
            for agent, result in zip(agents, Parallel(n_jobs, return_as="generator")(waiting), strict=True):
                progress.finished(f"{what} of {agent.name}")
                yield result

    return list(results())


def _ranked(content: bytes, sheet: Sensors, strengths: Sequence[float], config: EvalConfig) -> SensorRanking:
    th.set_num_threads(1)  # processes share the cores
    model, venv = unpack(content)
    return rank_sensors(
        model, venv, sheet, strengths, config.n_eval_episodes, config.seed, deterministic=config.deterministic
    )


def _across(content: bytes, config: EvalConfig) -> pd.DataFrame:
    th.set_num_threads(1)  # processes share the cores
    model, venv = unpack(content)
    return evaluate_channels(
        model,
        venv,
        n_eval_episodes=config.n_eval_episodes,
        seed=config.seed,
        deterministic=config.deterministic,
    )


def _tolerated(ranking: SensorRanking, tablefmt: str) -> str:
    table: str = ranking.tolerated().to_markdown(index=False, tablefmt=tablefmt, floatfmt=".3g")
    return table


_RANKED = (
    "An adversary moves the reading of one sensor within its bound, one sensor after the other, then those of all; "
    "last, the sheet's random faults, which are not bounded. × 1 is the sheet: {sheet}."
)
_TOLERATED = "The largest errors that were tried and cost no more than a tenth of the return, up to the first that did:"
_CHANNELS = (
    "One thing at a time is disturbed, and by no adversary: noise and drift of all values, delay, readings that are "
    "held or lost, noise of the actions, mass and friction. The last row is the share of the natural return that is "
    "left at the worst size of a channel, on average over the channels."
)
