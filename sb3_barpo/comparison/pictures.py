"""A comparison in pictures. They need matplotlib, which is imported only when one is drawn."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sb3_barpo.comparison.report import MEASURES, ComparisonReport
from sb3_barpo.figures import COLOURS, canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Further colours for comparisons of many (Paul Tol's muted scheme).
_COLOURS = [*COLOURS, "#882255", "#999933", "#661100"]
_MARKERS = "osD^vPX<>"
_NAMES = {"natural": "natural", "worst_case": "worst case"}


def returns(report: ComparisonReport) -> "Figure":
    """
    :param report: The comparison.
    :return: A panel for each task, in it a row for each algorithm: every seed a dot, hollow without an attack and full
        under the worst; a line at the interquartile mean, and its 95 % bootstrap interval as a band.
    :raises ImportError: if matplotlib is not installed.
    """
    n = len(report.algorithms)
    columns = min(len(report.envs), 2)
    rows = math.ceil(len(report.envs) / columns)
    figure, grid = canvas(
        1.6 + 4.4 * columns, 0.7 + rows * (0.8 + 0.42 * n), nrows=rows, ncols=columns, sharey=True, squeeze=False
    )
    table = _by_place(report)
    for axes, env in zip(grid.flat, report.envs, strict=False):
        for a, algorithm in enumerate(report.algorithms):
            if (row := table.get((env, algorithm))) is not None:
                for lane, measure in ((-0.19, "natural"), (0.19, "worst_case")):
                    _lane(axes, a + lane, report.scores(env, algorithm, measure), row, measure, _colour(a))
        axes.set_yticks(range(n), report.algorithms)
        axes.set_ylim(n - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        for edge in np.arange(n - 1) + 0.5:
            axes.axhline(edge, color="0.92", lw=0.8, zorder=0)
        _finish(axes, f"{env}, ε = {report.reports[env].epsilons[-1]:g}", "x")
        if report.agents.loc[report.agents["env"] == env, MEASURES].to_numpy().min() >= 0:
            axes.set_xlim(left=0)
    _blank(grid, len(report.envs))
    for axes in grid[-1]:
        axes.set_xlabel("return")
    band = "; band: its 95 % bootstrap interval" if report.n_seeds > 1 else ""
    between = "\n" if columns == 1 else " "  # one panel is too narrow for one line
    told = f"Hollow: natural; full: worst case.{between}Dots: seeds; line: interquartile mean{band}"
    figure.suptitle(told, x=0.01, ha="left", fontsize=10)
    return figure


def _lane(axes: "Axes", y: float, scores: np.ndarray, row: dict[str, Any], measure: str, colour: str) -> None:
    full = measure == "worst_case"
    low, high = row[f"{measure}_low"], row[f"{measure}_high"]
    if not np.isnan(low):
        axes.barh(y, high - low, left=low, height=0.26, color=colour, alpha=0.28 if full else 0.12, lw=0)
    axes.plot([row[measure]] * 2, [y - 0.15, y + 0.15], color=colour, lw=2.4, solid_capstyle="butt")
    face = colour if full else "white"
    axes.plot(scores, [y] * len(scores), "o", ms=4.2, mfc=face, mec=colour, mew=1, alpha=0.85, clip_on=False, zorder=3)


def scatter(report: ComparisonReport) -> "Figure":
    """
    :param report: The comparison.
    :return: A panel for each task, worst-case return against natural return: every seed small, the interquartile means
        of each algorithm large, with their 95 % bootstrap intervals. On the dashed line nothing is lost.
    :raises ImportError: if matplotlib is not installed.
    """
    columns = min(len(report.envs), 2)
    rows = math.ceil(len(report.envs) / columns)
    figure, grid = canvas(2.2 + 4.0 * columns, 0.4 + 3.7 * rows, nrows=rows, ncols=columns, squeeze=False)
    table = _by_place(report)
    for axes, env in zip(grid.flat, report.envs, strict=False):
        values = report.agents.loc[report.agents["env"] == env, MEASURES].to_numpy(dtype=float)
        ends = [min(values.min(), 0) if values.min() >= 0 else values.min(), values.max()]
        axes.plot(ends, ends, "--", color="0.6", lw=1, zorder=0)
        for a, algorithm in enumerate(report.algorithms):
            if (row := table.get((env, algorithm))) is None:
                continue
            marker, means = _MARKERS[a % len(_MARKERS)], [row[measure] for measure in MEASURES]
            seeds = [report.scores(env, algorithm, measure) for measure in MEASURES]
            axes.plot(*seeds, marker, color=_colour(a), ms=4.5, mew=0, alpha=0.45)
            errors = [[[row[m] - row[f"{m}_low"]], [row[f"{m}_high"] - row[m]]] for m in MEASURES]
            if not np.isnan(errors).any():
                axes.errorbar(
                    *means,
                    xerr=np.maximum(errors[0], 0),
                    yerr=np.maximum(errors[1], 0),
                    color=_colour(a),
                    lw=1.2,
                    alpha=0.7,
                )
            axes.plot(*means, marker, color=_colour(a), ms=9, mec="white", mew=1, zorder=4)
        if ends[0] >= 0:
            axes.set_xlim(left=0)
            axes.set_ylim(bottom=0)
        _finish(axes, f"{env}, ε = {report.reports[env].epsilons[-1]:g}", "both")
        axes.set_xlabel("natural return")
        axes.set_ylabel("worst-case return")
    _blank(grid, len(report.envs))
    _legend(figure, report, markers=True)
    return figure


def profiles(report: ComparisonReport) -> "Figure":
    """
    :param report: The comparison.
    :return: Performance profiles: the share of an algorithm's agents, over all tasks, whose score is above that of the
        horizontal axis, natural and in the worst case, with 95 % stratified bootstrap intervals.
    :raises ImportError: if matplotlib is not installed.
    """
    figure, pair = canvas(10.4, 3.9, ncols=2, sharey=True)
    highest = max(float(np.concatenate(tables).max()) for tables in report.scaled("natural").values())
    at = np.linspace(0, 1.02 * highest, 205)
    for axes, measure in zip(pair, MEASURES, strict=True):
        for a, (share, low, high) in enumerate(report.profiles(measure, at).values()):
            axes.plot(at, share, color=_colour(a), lw=2, ls=_dashes(a), drawstyle="steps-post")
            if not np.isnan(low).any():
                axes.fill_between(at, low, high, color=_colour(a), alpha=0.1, lw=0, step="post")
        axes.set_xlim(0, at[-1])
        axes.set_ylim(0, 1.03)
        axes.set_xlabel(f"score τ, {_NAMES[measure]}")
        _finish(axes, f"{_NAMES[measure].capitalize()}", "both")
    pair[0].set_ylabel("share of agents above τ")
    _legend(figure, report)
    return figure


def improvement(report: ComparisonReport) -> "Figure":
    """
    :param report: The comparison.
    :return: Probabilities of improvement, natural and in the worst case: how likely it is that an agent of the row's
        algorithm has a higher return than one of the column's.
    :raises ImportError: if matplotlib is not installed.
    """
    n = len(report.algorithms)
    size = max(0.62 * n, 2.0)
    figure, pair = canvas(2 * size + 3.4, size + 1.9, ncols=2, sharey=True)
    for axes, measure in zip(pair, MEASURES, strict=True):
        table = report.improvement(measure).to_numpy(copy=True)
        np.fill_diagonal(table, np.nan)
        picture = axes.imshow(table, cmap="RdBu", vmin=0, vmax=1)
        for row, column in np.ndindex(n, n):
            if row != column:
                value = table[row, column]
                colour = "white" if abs(value - 0.5) > 0.35 else "black"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=9, color=colour)
        axes.set_xticks(range(n), report.algorithms, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(n), report.algorithms)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(_NAMES[measure].capitalize(), loc="left")
    figure.colorbar(picture, ax=pair, label="P(row above column)", shrink=0.8, pad=0.02)
    return figure


def _by_place(report: ComparisonReport) -> dict[tuple[str, str], dict[str, Any]]:
    """The rows of :meth:`ComparisonReport.by_algorithm` by task and algorithm."""
    return {(row["env"], row["algorithm"]): row for row in _records(report.by_algorithm())}


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def _colour(index: int) -> str:
    return _COLOURS[index % len(_COLOURS)]


def _dashes(index: int) -> str:
    """Beyond the colours, other lines."""
    return ["-", "--", ":"][index // len(_COLOURS) % 3]


def _finish(axes: "Axes", title: str, grid: Any) -> None:
    axes.set_title(title, loc="left")
    axes.grid(axis=grid, alpha=0.25)
    axes.set_axisbelow(True)


def _blank(grid: np.ndarray, used: int) -> None:
    for axes in list(grid.flat)[used:]:
        axes.set_axis_off()


def _legend(figure: "Figure", report: ComparisonReport, markers: bool = False) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=_colour(a), marker=_MARKERS[a % len(_MARKERS)], ls="", ms=8, label=algorithm)
        if markers
        else Line2D([], [], color=_colour(a), ls=_dashes(a), lw=2.2, label=algorithm)
        for a, algorithm in enumerate(report.algorithms)
    ]
    figure.legend(handles=handles, loc="outside right upper", frameon=False)
