"""A report and an episode in pictures. They need matplotlib, which is imported only when one is drawn."""

from typing import TYPE_CHECKING

import numpy as np

from sb3_barpo.evaluation.rows import Rows
from sb3_barpo.figures import COLOURS, canvas, counted, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sb3_barpo.evaluation.trace import Trace


def returns_by_attack(rows: Rows, epsilon: float | None = None) -> "Figure":
    """
    :param rows: The episodes.
    :param epsilon: Which strength to look at, the largest by default.
    :return: One group for natural and for each attack, in it the agents: every episode a dot, the mean a line.
    :raises ImportError: if matplotlib is not installed.
    :raises ValueError: if there are no episodes at this ε.
    """
    shown = rows.at(epsilon)
    groups = list(shown["attack"].unique())
    width = 0.8 / len(rows.agents)
    figure, axes = canvas(min(max(6.4, 2.4 + len(groups) * (0.7 + 0.45 * len(rows.agents))), 12.0))
    for a, agent in enumerate(rows.agents):
        colour = COLOURS[a % len(COLOURS)]
        for g, attack in enumerate(groups):
            returns = shown.loc[(shown["agent"] == agent) & (shown["attack"] == attack), "return"].to_numpy()
            centre = g + (a - (len(rows.agents) - 1) / 2) * width
            places = centre + 0.35 * width * _jitter(len(returns))
            axes.plot(places, returns, "o", color=colour, alpha=0.45, ms=4, mew=0)
            mean = returns.mean()
            label = agent if g == 0 else None
            axes.plot([centre - 0.42 * width, centre + 0.42 * width], [mean, mean], color=colour, lw=3, label=label)
    axes.set_xticks(range(len(groups)), groups)
    axes.set_xlim(-0.55, len(groups) - 0.45)
    axes.tick_params(axis="x", length=0)
    axes.axvline(0.5, color="0.8", lw=1)  # natural on the one side, attacks on the other
    strength = rows.epsilons[-1] if epsilon is None else epsilon
    _finish(axes, f"Attacks at ε = {strength:g}. Dots: {counted(len(rows.seeds))}; lines: their means")
    return figure


def worst_case_by_epsilon(rows: Rows) -> "Figure":
    """
    :param rows: The episodes.
    :return: Mean return under the worst attack at each ε, a line for each agent; its band is one standard deviation.
    :raises ImportError: if matplotlib is not installed.
    :raises ValueError: if there is only one ε besides 0.
    """
    strengths = [epsilon for epsilon in rows.epsilons if epsilon > 0]
    if len(strengths) < 2:
        raise ValueError(
            f"A curve over ε needs two strengths besides 0, but there is {strengths}. Evaluate several: "
            "evaluate_robustness(..., epsilon=[0.05, 0.1, 0.15])."
        )
    tables = [rows.summary(epsilon) for epsilon in strengths]
    figure, axes = canvas(7.6)
    for a, agent in enumerate(rows.agents):
        points = [table.loc[agent] for table in tables]
        means = np.array([points[0]["natural"], *(row["worst_case"] for row in points)], dtype=float)
        stds = np.array([points[0]["natural_std"], *(row[f"{row['worst_attack']}_std"] for row in points)], dtype=float)
        colour = COLOURS[a % len(COLOURS)]
        axes.plot([0.0, *strengths], means, marker="osD^vPX"[a % 7], color=colour, lw=2.2, ms=6, label=agent)
        axes.fill_between([0.0, *strengths], means - stds, means + stds, color=colour, alpha=0.15, lw=0)
    axes.set_xlabel("ε of the attack")
    under = "Worst attack at each ε" if len(rows.attacks) > 1 else f"Attack: {rows.attacks[0]}"
    _finish(axes, f"{under}. Mean ± standard deviation over {counted(len(rows.seeds))}")
    return figure


def plot_trace(clean: "Trace", attacked: "Trace", title: str) -> "Figure":
    """
    :param clean: An episode without an attack.
    :param attacked: The episode of the same seed under attack.
    :param title: What stands above.
    :return: Above, what the attack added to each feature at each step, in units of ε; below, the reward summed up so
        far, with and without the attack. Observations of several dimensions are flattened to features.
    :raises ImportError: if matplotlib is not installed.
    :raises ValueError: if the seeds differ.
    """
    if clean.seed != attacked.seed:
        raise ValueError(
            f"Both traces must be of one episode, but their seeds are {clean.seed} and {attacked.seed}. "
            "Trace one seed twice, without the attack and with it."
        )
    steps = len(attacked.rewards)
    shares = attacked.perturbations.reshape(steps, -1).T / (attacked.epsilon or 1.0)  # all 0 where ε is
    many = len(shares) > 40
    rows = 4.8 if many else max(0.16 * len(shares), 1.6)  # height in inches
    figure, (top, bottom) = canvas(8.6, rows + 3.1, nrows=2, sharex=True, gridspec_kw={"height_ratios": [rows, 1.9]})
    picture = top.imshow(
        shares,
        cmap="RdBu_r",
        vmin=-1,
        vmax=1,
        aspect="auto",
        interpolation="antialiased" if many else "nearest",  # sharp where there is a pixel for each feature
        extent=(0, steps, len(shares) - 0.5, -0.5),
    )
    top.set_facecolor("0.93")  # of the time after the attacked episode's end
    top.set_title(title, loc="left")
    top.set_ylabel("feature")
    for axis in (top.yaxis, top.xaxis):
        axis.get_major_locator().set_params(integer=True)
    figure.colorbar(picture, ax=top, label="δ / ε", ticks=[-1, 0, 1], pad=0.01, aspect=12.5 * rows)
    for trace, colour in zip((clean, attacked), COLOURS, strict=False):
        length, sums = len(trace.rewards), np.concatenate([[0.0], np.cumsum(trace.rewards)])
        label = f"{trace.attack}: {number(sums[-1])} in {length} steps"
        bottom.plot(sums, color=colour, lw=2.2, label=label)
        bottom.plot(length, sums[-1], "o", color=colour, ms=6, clip_on=False, zorder=3)
    bottom.set_xlim(0, max(len(clean.rewards), steps))
    bottom.set_xlabel("step")
    bottom.set_ylabel("reward so far")
    bottom.grid(axis="y", alpha=0.25)
    # Above the axes, where no line can lie behind it.
    bottom.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0, ncols=2, frameon=False)
    return figure


def _finish(axes: "Axes", title: str) -> None:
    axes.set_title(title, loc="left")
    axes.set_ylabel("return")
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    # Beside the axes, where no episode can lie behind it.
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)


def _jitter(n: int) -> np.ndarray:
    """Places in [-1, 1] that look random and are the same each time: multiples of the golden ratio."""
    return 2 * ((np.arange(n) * 0.6180339887498949 + 0.5) % 1) - 1
