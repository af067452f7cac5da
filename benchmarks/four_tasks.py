"""
The paper's four tasks: PPO, ARPO, BARPO and other defences, several seeds, natural return and six attacks.

    python benchmarks/four_tasks.py --jobs 2

trains and attacks what is missing in ``--output`` and reports on all that is there; a killed run is resumed by the same
command. Where all rows are there, as in this repository, it only draws the report. The settings are in
``four_tasks/settings.yml``, which ``sb3-barpo compare`` reads too; ``--tasks``, ``--algorithms`` and ``--seeds`` choose
a part of the work. ``--sweep`` attacks the trained agents at several strengths, and ranks the algorithms at each.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sb3_barpo.comparison import Comparison, ComparisonReport, compare, from_file, tables
from sb3_barpo.figures import COLOURS, canvas, number

HERE = Path(__file__).parent / "four_tasks"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", type=Path, default=HERE / "settings.yml")
    parser.add_argument("--tasks", nargs="+", help="environments, by default all of the settings")
    parser.add_argument("--algorithms", nargs="+", metavar="LABEL", help="labels, by default all of the settings")
    parser.add_argument("--seeds", type=int, nargs="+", help="by default all of the settings")
    parser.add_argument("--steps", type=float, help="of training")
    parser.add_argument("--attacks", nargs="+", help="names of attacks, or auto")
    parser.add_argument("--budget", help="effort for learned attacks")
    parser.add_argument("--episodes", type=int, help="for each attack")
    parser.add_argument("--sweep", type=float, nargs="+", metavar="FACTOR", help="attack at these multiples of ε too")
    parser.add_argument("--report-only", action="store_true", help="train and attack nothing")
    parser.add_argument("--jobs", type=int, default=1, help="number of processes")
    parser.add_argument("--output", type=Path, default=HERE)
    args = parser.parse_args()

    run: dict[str, Any] = {"n_jobs": args.jobs, "progress_bar": True}
    run["command"] = shlex.join(["python", "benchmarks/four_tasks.py", *sys.argv[1:]])
    settings = changed(from_file(args.settings), args)
    if not args.report_only:
        compare(**chosen(settings, args), output=args.output, **run)
    report = compare(**settings, output=args.output, report_only=True, **run)
    print(tables.by_algorithm(report))
    if args.sweep:
        strengths = {
            factor: report
            if factor == 1
            else compare(
                **at(factor, chosen(settings, args), args.output),
                output=args.output / "sweep" / f"{factor:g}",
                report_only=args.report_only,
                **run,
            )
            for factor in sorted(args.sweep)
        }
        text = "\n\n".join(f"**{env}**\n\n{rankings(strengths, env)}" for env in shared(strengths))
        (args.output / "sweep" / "table.md").write_text(f"{text}\n\n{LEGEND}\n", encoding="utf-8")
        picture(strengths, report.algorithms).savefig(args.output / "sweep" / "sweep.png")
        print(f"\n{text}")


def changed(settings: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """The settings with what the command line changes for all agents."""
    given = {"steps": args.steps and int(args.steps), "attacks": args.attacks, "budget": args.budget}
    given["n_eval_episodes"] = args.episodes
    return settings | {key: value for key, value in given.items() if value is not None}


def chosen(settings: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """The part of the work that the command line chooses."""
    part = dict(settings)
    if args.tasks:
        part = only(part, set(settings["env"]) - set(args.tasks)) | {"env": args.tasks}
    if args.algorithms:
        part["algorithms"] = [one for one in part["algorithms"] if one["label"] in args.algorithms]
        labels = [one["label"] for one in settings["algorithms"]]
        if unknown := [label for label in args.algorithms if label not in labels]:
            raise SystemExit(f"error: no {', '.join(unknown)} in the settings: {', '.join(labels)}")
    if args.seeds:
        part["seeds"] = args.seeds
    return part


def only(value: Any, others: set[str]) -> Any:
    """Settings without what is given for other tasks; one that was given for those alone is none."""
    if isinstance(value, Mapping):
        return {key: kept for key, one in value.items() if key not in others and (kept := only(one, others)) != {}}
    return [only(one, others) for one in value] if isinstance(value, list) else value


def at(factor: float, settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Settings for attacks on the trained agents at a multiple of ε; attackers are fitted at each strength anew."""
    tasks = Comparison(**settings).tasks()
    agents = [
        {
            "name": agent.name,
            "label": agent.label,
            "env": task.env,
            "path": os.path.relpath(folder / task.folder / "agents" / agent.name),
        }
        for task in tasks
        for agent in task.agents
    ]
    epsilon = {task.env: round(factor * task.evaluation.epsilon[0], 6) for task in tasks}
    attacks = {key: settings[key] for key in ("attacks", "budget", "n_eval_episodes") if key in settings}
    return {"agents": agents, "env": [task.env for task in tasks], "epsilon": epsilon, **attacks}


LEGEND = (
    "Interquartile mean of the worst case over the seeds, and the algorithm's rank at this ε. Attackers were fitted at "
    "each ε anew. Last line: Kendall's τ between the ranking at this ε and at the smallest multiple that is at least 1."
)


def shared(strengths: Mapping[float, ComparisonReport]) -> list[str]:
    """The tasks on which there are agents at every strength."""
    first, *others = strengths.values()
    return [env for env in first.envs if all(env in other.envs for other in others)]


def rankings(strengths: Mapping[float, ComparisonReport], env: str) -> str:
    """One row an algorithm, one column a strength."""
    columns = {}
    for report in strengths.values():
        table = report.by_algorithm()
        worst = table[table["env"] == env].set_index("algorithm")["worst_case"]
        columns[f"ε = {report.reports[env].epsilons[-1]:g}"] = worst
    worst = pd.DataFrame(columns)
    ranks = worst.rank(ascending=False)
    shown = worst.map(number) + ranks.map(" ({:.0f})".format)
    usual = next((k for k, factor in enumerate(strengths) if factor >= 1), len(strengths) - 1)
    shown.loc["τ"] = [f"{worst.iloc[:, usual].corr(worst[column], 'kendall'):.2f}" for column in worst]
    align = ["left", *["right"] * len(worst.columns)]
    return str(shown.rename_axis("algorithm").to_markdown(colalign=align, disable_numparse=True))


def picture(strengths: Mapping[float, ComparisonReport], algorithms: list[str]) -> Figure:
    """Worst case against ε, a panel for each task."""
    envs = shared(strengths)
    figure, grid = canvas(4.4 * min(len(envs), 2) + 1.8, 3.4 * ((len(envs) + 1) // 2), nrows=(len(envs) + 1) // 2,
                          ncols=min(len(envs), 2), squeeze=False)  # fmt: skip
    handles: dict[str, Any] = {}
    for axes, env in zip(grid.flat, envs, strict=False):
        for a, algorithm in enumerate(algorithms):
            points = [
                (report.reports[env].epsilons[-1], row["worst_case"], row["worst_case_low"], row["worst_case_high"])
                for report in strengths.values()
                for row in report.by_algorithm().to_dict("records")
                if (row["env"], row["algorithm"]) == (env, algorithm)
            ]
            if not points:
                continue
            epsilon, worst, low, high = np.transpose(points)
            style = {"marker": "osD^vPX<>"[a % 9], "color": COLOURS[a % len(COLOURS)]}
            (handles[algorithm],) = axes.plot(epsilon, worst, lw=2, ls="-" if a < len(COLOURS) else "--", **style)
            axes.fill_between(epsilon, low, high, color=style["color"], alpha=0.12, lw=0)
        if axes.dataLim.ymin >= 0:
            axes.set_ylim(bottom=0)
        axes.set_title(env, loc="left")
        axes.set_xlabel("ε of the attack")
        axes.set_ylabel("worst-case return")
        axes.grid(alpha=0.25)
    for axes in list(grid.flat)[len(envs) :]:
        axes.set_axis_off()
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", frameon=False)
    return figure


if __name__ == "__main__":
    main()
