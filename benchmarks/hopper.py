"""
The paper's picture: PPO, ARPO and BARPO at their defaults on a MuJoCo task, several seeds, attacked.

    python benchmarks/hopper.py --jobs 4

Each agent is stored when it is finished and found again, so a killed run goes on where it was. The committed agents are
found too and only attacked anew: give another ``--output`` to train them again. Writes ``episodes.csv`` (one row an
episode), ``table.md`` and ``returns.png``.
"""

import argparse
import platform
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from sb3_barpo.evaluation import RobustnessReport
from sb3_barpo.experiment import Agent, Evaluation, run
from sb3_barpo.figures import COLOURS

ALGORITHMS = ["ppo", "arpo", "barpo"]
COLUMNS = ["natural", "random", "critic", "mad", "worst_case", "robustness"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="Hopper-v5")
    parser.add_argument("--epsilon", type=float, default=0.075, help="strength of the attacks and end of the ramp")
    parser.add_argument("--steps", type=int, default=600_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--jobs", type=int, default=1, help="number of processes")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "hopper")
    args = parser.parse_args()

    strength = {} if args.epsilon == 0.075 else {"epsilon": f"ramp_{args.epsilon}"}  # 0.075 is the default
    agents = [
        Agent(f"{algo}-seed{seed}", algo, args.env, seed, args.steps, kwargs={} if algo == "ppo" else strength)
        for seed in args.seeds
        for algo in ALGORITHMS[::-1]  # the longest first
    ]
    report = run(
        agents, Evaluation([args.epsilon], n_eval_episodes=args.episodes), args.output / "agents", args.jobs, True
    )
    report.to_csv(args.output / "episodes.csv")
    seeds = by_seed(report)
    (args.output / "table.md").write_text(table(seeds, args), encoding="utf-8")
    picture(seeds, f"{args.env}, ε = {args.epsilon:g}, {args.steps:,} steps").savefig(args.output / "returns.png")
    print(table(seeds, args))


def by_seed(report: RobustnessReport) -> pd.DataFrame:
    """One row an agent: its algorithm, its seed of training, its mean returns."""
    summary = report.summary()[COLUMNS]
    summary[["algorithm", "seed"]] = report.origins
    summary["algorithm"] = summary["algorithm"].str.upper()
    order = [algo.upper() for algo in ALGORITHMS]
    return summary.sort_values(["algorithm", "seed"], key=lambda c: c.map(order.index) if c.name == "algorithm" else c)


def table(seeds: pd.DataFrame, args: argparse.Namespace) -> str:
    medians = seeds.groupby("algorithm", sort=False)[COLUMNS].median().reset_index()
    rows = pd.concat([medians.assign(seed="median"), seeds])[["algorithm", "seed", *COLUMNS]]
    rows[COLUMNS[:-1]] = rows[COLUMNS[:-1]].map("{:.0f}".format)
    rows["robustness"] = rows["robustness"].map("{:+.0%}".format)
    names = {
        "worst_case": "worst case",
        "mad": "MAD",
        "random": "Random",
        "critic": "Critic",
        "seed": "seed of training",
    }
    align = ["left", *["right"] * (len(rows.columns) - 1)]
    markdown = rows.rename(columns=names).to_markdown(index=False, colalign=align, disable_numparse=True)
    return (
        f"{markdown}\n\n{args.env}, ε = {args.epsilon:g} (`ramp_{args.epsilon:g}` in training), {args.steps:,} steps; "
        f"mean return over {args.episodes} episodes, deterministic agents, the same episodes for all. Worst case: the "
        f"lowest of the three means. {platform.machine()}, CPU, one torch thread for each agent.\n"
    )


def picture(seeds: pd.DataFrame, title: str) -> Figure:
    """Every agent a thin line from attack to attack, the median of its algorithm a bar."""
    columns = COLUMNS[:-1]
    figure = Figure(figsize=(8.5, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for a, (algorithm, rows) in enumerate(seeds.groupby("algorithm", sort=False)):
        places = [column + 0.26 * (a - 1) for column in range(len(columns))]
        axes.plot(places, rows[columns].T.to_numpy(), "o", color=COLOURS[a], ms=5, alpha=0.7, mew=0)
        axes.hlines(
            rows[columns].median(),
            [x - 0.1 for x in places],
            [x + 0.1 for x in places],
            color=COLOURS[a],
            lw=3.5,
            label=algorithm,
        )
    axes.set_xticks(range(len(columns)), ["natural", "Random", "Critic", "MAD", "worst case"])
    axes.axvline(3.5, color="0.8", lw=1)
    axes.set_title(f"{title}: each dot a training seed, each bar the median", loc="left", fontsize=11)
    axes.set_ylabel("mean return over the episodes")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    figure.legend(loc="outside right upper", frameon=False)
    return figure


if __name__ == "__main__":
    main()
