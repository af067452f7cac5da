"""Robustness across channels, of one agent or several, as a table and a picture."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd
from tabulate import tabulate

from sb3_barpo.figures import COLOURS, NONE, canvas, counted, number, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: In what the sizes of the channels are measured.
UNITS = {
    "noise": "standard deviations",
    "drift": "standard deviations",
    "delay": "steps",
    "hold": "of the readings",
    "dropout": "of the readings",
    "action_noise": "of half the range",
    "mass": "times",
    "friction": "times",
}
_COLUMNS = 4  # panels beside each other


class ChannelReport:
    """
    What :func:`sb3_barpo.evaluation.evaluate_channels` found, for one agent or several.

    :param frames: Its results by the agents' names.
    :param groups: By agent, the group in which it is summarised, such as the algorithm of agents that differ in their
        seeds; by default each is one of its own. The rows, :attr:`frame`, have the columns ``agent`` and ``group``.
    """

    def __init__(self, frames: Mapping[str, pd.DataFrame], groups: Mapping[str, str] | None = None) -> None:
        groups = {agent: agent for agent in frames} if groups is None else groups
        self.frame = pd.concat(
            [frame.assign(agent=agent, group=groups[agent]) for agent, frame in frames.items()], ignore_index=True
        )

    @property
    def groups(self) -> list[str]:
        """The groups, in the order of the rows."""
        return list(self.frame["group"].unique())

    @property
    def channels(self) -> list[str]:
        """The channels, in the order of the rows, without ``natural``."""
        return [channel for channel in self.frame["channel"].unique() if channel != "natural"]

    def kept(self) -> "pd.Series[float]":
        """
        :return: By agent, which share of its natural return it keeps at the worst size of a channel, on average over
            the channels; NaN where the natural return is not above 0.
        """
        worst = self.frame.groupby(["agent", "channel"], sort=False)["return"].min().unstack("channel")
        natural = worst["natural"].where(worst["natural"] > 0)
        return worst[self.channels].div(natural, axis="index").mean(axis="columns")

    def to_markdown(self, tablefmt: str = "pipe") -> str:
        """
        :param tablefmt: One of ``tabulate``'s formats.
        :return: A table: a row for each channel and size, a column for each group with the mean return of its agents.
        """
        order = pd.MultiIndex.from_frame(self.frame[["channel", "size"]].drop_duplicates())
        table = self.frame.pivot_table("return", ["channel", "size"], "group").loc[order, self.groups]
        lines = [
            [
                str(channel),
                "" if channel == "natural" else f"{size:g} {UNITS[channel]}",
                *(NONE if math.isnan(one) else number(one) for one in row),
            ]
            for (channel, size), row in zip(table.index, table.to_numpy(), strict=True)
        ]
        members = self.frame.drop_duplicates("agent").set_index("agent")["group"]
        shares = self.kept().groupby(members).mean().loc[self.groups]
        lines.append(["kept on average", "", *(percent(share).lstrip("+") for share in shares)])
        counts = members.value_counts()
        names = [f"{one} ({counted(int(counts[one]), 'agent')})" if counts.max() > 1 else one for one in self.groups]
        align = ["left", "left", *["right"] * len(names)]
        return tabulate(lines, ["channel", "size", *names], tablefmt, colalign=align, disable_numparse=True)

    def plot(self) -> "Figure":
        """
        :return: A panel for each channel: mean return with its standard error against the size, from where nothing is
            disturbed, a line for each agent in the colour of its group. Sizes are evenly spaced.
        :raises ImportError: if matplotlib is not installed.
        """
        n_rows, n_columns = -(-len(self.channels) // _COLUMNS), min(len(self.channels), _COLUMNS)
        figure, grid = canvas(
            2.4 * n_columns + 1.5, 2.3 * n_rows, nrows=n_rows, ncols=n_columns, squeeze=False, sharey=True
        )
        colours = {group: COLOURS[i % len(COLOURS)] for i, group in enumerate(self.groups)}
        handles = {}
        for axes, channel in zip(grid.flat, self.channels, strict=False):
            for (group, _), rows in self.frame.groupby(["group", "agent"], sort=False):
                undisturbed = rows[rows["channel"] == "natural"].assign(size=1.0 if UNITS[channel] == "times" else 0.0)
                points = pd.concat([undisturbed, rows[rows["channel"] == channel]]).sort_values("size")
                handles[str(group)] = axes.errorbar(
                    range(len(points)),
                    points["return"],
                    points["standard_error"],
                    fmt="o-",
                    ms=3.5,
                    lw=1.3,
                    elinewidth=1,
                    color=colours[str(group)],
                )
            axes.set_xticks(range(len(points)), [f"{size:g}" for size in points["size"]])
            axes.set_title(channel.replace("_", " "), loc="left")
            axes.set_xlabel(UNITS[channel])
            axes.grid(axis="y", alpha=0.25)
        for axes in grid.flat[len(self.channels) :]:
            axes.set_visible(False)
        for row in grid:
            row[0].set_ylabel("mean return")
        figure.legend(list(handles.values()), list(handles), loc="outside right upper", frameon=False)
        return figure
