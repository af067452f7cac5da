"""
Does a faster update train agents as good? BARPO on two tasks, five seeds, to be run by two versions of the package.

    make bench BENCH=as_good BENCH_ARGS="--output benchmarks/as_good/after"

Rows are ``<output>/<task>.csv``, one an episode. A run that was killed is resumed by the same command. ``table.md``
beside the output folder compares all folders that lie there.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from sb3_barpo.evaluation import RobustnessReport
from sb3_barpo.evaluation.statistics import interquartile_mean
from sb3_barpo.experiment import Agent, Evaluation, run

#: Settings of PPO with which both tasks learn, and the strength of training and evaluation.
TASKS = {
    "InvertedDoublePendulum-v5": (
        200_000,
        0.05,
        {
            "n_steps": 256,
            "batch_size": 256,
            "learning_rate": "lin_0.001",
            "epsilon": "ramp_0.045_0.21_0.12",
            "kappa": 3.0,
        },
    ),
    "Hopper-v5": (
        500_000,
        0.075,
        {
            "n_steps": 256,
            "batch_size": 256,
            "learning_rate": "lin_0.001",
            "max_grad_norm": 10.0,
            "policy_kwargs": {"log_std_init": -1.0},
            "epsilon": "ramp_0.075",
        },
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/as_good/after"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    for env, (steps, epsilon, kwargs) in TASKS.items():
        agents = [
            Agent(f"barpo-seed{seed}", "barpo", env, seed, steps, n_envs=8, kwargs=kwargs) for seed in range(args.seeds)
        ]
        evaluation = Evaluation([epsilon], ["random", "critic", "mad", "paad"], n_eval_episodes=20)
        report = run(agents, evaluation, args.output / "agents" / env, args.jobs)
        report.to_csv(args.output / f"{env}.csv")
        print(f"{env}\n{report.to_markdown()}\n{report.verdict()}\n", flush=True)
    compared = table(args.output.parent)
    (args.output.parent / "table.md").write_text(compared + "\n", encoding="utf-8")
    print(compared)


def table(folder: Path) -> str:
    """One row for each version and task: returns of all seeds, rising, and their interquartile mean."""
    rows = []
    for env, (_, epsilon, _) in TASKS.items():
        for path in sorted(folder.glob(f"*/{env}.csv"), reverse=True):
            summary = RobustnessReport.from_csv(path).summary()
            row = {"task": f"{env}, ε = {epsilon:g}", "version": path.parent.name}
            for name, column in (("natural", "natural"), ("MAD", "mad"), ("PA-AD", "paad"), ("worst", "worst_case")):
                returns = summary[column].to_numpy()
                seeds = ", ".join(f"{one:.0f}" for one in np.sort(returns))
                row[name] = f"{interquartile_mean(returns):.0f} ({seeds})"
            rows.append(row)
    return str(pd.DataFrame(rows).to_markdown(index=False))


if __name__ == "__main__":
    main()
