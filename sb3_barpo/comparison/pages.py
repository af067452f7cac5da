"""The files of a comparison: ``report.md`` with its pictures, and tables for other programs."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sb3_barpo.comparison import pictures, tables
from sb3_barpo.comparison.report import ComparisonReport
from sb3_barpo.evaluation import RobustnessReport
from sb3_barpo.evaluation.judged import lines
from sb3_barpo.figures import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_pages(report: ComparisonReport, output: Path) -> None:
    """
    Write ``report.md``, its pictures, ``agents.csv``, ``algorithms.csv`` and ``tables.tex``.

    :param report: The comparison.
    :param output: Folder to write to.
    :raises ImportError: if matplotlib is not installed.
    """
    output.mkdir(parents=True, exist_ok=True)
    report.agents.to_csv(output / "agents.csv", index=False)
    report.by_algorithm().to_csv(output / "algorithms.csv", index=False)
    (output / "tables.tex").write_text(tables.to_latex(report), encoding="utf-8")
    drawn = {name: draw for name, draw in _PICTURES.items() if _tells(report, name)}
    for name, draw in drawn.items():
        draw(report).savefig(output / f"{name}.png")
    for name in _PICTURES.keys() - drawn.keys():
        (output / f"{name}.png").unlink(missing_ok=True)  # of a report with more
    (output / "report.md").write_text(markdown(report), encoding="utf-8")


_PICTURES: "dict[str, Callable[[ComparisonReport], Figure]]" = {
    "returns": pictures.returns,
    "scatter": pictures.scatter,
    "profiles": pictures.profiles,
    "improvement": pictures.improvement,
}


def _tells(report: ComparisonReport, name: str) -> bool:
    """Whether a picture has something to show: profiles and probabilities need several seeds."""
    return name in ("returns", "scatter") or (
        report.n_seeds > 1 and len(report.algorithms) > 1 and len(report.common) > 0
    )


def markdown(report: ComparisonReport) -> str:
    """
    :param report: The comparison.
    :return: The page, with its pictures as files beside it.
    """
    several = len(report.algorithms) > 1
    parts = ["# Comparison under attack", _opening(report)]
    if report.missing:
        parts.append(f"**Not finished yet**, with their seeds: {'; '.join(report.missing)}.")
    parts += [tables.by_algorithm(report), _legend(report), "![Returns of every seed](returns.png)"]
    parts += ["![Worst-case against natural return](scatter.png)", _SCATTER]
    if several and report.common:
        if len(report.common) > 1:
            parts += ["## Over all tasks", tables.overall(report), _overall(report)]
        if _tells(report, "profiles"):
            parts += ["![Performance profiles](profiles.png)", _PROFILES]
            parts += ["## Probability of improvement", tables.improvement(report), _IMPROVEMENT]
            parts.append("![Probabilities of improvement](improvement.png)")
    for env, one in report.reports.items():
        parts += [f"## {env}, by attack, ε = {one.epsilons[-1]:g}", tables.by_attack(report, env)]
        parts += [
            "Interquartile means over the seeds. Worst case: of each agent's own worst attack, so it can be lower "
            "than every column.",
            "Every seed:",
            tables.by_seed(report, env),
            _episodes(one),
        ]
        if env in report.left_out:
            parts.append(f"**Left out**, since not every agent went through it: {', '.join(report.left_out[env])}.")
    parts.append("## What was compared")
    judged = {name: agent for one in report.reports.values() for name, agent in _named(one.judged["agents"], one.env)}
    parts.append("\n".join(f"- {line}" for line in lines({"agents": judged, **report.judged})))
    return "\n\n".join(parts) + "\n"


def _episodes(report: RobustnessReport) -> str:
    seeds = report.seeds
    unit = {"std": " ε is in standard deviations of the observations.", "raw": " ε is in the observations' own units."}
    units = unit.get(report.units[0], "") if len(report.units) == 1 else " **The agents' ε are in different units.**"
    return (
        f"Means over {counted(len(seeds))} each, the same for every agent and attack (seeds {seeds[0]} to {seeds[-1]})."
        f"{units}"
    )


def _named(agents: dict[str, dict[str, object]], env: str) -> list[tuple[str, dict[str, object]]]:
    return [(f"{name} on {env}", agent) for name, agent in agents.items() if agent]


def _opening(report: ComparisonReport) -> str:
    agents = counted(len(report.agents), "agent")
    tasks = counted(len(report.envs), "task")
    attacks = counted(len(report.attacks), "attack")
    said = f"{agents} of {counted(len(report.algorithms), 'algorithm')} on {tasks}, under {attacks}."
    if report.n_seeds < 2:
        said += " **One seed of training each shows what happens, not how often: there are no intervals.**"
    return said


def _legend(report: ComparisonReport) -> str:
    mean = "Natural and worst case: interquartile means over the seeds"
    interval = ", with 95 % bootstrap intervals, which are too narrow for few seeds" if report.n_seeds > 1 else ""
    p = (
        " p: how often chance alone sets worst cases as far apart as these and those of the task's highest (Mann and "
        "Whitney's test, two-sided, exact, not corrected for the number of algorithms); three seeds each cannot come "
        "below 0.1."
    )
    return (
        f"{mean}{interval}. A seed's worst case is its lowest mean return over the attacks. Kept: worst case over "
        f"natural. Bold: the highest of the task.{p if report.n_seeds > 1 and len(report.algorithms) > 1 else ''}"
    )


_SCATTER = "Small: seeds; large: interquartile means with their intervals. On the dashed line an attack takes nothing."
_PROFILES = (
    "The share of an algorithm's agents, over all tasks, whose score is above τ; bands are 95 % stratified bootstrap "
    "intervals. 1 is the highest natural interquartile mean of the task, 0 a return of 0, or the lowest where returns "
    "are negative."
)
_IMPROVEMENT = (
    "How likely it is that a random agent of the row has a higher worst case than one of the column on the same task: "
    "Mann and Whitney's U over the number of pairs, the mean over the tasks."
)


def _overall(report: ComparisonReport) -> str:
    left_out = [env for env in report.envs if env not in report.common]
    without = f" Without {', '.join(left_out)}, where some algorithm has no agent yet." if left_out else ""
    return (
        "Interquartile means over all seeds of all tasks, with 95 % stratified bootstrap intervals; 1 is the highest "
        "natural interquartile mean of the task, 0 a return of 0, or the lowest where returns are negative. Rank 1 is "
        f"the best.{without}"
    )
