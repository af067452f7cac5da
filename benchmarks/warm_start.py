"""
Whether agents trained with a warm start of the adversary are as good as those trained with cold searches.

    python benchmarks/warm_start.py --jobs 4

Trains BARPO both ways on the demo's task and settings, several seeds, and attacks all. Each agent is stored when it is
finished and found again, so a killed run goes on where it was. Writes ``episodes.csv`` (one row an episode) and
``table.md``.
"""

import argparse
import platform
from pathlib import Path

import pandas as pd

from sb3_barpo.demo import ENV, EPSILON, N_ENVS, SETTINGS, STEPS
from sb3_barpo.evaluation import RobustnessReport
from sb3_barpo.experiment import Agent, Evaluation, run

#: Steps of later visits.
SEARCHES = {"cold": 0, "warm": 2}
COLUMNS = ["natural", "random", "critic", "mad", "worst_case"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algo", default="barpo")
    parser.add_argument("--env", default=ENV)
    parser.add_argument("--epsilon", type=float, default=EPSILON)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5])
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=1, help="number of processes")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "warm_start")
    args = parser.parse_args()

    agents = [
        Agent(
            f"{args.algo}-{search}-seed{seed}",
            args.algo,
            args.env,
            seed,
            args.steps,
            N_ENVS,
            {**SETTINGS, "epsilon": f"ramp_{args.epsilon}", "adversary": {"later_steps": later}},
        )
        for seed in args.seeds
        for search, later in SEARCHES.items()
    ]
    evaluation = Evaluation([args.epsilon], n_eval_episodes=args.episodes)
    report = run(agents, evaluation, args.output / "agents", args.jobs, progress_bar=True)
    report.to_csv(args.output / "episodes.csv")
    (args.output / "table.md").write_text(table(report, args), encoding="utf-8")
    print(table(report, args))


def table(report: RobustnessReport, args: argparse.Namespace) -> str:
    rows = report.summary()[COLUMNS]
    rows[["search", "seed"]] = rows.index.to_series().str.extract(r"-(cold|warm)-seed(\d+)$")
    rows = rows.astype({"seed": int}).sort_values(["search", "seed"])
    kinds = rows.drop(columns="seed").groupby("search")
    ends = pd.concat([kinds.mean().assign(seed="mean"), kinds.median().assign(seed="median")]).sort_index(kind="stable")
    shown = pd.concat([ends.reset_index(), rows])[["search", "seed", *COLUMNS]]
    shown[COLUMNS] = shown[COLUMNS].map("{:.0f}".format)
    align = ["left", *["right"] * (len(shown.columns) - 1)]
    return (
        f"{shown.rename(columns={'worst_case': 'worst case'}).to_markdown(index=False, colalign=align)}\n\n"
        f"{args.algo.upper()} on {args.env}, {args.steps:,} steps, ε = {args.epsilon:g} (`ramp_{args.epsilon:g}` in "
        f"training), {args.episodes} episodes. Cold: ten steps at every visit of a sample; warm: ten at the first, two "
        f"at later ones. {platform.machine()}, CPU, one torch thread for each agent.\n"
    )


if __name__ == "__main__":
    main()
