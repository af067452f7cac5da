"""Certificates as a page with tables, a picture and JSON."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from sb3_barpo.evaluation.certificates import Certification, CertifiedActions, CertifiedReturns
from sb3_barpo.evaluation.judged import lines
from sb3_barpo.figures import COLOURS, NONE, canvas, display, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MEASURES = {
    "shift": "mean over the states of the largest shift of an action",
    "share": "share of the states in which the action stays",
}
_LEGENDS = {
    "shift": "How far the deterministic action can move at most, in the units of the action space, as the environment "
    "takes it: {measure}. No attack can exceed what is *certified* (by CROWN; interval bounds beside it are looser).",
    "share": "Where the greedy action cannot change: {measure}. No attack can go below what is *certified* (by CROWN; "
    "interval bounds beside it are looser). The certified ε is the median over the states.",
}


def write_pages(found: Certification, output: Path) -> None:
    """
    Write ``report.md``, ``certificates.json`` and ``certificates.png``.

    :param found: The certificates.
    :param output: Folder to write to.
    :raises OSError: if the folder cannot be written.
    """
    output.mkdir(parents=True, exist_ok=True)
    found.to_json(output / "certificates.json")
    picture(found).savefig(output / "certificates.png")
    (output / "report.md").write_text(page(found), encoding="utf-8")


def page(found: Certification) -> str:
    """:return: The page in Markdown."""
    measure = _MEASURES[found.kind]
    parts = [
        "# Certified",
        "![Certified beside attacked](certificates.png)",
        "## Actions",
        _LEGENDS[found.kind].format(measure=measure)
        + f" *Attacked* is what a search achieves in the same {found.settings['n_states']} visited states. The truth "
        "lies between the two.",
        actions_table(found),
    ]
    if found.returns:
        smoothing = found.settings["smoothing"]
        parts += [
            "## Returns",
            f"Of the agent with Gaussian noise of σ = {smoothing['sigma']:g} on its observations; deploy it with this "
            "noise. The radius is the L2 norm of all perturbations of an episode together; ε is what an attack that "
            "moves all features at all steps may spend at each. Each certified quantile holds with a confidence of "
            f"{smoothing['confidence']:.0%}, by {smoothing['n_episodes']} episodes. Attacks of the same budget leave "
            f"what is beside it, over {smoothing['n_attacked']} episodes.",
            returns_table(found),
        ]
    parts += ["## What was certified", "\n".join(f"- {line}" for line in lines(found.judged))]
    return "\n\n".join(parts) + "\n"


def actions_table(found: Certification) -> str:
    """:return: A row for each agent and ε, in Markdown."""
    head = ["agent", "ε", "certified", "by intervals", "attacked"]
    rows = [[one.agent, f"{one.epsilon:g}", *map(_value(found), _measured(one))] for one in found.actions]
    if found.kind == "share":
        head.append("certified ε")
        rows = [[*row, number(one.radius or 0.0)] for row, one in zip(rows, found.actions, strict=True)]
    return tabulate(rows, head, "pipe", disable_numparse=True)


def returns_table(found: Certification) -> str:
    """:return: A row for each agent, quantile and radius, in Markdown."""
    head = ["agent", "quantile", "radius", "ε", "certified", "attacked", "by"]
    rows = [
        [
            one.agent,
            f"{one.quantile:g}",
            number(one.radius),
            number(one.epsilon),
            number(one.certified) if math.isfinite(one.certified) else NONE,
            NONE if math.isnan(one.attacked) else number(one.attacked),
            display(one.attack) or NONE,
        ]
        for one in found.returns
    ]
    return tabulate(rows, head, "pipe", disable_numparse=True)


def _measured(one: CertifiedActions) -> tuple[float, float, float]:
    return one.certified, one.intervals, one.attacked


def _value(found: Certification) -> Any:
    return (lambda share: f"{100 * share:.1f} %") if found.kind == "share" else number


def picture(found: Certification) -> "Figure":
    """
    :param found: The certificates.
    :return: Over ε, what is certified of actions (solid) beside what attacks achieve (dashed); between the two lies the
        truth. Over the radius of an episode, the same of returns, if they were certified.
    :raises ImportError: if matplotlib is not installed.
    """
    agents = list(dict.fromkeys(one.agent for one in found.actions))
    figure, axes = canvas(13.5 if found.returns else 7.6, ncols=1 + bool(found.returns), squeeze=False)
    left = axes[0, 0]
    for colour, agent in zip(_colours(len(agents)), agents, strict=True):
        rows = [one for one in found.actions if one.agent == agent]
        _band(left, [one.epsilon for one in rows], [_measured(one) for one in rows], colour, agent)
    left.set_xlabel("ε")
    left.set_ylabel("share of visited states" if found.kind == "share" else "largest shift of an action")
    left.set_title(f"Actions: {'the greedy one stays' if found.kind == 'share' else 'how far they move'}", loc="left")
    left.set_ylim(0, 1.02 if found.kind == "share" else None)
    _finish(left)
    if found.returns:
        _draw_returns(axes[0, 1], found.returns, agents)
    return figure


def _draw_returns(axes: Any, rows: list[CertifiedReturns], agents: list[str]) -> None:
    quantiles = list(dict.fromkeys(one.quantile for one in rows))
    series = [(agent, q) for agent in agents for q in quantiles]
    for colour, (agent, q) in zip(_colours(len(series)), series, strict=True):
        some = [one for one in rows if (one.agent, one.quantile) == (agent, q)]
        bounds = [(one.certified if math.isfinite(one.certified) else math.nan, math.nan, one.attacked) for one in some]
        _band(axes, [one.radius for one in some], bounds, colour, f"{agent}, {q:g} quantile")
    axes.set_xlabel("L2 norm of an episode's perturbations")
    axes.set_ylabel("return")
    axes.set_title("Returns of the smoothed agent", loc="left")
    _finish(axes)


def _band(axes: Any, x: list[float], rows: list[tuple[float, float, float]], colour: str, label: str) -> None:
    certified, _, attacked = (list(column) for column in zip(*rows, strict=True))
    axes.plot(x, certified, "o-", color=colour, lw=2.2, ms=5, label=f"{label}: certified")
    axes.plot(x, attacked, "s--", color=colour, lw=1.6, ms=4, label=f"{label}: attacked")
    axes.fill_between(x, certified, attacked, color=colour, alpha=0.12, lw=0)


def _colours(n: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(n)]


def _finish(axes: Any) -> None:
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
