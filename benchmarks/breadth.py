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
sys.path += [str(HERE), str(HERE.parent / "examples")]  # for pendulums.py and pixels.py; processes inherit it


@dataclass(frozen=True)
class Task:
    """One environment, PPO's settings there, BARPO's strength, how far observations may be off, and what attacks."""

    env: str
    steps: int
    epsilons: list[float]
    settings: dict[str, Any]
    strength: dict[str, Any]
    normalize: bool = True
    memory: bool = False
    attacks: list[str] = field(default_factory=lambda: ["random", "critic", "mad", "paad"])


#: About what `tune` found on InvertedDoublePendulum-v5: see the tuned strength in docs/results.md.
TUNED = {"epsilon": "ramp_0.045_0.21_0.12", "kappa": 3.0}
TASKS = {
    "discrete": Task(
        "pendulums:Torques-v0",
        demo.STEPS,
        [0.0125, 0.025, 0.05],
        demo.SETTINGS,
        TUNED,
    ),
    "pixels": Task(
        "pixels:Catch-v0",
        60_000,
        [16.0],
        {"n_steps": 64, "batch_size": 128, "n_epochs": 4, "learning_rate": 5e-4},
        {"epsilon": "ramp_16.0"},
        normalize=False,
    ),
    "memory": Task(
        "pendulums:NoVelocity-v0",
        200_000,
        [0.025, 0.05],
        {
            "n_steps": 128,
            "batch_size": 256,
            "n_epochs": 5,
            "learning_rate": 1e-3,
            "policy_kwargs": {"lstm_hidden_size": 32, "enable_critic_lstm": True},
        },
        TUNED,
        memory=True,
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
        evaluation = Evaluation(task.epsilons, task.attacks, args.episodes)
        report = run(agents, evaluation, args.output / "agents" / name, args.jobs, progress_bar=True)
        report.to_csv(args.output / f"{name}.csv")
        tables.append(table(name, report, args.episodes))
    (args.output / "table.md").write_text("\n".join(tables), encoding="utf-8")
    print("\n".join(tables))


def table(name: str, report: RobustnessReport, episodes: int) -> str:
    task = TASKS[name]
    rows = pd.concat([report.summary(epsilon).assign(ε=epsilon) for epsilon in task.epsilons])
    numbers = [column for column in COLUMNS if column in rows]
    origins = report.origins.loc[rows.index]
    rows["algorithm"], rows["seed"] = origins["algorithm"].str.upper(), origins["train_seed"].astype(object)
    means = rows.groupby(["ε", "algorithm"])[numbers].mean().reset_index().assign(seed="mean")
    shown = pd.concat([rows, means]).sort_values(["ε", "algorithm", "seed"])[["ε", "algorithm", "seed", *numbers]]
    shown[numbers] = shown[numbers].map("{:.4g}".format)
    strength = ", ".join(f"`{key}={value!r}`" for key, value in task.strength.items())
    align = ["right" if column in numbers else "left" for column in shown.columns]
    text = shown.rename(columns={"worst_case": "worst case"}).to_markdown(index=False, colalign=align)
    return (
        f"**{name.capitalize()}**\n\n{text}\n\n"
        f"{task.env}, {task.steps:,} steps (BARPO: {strength}); mean return over {episodes} episodes. "
        f"{platform.machine()}, CPU, one torch thread for each agent.\n"
    )


if __name__ == "__main__":
    main()
