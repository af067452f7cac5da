"""The lab in pictures. They need matplotlib, which is imported only when one is drawn."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sb3_barpo.lab.ascent import METHODS, Problem, ascend, objective
from sb3_barpo.lab.ends import KINDS, classify, grid, slope

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe and Ito's colours, which the colour-blind tell apart.
COLOURS = {"trapped": "#D55E00", "low": "#CC79A7", "fragile": "#F0C800", "good": "#009E73"}
WORDS = {
    "trapped": "trapped: low, and robust",
    "low": "low otherwise",
    "fragile": "good until attacked",
    "good": "good and robust",
}
LANDSCAPES = {
    "SPO": "SPO\n$V^{\\pi}$, the natural value",
    "ARPO": "ARPO\nmin$_ν$ $V^{\\pi\\circ\\nu}$, the worst case",
    "BARPO κ = 0": "BARPO, κ = 0\n$V^{\\pi\\circ\\nu}$, ν the KL adversary",
    "BARPO κ = 1": "BARPO, κ = 1\nhalf KL adversary, half natural",
}
MAPS = ("ARPO", "BARPO κ = 1", "BARPO κ = 1, clean rollouts", "ARPO, ramp from 40 to 80 %")


def canvas(width: float, height: float, **grid_of: Any) -> "tuple[Figure, Any]":
    """
    :return: A figure of this size in inches, and its axes: one, or as many as the grid has.
    :raises ImportError: if matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('Pictures need matplotlib: pip install "sb3-barpo[plots]"') from error
    with matplotlib.rc_context({"font.size": 11, "axes.titlesize": 11.5}):
        figure = Figure(figsize=(width, height), dpi=120, layout="compressed")
        return figure, figure.subplots(**grid_of)


def landscapes(problem: Problem, starts: np.ndarray, points: int = 160) -> "Figure":
    """
    :param problem: A problem with two parameters.
    :param starts: Where the drawn ascents start, shape ``(M, 2)``.
    :param points: Number of points of the landscapes along each side; even, to leave out ``b = 0``, where the choice of
        the KL adversary is a tie.
    :return: What SPO, ARPO, BARPO with κ = 0 and with κ = 1 climb, and where they end.
    :raises ImportError: if matplotlib is not installed.
    """
    figure, square = canvas(9.4, 9.6, nrows=2, ncols=2, sharex=True, sharey=True)
    low, high = problem.policy.low, problem.policy.high
    ticks = np.linspace(low, high, points)
    levels = np.linspace(problem.mdp.pessimum(), problem.mdp.optimum()[0] + 1e-9, 25)
    for axes, (name, title) in zip(square.flat, LANDSCAPES.items(), strict=True):
        heights = objective(problem, grid(problem, points), METHODS[name]).reshape(points, points)
        filled = axes.contourf(ticks, ticks, heights, levels=levels, cmap="bone")
        paths = ascend(problem, starts, METHODS[name])
        for path, kind in zip(paths.swapaxes(0, 1), classify(problem, paths[-1]), strict=True):
            _draw_path(axes, path, COLOURS[kind])
        _frame(axes, problem, title)
    bar = figure.colorbar(filled, ax=square, pad=0.02, aspect=40, format="%.1f", ticks=levels[::4])
    bar.set_label("value")
    _legend(figure, "*")
    return figure


def shares_of_ends(shares: Mapping[str, Mapping[str, float]]) -> "Figure":
    """
    :param shares: For each method, the share of each kind of end; see :func:`sb3_barpo.lab.shares`.
    :return: One bar for each method.
    :raises ImportError: if matplotlib is not installed.
    """
    figure, axes = canvas(9.6, 0.9 + 0.42 * len(shares))
    for row, parts in enumerate(shares.values()):
        left = 0.0
        for kind in KINDS:
            share = 100 * parts[kind]
            axes.barh(row, share, left=left, color=COLOURS[kind], height=0.72)
            if share >= 4:
                axes.text(left + share / 2, row, f"{share:.3g}", ha="center", va="center", color="black", fontsize=10)
            left += share
    axes.set_yticks(range(len(shares)), list(shares))
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of the starts")
    axes.tick_params(axis="y", length=0)
    axes.spines[:].set_visible(False)
    _legend(figure, "s")
    return figure


def maps_of_basins(problem: Problem, maps: Mapping[str, np.ndarray]) -> "Figure":
    """
    :param problem: The problem.
    :param maps: For each of four methods its map, see :func:`sb3_barpo.lab.basins`.
    :return: The maps: each start in the colour of its end.
    :raises ImportError: if matplotlib is not installed.
    """
    from matplotlib.colors import ListedColormap

    figure, square = canvas(7.6, 8.8, nrows=2, ncols=2, sharex=True, sharey=True)
    colours = ListedColormap([COLOURS[kind] for kind in KINDS])
    low, high = problem.policy.low, problem.policy.high
    for axes, (name, kinds) in zip(square.flat, maps.items(), strict=True):
        numbers = np.select([kinds == kind for kind in KINDS], range(len(KINDS)))
        half = (high - low) / (2 * len(kinds) - 2)  # starts are in the middle of their pixels
        extent = (low - half, high + half) * 2
        axes.imshow(numbers, origin="lower", extent=extent, cmap=colours, vmin=-0.5, vmax=len(KINDS) - 0.5)
        trapped = 100 * float((kinds == "trapped").mean())
        _frame(axes, problem, f"{name}\n{trapped:.0f} % trapped")
    _legend(figure, "s", columns=2)
    return figure


def profile(problem: Problem, points: int = 401) -> "Figure":
    """
    :return: The footbridge's ridge: the value of policies that ignore the observation, along their bias; and across it
        at the deceptive policy, what each method climbs.
    :raises ImportError: if matplotlib is not installed.
    """
    figure, (along, across) = canvas(10.6, 4.0, ncols=2)
    low, high = problem.policy.low, problem.policy.high
    bias = np.linspace(low, high, points)
    along.plot(bias, problem.natural(np.stack([0 * bias, bias], -1)), color="black", lw=2.2)
    along.set_xlabel("b, with w = 0")
    along.set_title("Along the ridge: natural value = worst case", loc="left")
    weight = np.linspace(-1.5, 0.8, points)
    theta = np.stack([weight, np.full(points, low)], -1)
    for name, colour in zip(LANDSCAPES, ("#0072B2", COLOURS["trapped"], COLOURS["low"], COLOURS["good"]), strict=True):
        steepest = slope(problem, np.array([[0.0, low]]), METHODS[name])[0]
        verdict = "no way up" if steepest <= 1e-3 else f"slope {steepest:.2f}"
        values = objective(problem, theta, METHODS[name])
        across.plot(weight, values, color=colour, lw=2.2, label=f"{name}: {verdict}")
    across.set_xlabel(f"w, with b = {low:g}")
    across.set_title("Across it, at “always wait”", loc="left")
    across.legend(frameon=False)
    for axes in (along, across):
        axes.set_ylabel("value")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    return figure


def family(trapped: Mapping[str, Sequence[float]], title: str) -> "Figure":
    """
    :param trapped: For each method, the share of trapped starts in each member of a family.
    :param title: What stands above.
    :return: A dot for each member, a line at the median.
    :raises ImportError: if matplotlib is not installed.
    """
    figure, axes = canvas(7.6, 0.9 + 0.46 * len(trapped))
    for row, shares in enumerate(trapped.values()):
        percent = 100 * np.asarray(shares)
        # Places that look random and are the same each time: multiples of the golden ratio.
        jitter = 0.5 * ((np.arange(len(percent)) * 0.6180339887498949 + 0.5) % 1 - 0.5)
        axes.plot(percent, row + jitter, "o", color=COLOURS["trapped"], alpha=0.4, ms=5, mew=0, clip_on=False)
        median = np.median(percent)
        axes.plot([median, median], [row - 0.36, row + 0.36], color="black", lw=2.6, clip_on=False)
        axes.text(1.02, row, f"median {median:.3g}", va="center", transform=axes.get_yaxis_transform())
    axes.set_yticks(range(len(trapped)), list(trapped))
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("% of the starts trapped; each dot one MDP")
    axes.set_title(title, loc="left")
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", alpha=0.25)
    return figure


def _draw_path(axes: "Axes", path: np.ndarray, colour: str) -> None:
    axes.plot(path[:, 0], path[:, 1], color="black", lw=3.0, solid_capstyle="round")
    axes.plot(path[:, 0], path[:, 1], color=colour, lw=1.7, solid_capstyle="round")
    axes.plot(*path[0], "o", color=colour, mec="black", ms=5)
    axes.plot(*path[-1], "*", color=colour, mec="black", ms=14, clip_on=False, zorder=6)


def _frame(axes: "Axes", problem: Problem, title: str) -> None:
    intervals = problem.policy.low < 0
    axes.set_title(title, pad=11)  # above the stars of paths that end at the edge
    if axes.get_subplotspec().is_last_row():  # type: ignore[union-attr]
        axes.set_xlabel("w: how much the observation counts" if intervals else "π(a0│first observation)")
    if axes.get_subplotspec().is_first_col():  # type: ignore[union-attr]
        axes.set_ylabel("b: bias towards a0" if intervals else "π(a0│second observation)")
    axes.set_xlim(problem.policy.low, problem.policy.high)
    axes.set_ylim(problem.policy.low, problem.policy.high)
    axes.set_aspect("equal")


def _legend(figure: "Figure", marker: str, columns: int = len(KINDS)) -> None:
    from matplotlib.lines import Line2D

    size = 13 if marker == "*" else 9
    handles = [
        Line2D(
            [],
            [],
            ls="",
            marker=marker,
            ms=size,
            mfc=COLOURS[kind],
            mec="black" if marker == "*" else "none",
            label=WORDS[kind],
        )
        for kind in KINDS
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)
