"""What ``"auto"`` says of its search: in words, as rows, and as a picture of the worst case against the budget."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from sb3_barpo.figures import COLOURS, canvas, display, number, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _told(judged: Mapping[str, Any]) -> dict[str, Any]:
    return {name: agent["auto"] for name, agent in judged["agents"].items() if agent.get("auto")}


def lines(judged: Mapping[str, Any]) -> list[str]:
    """
    :param judged: What a report holds.
    :return: One line for each agent that ``"auto"`` attacked.
    """
    return [line(name, told) for name, told in _told(judged).items()]


def line(name: str, told: Mapping[str, Any]) -> str:
    """
    :param name: The agent.
    :param told: What the search said.
    :return: Whether it was done, and what its last two doublings gained.
    """
    curve = told["curve"]
    last = curve[-1]
    back = min(3, len(curve))  # a search of one round has no doubling but its own
    gained = curve[-back]["worst_case"] - last["worst_case"]
    damage = told["natural"] - last["worst_case"]
    share = f" ({percent(gained / damage).lstrip('+')} of the damage)" if damage > 0 else ""
    state = "saturated" if told["saturated"] else "NOT saturated"
    advice = "" if told["saturated"] else " A larger search may find more: the worst case is an upper bound."
    return (
        f"**{name}**: the search is {state} after {last['steps']:,} steps of learning. Its last two doublings lowered "
        f"the worst case by {number(gained)}{share} to {number(last['worst_case'])}, under {display(last['attack'])}, "
        f"on the {told['n_episodes']} episodes that choose.{advice}"
    )


def curves(judged: Mapping[str, Any]) -> "pd.DataFrame | None":
    """
    :param judged: What a report holds.
    :return: Rows of ``agent`` and of what a search tells of each point of its curve, see
        :class:`sb3_barpo.evaluation.auto.Found`; ``None`` without a search by ``"auto"``.
    """
    rows = [{"agent": name, **point} for name, told in _told(judged).items() for point in told["curve"]]
    return pd.DataFrame(rows) if rows else None


def picture(judged: Mapping[str, Any]) -> "Figure":
    """
    :param judged: What a report holds.
    :return: A line for each agent: the worst case against the budget of the search.
    :raises ImportError: if matplotlib is not installed.
    """
    figure, axes = canvas(8.0)
    for i, (name, told) in enumerate(_told(judged).items()):
        colour = COLOURS[i % len(COLOURS)]
        steps = [point["steps"] / 1000 for point in told["curve"]]
        worst = [point["worst_case"] for point in told["curve"]]
        label = f"{name}{'' if told['saturated'] else ' (not saturated)'}"
        axes.plot(steps, worst, "o-" if i < len(COLOURS) else "s--", color=colour, label=label)
        axes.axhline(told["natural"], color=colour, ls=":", lw=1)
    axes.set_xlabel("thousand steps of learning")
    axes.set_ylabel("return")
    axes.set_title("Worst case so far, on the episodes that choose (dotted: natural)", loc="left")
    axes.grid(axis="y", alpha=0.25)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure
