"""
Whether agents trained with a warm start of the adversary are as good as those trained with cold searches.

    python benchmarks/warm_start.py --jobs 4

Trains BARPO both ways, on the demo's task with the demo's settings and on Hopper-v5 with the defaults, several seeds,
and attacks all. Each agent is stored when it is finished and found again, so a killed run goes on where it was. Writes,
for each task, ``<task>.csv`` (one row an episode), and ``table.md``.
"""

import argparse
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from sb3_barpo import demo
from sb3_barpo.evaluation import RobustnessReport
from sb3_barpo.experiment import Agent, Evaluation, run

#: Steps of later visits.
SEARCHES = {"cold": 0, "warm": 2}
COLUMNS = ["natural", "random", "critic", "mad", "worst_case"]


@dataclass(frozen=True)
class Task:
    """What is trained."""

    epsilon: float
    steps: int
    seeds: int
    n_envs: int = 1
    settings: dict[str, Any] = field(default_factory=dict)


TASKS = {
    demo.ENV: Task(demo.EPSILON, demo.STEPS, 6, demo.N_ENVS, demo.SETTINGS),
    "Hopper-v5": Task(0.075, 600_000, 3),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--jobs", type=int, default=1, help="number of processes")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "warm_start")
    args = parser.parse_args()

    tables = []
    for env in args.tasks:
        task = TASKS[env]
        strength = {"epsilon": f"ramp_{task.epsilon}"}
        agents = [
            Agent(
                f"barpo-{search}-seed{seed}",
                "barpo",
                env,
                seed,
                task.steps,
                task.n_envs,
                task.settings | strength | {"adversary": {"later_steps": later}},
                label=f"barpo-{search}",
            )
            for seed in range(task.seeds)
            for search, later in SEARCHES.items()
        ]
        evaluation = Evaluation([task.epsilon], n_eval_episodes=args.episodes)
        report = run(agents, evaluation, args.output / "agents" / env, args.jobs, progress_bar=True)
        report.to_csv(args.output / f"{env}.csv")
        tables.append(table(env, report, args.episodes))
    (args.output / "table.md").write_text("\n".join(tables), encoding="utf-8")
    print("\n".join(tables))


def table(env: str, report: RobustnessReport, episodes: int) -> str:
    task = TASKS[env]
    rows = report.summary()[COLUMNS]
    rows[["search", "seed"]] = report.origins
    rows["search"] = rows["search"].str.removeprefix("barpo-")
    rows = rows.sort_values(["search", "seed"])
    kinds = rows.drop(columns="seed").groupby("search")
    ends = pd.concat([kinds.mean().assign(seed="mean"), kinds.median().assign(seed="median")]).sort_index(kind="stable")
    shown = pd.concat([ends.reset_index(), rows])[["search", "seed", *COLUMNS]]
    shown[COLUMNS] = shown[COLUMNS].map("{:.0f}".format)
    align = ["left", *["right"] * (len(shown.columns) - 1)]
    return (
        f"{shown.rename(columns={'worst_case': 'worst case'}).to_markdown(index=False, colalign=align)}\n\n"
        f"BARPO on {env}, {task.steps:,} steps, ε = {task.epsilon:g} (`ramp_{task.epsilon:g}` in training), {episodes} "
        f"episodes. Cold: ten steps at every visit of a sample; warm: ten at the first, two "
        f"at later ones. {platform.machine()}, CPU, one torch thread for each agent.\n"
    )


if __name__ == "__main__":
    main()
