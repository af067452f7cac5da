"""
Beyond vectors and continuous actions: PPO and BARPO on a task with discrete actions, on one with pixels and on one that
needs a memory.

    python benchmarks/breadth.py --jobs 4

Each agent is stored when it is finished and found again, so a killed run goes on where it was. Writes, for each task,
``<task>.csv`` (one row an episode), and ``table.md``.
"""

import argparse
import platform
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from sb3_barpo import demo
from sb3_barpo.evaluation import RobustnessReport
from sb3_barpo.experiment import Agent, Evaluation, run

HERE = Path(__file__).parent
sys.path += [str(HERE), str(HERE.parent / "examples")]  # for torques.py and pixels.py; processes inherit it


@dataclass(frozen=True)
class Task:
    """One environment, PPO's settings there, BARPO's strength, how far an observation may be off, and what attacks."""

    env: str
    steps: int
    epsilon: float
    settings: dict[str, Any]
    strength: dict[str, Any]
    normalize: bool = True
    memory: bool = False
    attacks: list[str] = field(default_factory=lambda: ["random", "critic", "mad"])


TASKS = {
    # The demo's task and settings, and about what `tune` found for it: see the tuned strength in docs/results.md.
    "discrete": Task(
        "torques:Torques-v0",
        demo.STEPS,
        0.025,
        demo.SETTINGS,
        {"epsilon": "ramp_0.0446_0.21_0.12_1.0", "kappa": 3.0},
        attacks=["all"],
    ),
    "pixels": Task(
        "pixels:Catch-v0",
        60_000,
        16.0,
        {"n_steps": 64, "batch_size": 128, "n_epochs": 4, "learning_rate": 5e-4},
        {"epsilon": "ramp_16"},
        normalize=False,
    ),
    "memory": Task(
        "rl_zoo3.import_envs:CartPoleNoVel-v1",
        100_000,
        0.2,
        {
            "n_steps": 128,
            "batch_size": 256,
            "gamma": 0.98,
            "learning_rate": "lin_0.002",
            "policy_kwargs": {"lstm_hidden_size": 32, "enable_critic_lstm": True},
        },
        {"epsilon": "ramp_0.2"},
        memory=True,
        attacks=["random", "critic", "mad", "paad"],
    ),
}
COLUMNS = ["natural", "random", "critic", "mad", "robust_sarsa", "sarl", "paad", "worst_case"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--jobs", type=int, default=1, help="number of processes")
    parser.add_argument("--output", type=Path, default=HERE / "breadth")
    args = parser.parse_args()

    tables = []
    for name in args.tasks:
        task = TASKS[name]
        suffix = "_lstm" if task.memory else ""
        agents = [
            Agent(f"{algo}-seed{seed}", algo, task.env, seed, task.steps, 8, task.settings | own, task.normalize)
            for seed in args.seeds
            for algo, own in (("barpo" + suffix, task.strength), ("ppo" + suffix, {}))
        ]
        evaluation = Evaluation([task.epsilon], task.attacks, args.episodes)
        report = run(agents, evaluation, args.output / "agents" / name, args.jobs, progress_bar=True)
        report.to_csv(args.output / f"{name}.csv")
        tables.append(table(task, report, args.episodes))
    (args.output / "table.md").write_text("\n".join(tables), encoding="utf-8")
    print("\n".join(tables))


def table(task: Task, report: RobustnessReport, episodes: int) -> str:
    rows = report.summary()
    rows = rows[[column for column in COLUMNS if column in rows]].astype(float)
    rows[["algorithm", "seed"]] = rows.index.to_series().str.split("-seed", expand=True)
    numbers = rows.columns[:-2]
    means = rows.groupby("algorithm")[list(numbers)].mean().reset_index().assign(seed="mean")
    shown = pd.concat([means, rows.sort_values(["algorithm", "seed"])])[["algorithm", "seed", *numbers]]
    shown["algorithm"] = shown["algorithm"].str.upper()
    shown[numbers] = shown[numbers].map("{:.4g}".format)
    strength = ", ".join(f"`{name}={value!r}`" for name, value in task.strength.items())
    align = ["left", *["right"] * (len(shown.columns) - 1)]
    return (
        f"{shown.rename(columns={'worst_case': 'worst case'}).to_markdown(index=False, colalign=align)}\n\n"
        f"{task.env}, {task.steps:,} steps, ε = {task.epsilon:g} (BARPO: {strength}); mean return over {episodes} "
        f"episodes. {platform.machine()}, CPU, one torch thread for each agent.\n"
    )


if __name__ == "__main__":
    main()
