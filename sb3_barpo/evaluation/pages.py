"""The pages of an evaluation: ``report.md`` with its pictures, and all of it as one HTML page."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from sb3_barpo.agents.load import LoadedAgent
from sb3_barpo.attacks import Attack, LearnedAttack
from sb3_barpo.evaluation import tables
from sb3_barpo.evaluation.judged import lines
from sb3_barpo.evaluation.plots import plot_trace
from sb3_barpo.evaluation.report import RobustnessReport
from sb3_barpo.evaluation.settings import EvalConfig
from sb3_barpo.evaluation.trace import trace_episode
from sb3_barpo.figures import display


def file_name(agent: str) -> str:
    """:return: An agent's name as a part of a file's name."""
    return re.sub(r"[^\w.+=@ -]", "-", agent)


def write_pages(
    report: RobustnessReport,
    agents: Sequence[LoadedAgent],
    learned: Sequence[Mapping[str, LearnedAttack]],
    worst: Sequence[Attack],
    output: Path,
    config: EvalConfig,
    mixed_units: bool = False,
    html: bool = False,
) -> None:
    """
    Write all files of a report, but for the attackers.

    :param report: The report.
    :param agents: The agents.
    :param learned: The learned attacks on each, by name.
    :param worst: The most damaging attack on each.
    :param output: Folder to write to.
    :param config: Which episodes were run.
    :param mixed_units: Whether to draw agents whose ε are in different units on one axis.
    :param html: Whether to write ``report.html`` too.
    :raises OSError: if a file cannot be written.
    """
    report.to_csv(output / "report.csv")
    report.to_json(output / "report.json")
    pictures = {"returns.png": "Returns by attack"}
    report.plot(output / "returns.png")
    if len(report.epsilons) > 1 and (mixed_units or len(report.units) == 1):
        report.plot_epsilon(output / "epsilon.png", mixed_units)
        pictures["epsilon.png"] = "Return against ε"
    for agent, attack in zip(agents, worst, strict=True):
        seed = _near_the_mean(report, agent.name, attack.name)
        natural, attacked = (
            trace_episode(agent.model, agent.venv, one, seed, config.deterministic) for one in (None, attack)
        )
        where = f" on {report.env}" if report.env else ""
        title = f"{agent.name}{where} under {display(attack.name)} at ε = {report.epsilons[-1]:g}, seed {seed}"
        name = f"episode-{file_name(agent.name)}.png"
        plot_trace(natural, attacked, title).savefig(output / name)
        pictures[name] = f"An episode of {agent.name}"
    shown = "\n\n".join(f"![{title}]({quote(name)})" for name, title in pictures.items())
    seeds = tables.by_algorithm(report)
    parts = [
        "# Under attack",
        report.verdict(),
        *([seeds] if seeds else []),
        shown,
        report.to_markdown(),
        *([_MIXED] if len(report.units) > 1 and len(report.epsilons) > 1 and not mixed_units else []),
        *([found] if (found := _attackers(agents, learned)) else []),
        "## What was judged",
        "\n".join(lines(report.judged)),
    ]
    (output / "report.md").write_text("\n\n".join(part.strip() for part in parts) + "\n", encoding="utf-8")


def _near_the_mean(report: RobustnessReport, agent: str, attack: str) -> int:
    """The seed of the episode whose return is closest to the mean."""
    rows = report.at()
    rows = rows[(rows["agent"] == agent) & (rows["attack"] == attack)]
    nearest = (rows["return"] - rows["return"].mean()).abs().to_numpy().argmin()
    return int(rows["seed"].to_numpy()[nearest])


_MIXED = "There is no curve over ε, since the agents' ε are in different units. `--mixed-units` draws one nevertheless."


def _attackers(agents: Sequence[LoadedAgent], learned: Sequence[Mapping[str, LearnedAttack]]) -> str:
    """Which attackers were learned, where they are stored, and what their figures at smaller strengths mean."""
    told = [
        f"- `attacks/{file_name(agent.name)}/{name}.zip`: {attack.origin.total_timesteps} steps at ε = "
        f"{attack.origin.epsilon:g}"
        for agent, found in zip(agents, learned, strict=True)
        for name, attack in found.items()
        if attack.origin is not None
    ]
    if not told:
        return ""
    return (
        "Learned attacks were fitted at the largest ε, each the strongest of its grid on other episodes than these; at "
        "a smaller ε the same attackers were scaled down. How the members compare is in `attackers.csv`. The strongest "
        "can be loaded again:\n\n" + "\n".join(told)
    )
