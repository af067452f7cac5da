"""The pages of an evaluation: ``report.md`` with its pictures, and all of it as one HTML page."""

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from sb3_barpo.agents.load import LoadedAgent
from sb3_barpo.attacks import Attack, LearnedAttack
from sb3_barpo.evaluation import saturation, tables
from sb3_barpo.evaluation.judged import lines
from sb3_barpo.evaluation.measures import moved_told
from sb3_barpo.evaluation.plots import plot_trace
from sb3_barpo.evaluation.progress import Progress
from sb3_barpo.evaluation.report import RobustnessReport
from sb3_barpo.evaluation.rows import NATURAL
from sb3_barpo.evaluation.settings import EvalConfig
from sb3_barpo.evaluation.trace import trace_episode
from sb3_barpo.evaluation.video import frames_between, write_video
from sb3_barpo.figures import display


def file_name(agent: str) -> str:
    """:return: An agent's name as a part of a file's name."""
    return re.sub(r"[^\w.+=@ -]", "-", agent)


def write_pages(
    report: RobustnessReport,
    agents: Sequence[LoadedAgent],
    found: Sequence[Mapping[str, Attack]],
    worst: Sequence[Attack],
    output: Path,
    config: EvalConfig,
    mixed_units: bool = False,
    html: bool = False,
    video: bool = False,
    sections: "Sequence[Block]" = (),
    progress_bar: bool = False,
) -> None:
    """
    Write all files of a report, but for the attackers.

    :param report: The report.
    :param agents: The agents.
    :param found: What was searched for each, by name.
    :param worst: The most damaging attack on each.
    :param output: Folder to write to.
    :param config: Which episodes were run.
    :param mixed_units: Whether to draw agents whose ε are in different units on one axis.
    :param html: Whether to write ``report.html`` too.
    :param video: Whether to write ``episode-<agent>.mp4`` for each agent: the natural and the attacked episode.
    :param sections: Further parts of the page, before what was judged.
    :param progress_bar: Whether to show the progress over the agents.
    :raises OSError: if a file cannot be written.
    """
    with Progress("watched", len(agents), 0, "agent", progress_bar) as progress:
        for agent, attack in zip(agents, worst, strict=True):
            n_steps = min(_longest(report, agent.name, attack.name), _WATCHED)
            own = report.judged["agents"][agent.name]
            own["moved"] = moved_told(agent.model, agent.venv, attack, n_steps, config.seed)
            progress.finished(f"actions of {agent.name} under attack")
    report.to_csv(output / "report.csv")
    report.to_json(output / "report.json")
    videos: list[str] = []
    pictures = {"returns.png": "Returns by attack"}
    report.plot(output / "returns.png")
    if len(report.epsilons) > 1 and (mixed_units or len(report.units) == 1):
        report.plot_epsilon(output / "epsilon.png", mixed_units)
        pictures["epsilon.png"] = "Return against ε"
    if (curves := saturation.curves(report.judged)) is not None:
        saturation.picture(report.judged).savefig(output / "saturation.png")
        pictures["saturation.png"] = "Worst case against the budget of the search"
        curves.to_csv(output / "saturation.csv", index=False)
    with Progress("recorded", len(agents), 0, "agent", progress_bar) as progress:
        for agent, attack in zip(agents, worst, strict=True):
            picture = _draw_episode(report, agent, attack, output, config, video)
            pictures[picture] = f"An episode of {agent.name}"
            if video:
                film = quote(picture.removesuffix("png") + "mp4")
                videos.append(f"[{agent.name}, natural and attacked]({film})")
            progress.finished(f"an episode of {agent.name}")
    blocks = [*_blocks(report, pictures, videos, agents, found, mixed_units), *sections]
    blocks += [Block("heading", "What was judged"), Block("list", lines(report.judged))]
    (output / "report.md").write_text(_markdown(blocks), encoding="utf-8")
    if html:
        (output / "report.html").write_text(_page(blocks, output), encoding="utf-8")


def _draw_episode(
    report: RobustnessReport, agent: LoadedAgent, attack: Attack, output: Path, config: EvalConfig, video: bool
) -> str:
    """
    Draw, and film if asked for, the episode that is closest to the mean, natural and attacked.

    :return: The picture's file name. The video's is the same with another suffix.
    """
    seed = _near_the_mean(report, agent.name, attack.name)
    every = frames_between(_longest(report, agent.name, attack.name)) if video else 0
    natural, attacked = (
        trace_episode(agent.model, agent.venv, one, seed, config.deterministic, every) for one in (None, attack)
    )
    where = f" on {report.env}" if report.env else ""
    title = f"{agent.name}{where} under {display(attack.name)} at ε = {report.epsilons[-1]:g}, seed {seed}"
    picture = output / f"episode-{file_name(agent.name)}.png"
    plot_trace(natural, attacked, title).savefig(picture)
    if video:
        fps = agent.venv.get_attr("metadata")[0].get("render_fps", 30) / every
        write_video(natural, attacked, picture.with_suffix(".mp4"), fps)
    return picture.name


class Block(NamedTuple):
    """A part of a page: a ``heading``, a ``text``, a ``list``, a ``table`` or a ``picture``."""

    kind: str
    content: Any
    name: str = ""  # of a picture's file


def _blocks(
    report: RobustnessReport,
    pictures: Mapping[str, str],
    videos: Sequence[str],
    agents: Sequence[LoadedAgent],
    found: Sequence[Mapping[str, Attack]],
    mixed_units: bool,
) -> list[Block]:
    blocks = [Block("heading", "Under attack"), Block("text", report.verdict())]
    if searched := saturation.lines(report.judged):
        blocks += [Block("list", searched)]
    if tables.by_algorithm(report):
        blocks += [Block("table", partial(tables.by_algorithm, report))]
        blocks += [Block("text", tables.by_algorithm_legend(report))]
    blocks += [Block("picture", title, name) for name, title in pictures.items()]
    if videos:
        blocks.append(Block("list", videos))
    blocks += [Block("table", partial(tables.returns, report)), Block("text", tables.legend(report))]
    blocks += [Block("table", partial(tables.beyond_the_mean, report)), Block("text", tables.MEASURES_LEGEND)]
    blocks += [Block("table", partial(tables.moved, report.judged)), Block("text", tables.MOVED_LEGEND)]
    if len(report.units) > 1 and len(report.epsilons) > 1 and not mixed_units:
        blocks.append(Block("text", _MIXED))
    if stored := _attackers(agents, found):
        blocks += [Block("text", _LEARNED), Block("list", stored)]
    return blocks


def _markdown(blocks: Sequence[Block]) -> str:
    parts: dict[str, Callable[[Block], str]] = {
        "heading": lambda block: f"{'#' if block is blocks[0] else '##'} {block.content}",
        "text": lambda block: block.content,
        "list": lambda block: "\n".join(f"- {line}" for line in block.content),
        "table": lambda block: block.content("pipe"),
        "picture": lambda block: f"![{block.content}]({quote(block.name)})",
    }
    return "\n\n".join(parts[block.kind](block) for block in blocks) + "\n"


def _page(blocks: Sequence[Block], folder: Path) -> str:
    """The same in HTML, with the pictures inside."""
    parts: dict[str, Callable[[Block], str]] = {
        "heading": lambda block: f"<h2>{escape(block.content)}</h2>",
        "text": lambda block: f"<p>{_inline(block.content)}</p>",
        "list": lambda block: f"<ul>{''.join(f'<li>{_inline(line)}</li>' for line in block.content)}</ul>",
        "table": lambda block: block.content("html"),
        "picture": lambda block: f'<img alt="{escape(block.content)}" src="{_data(folder / block.name)}">',
    }
    body = "\n".join(parts[block.kind](block) for block in blocks)
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Under attack</title>{_CSS}\n{body}\n</html>\n'
    )


_CSS = (
    "<style>body{font-family:sans-serif;max-width:70em;margin:2em auto;padding:0 1em}img{max-width:100%;display:block}"
    "table{border-collapse:collapse}td,th{padding:.2em .6em;border-bottom:1px solid #ddd}</style>"
)


def _inline(text: str) -> str:
    """The three marks that our lines have: links, bold and code."""
    text = re.sub(r"\[([^\]]+)\]\(([^)]+)\)", r'<a href="\2">\1</a>', escape(text))
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", text))


def _data(picture: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"


def _near_the_mean(report: RobustnessReport, agent: str, attack: str) -> int:
    """The seed of the episode whose return is closest to the mean."""
    rows = report.at()
    rows = rows[(rows["agent"] == agent) & (rows["attack"] == attack)]
    nearest = (rows["return"] - rows["return"].mean()).abs().to_numpy().argmin()
    return int(rows["seed"].to_numpy()[nearest])


def _longest(report: RobustnessReport, agent: str, attack: str) -> int:
    rows = report.at()
    return int(rows.loc[(rows["agent"] == agent) & rows["attack"].isin([NATURAL, attack]), "length"].max())


#: Steps of each environment in which actions are watched, at most.
_WATCHED = 1000

_MIXED = "There is no curve over ε, since the agents' ε are in different units. `--mixed-units` draws one nevertheless."


_LEARNED = (
    "Learned attacks were fitted at the largest ε, each the strongest of its grid on other episodes than these; at a "
    "smaller ε the same attackers were scaled down. How the members compare is in `attackers.csv`. The strongest can "
    "be loaded again:"
)


def _attackers(agents: Sequence[LoadedAgent], found: Sequence[Mapping[str, Attack]]) -> list[str]:
    """Which attackers were learned, and where they are stored."""
    return [
        f"`attacks/{file_name(agent.name)}/{name}.zip`: {attack.origin.total_timesteps} steps at ε = "
        f"{attack.origin.epsilon:g}"
        for agent, attacks in zip(agents, found, strict=True)
        for name, attack in attacks.items()
        if isinstance(attack, LearnedAttack) and attack.origin is not None
    ]
