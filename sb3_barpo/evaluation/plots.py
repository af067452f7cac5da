"""A report and an episode in pictures. They need matplotlib, which is imported only when one is drawn."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sb3_barpo.attacks import ATTACKS, LearnedAttack
from sb3_barpo.evaluation.rows import NATURAL, Rows
from sb3_barpo.evaluation.statistics import bootstrap_interval
from sb3_barpo.figures import COLOURS, canvas, counted, display, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sb3_barpo.evaluation.trace import Trace

_UNITS = {"std": " standard deviations", "raw": " raw units", "sheet": " of the spec sheet", "": ""}


def returns_by_attack(rows: Rows, epsilon: float | None = None) -> "Figure":
    """
    :param rows: The episodes.
    :param epsilon: The strength, the largest by default.
    :return: One group for natural and for each attack, in it the agents: every episode a dot, the mean a pair of dashes
        beside the dots, and a triangle below the attack that is worst for an agent.
    :raises ImportError: if matplotlib is not installed.
    :raises ValueError: if there are no episodes at this ε.
    """
    shown = rows.at(epsilon)
    groups = list(shown["attack"].unique())
    worst = rows.summary(epsilon)["worst_attack"]
    width = 0.8 / len(rows.agents)
    figure, axes = canvas(min(max(6.8, 2.4 + len(groups) * (0.7 + 0.45 * len(rows.agents))), 12.0))
    for a, agent in enumerate(rows.agents):
        colour = COLOURS[a % len(COLOURS)]
        for g, attack in enumerate(groups):
            returns = shown.loc[(shown["agent"] == agent) & (shown["attack"] == attack), "return"].to_numpy()
            centre = g + (a - (len(rows.agents) - 1) / 2) * width
            places = centre + 0.28 * width * _jitter(len(returns))
            axes.plot(places, returns, "o", color=colour, alpha=0.45, ms=4, mew=0)
            for side, label in ((-1, agent if g == 0 else None), (1, None)):
                ends = [centre + side * 0.34 * width, centre + side * 0.44 * width]
                axes.plot(ends, [returns.mean()] * 2, color=colour, lw=3, label=label)
            if attack == worst[agent]:
                axes.plot(centre, 0.015, "^", color=colour, ms=7, transform=axes.get_xaxis_transform(), clip_on=False)
    axes.set_xticks(range(len(groups)), [display(attack) for attack in groups])
    axes.set_xlim(-0.55, len(groups) - 0.45)
    axes.margins(y=0.08)
    axes.tick_params(axis="x", length=0)
    axes.axvline(0.5, color="0.8", lw=1)  # natural on the one side, attacks on the other
    strength = rows.epsilons[-1] if epsilon is None else epsilon
    legend = f"Dots: {counted(len(rows.seeds))}; dashes: their means; triangles: the worst attacks"
    _finish(axes, f"{_where(rows)}ε = {strength:g}{_unit(rows)}\n{legend}")
    return figure


def worst_case_by_epsilon(rows: Rows, mixed_units: bool = False) -> "Figure":
    """
    :param rows: The episodes.
    :param mixed_units: Whether to draw agents whose ε are in different units on one axis.
    :return: Mean return under the worst attack at each ε, a line for each agent; its band is the 95 % bootstrap
        interval of the mean over the episodes.
    :raises ImportError: if matplotlib is not installed.
    :raises ValueError: if there is only one ε besides 0, or the agents' ε are in different units.
    """
    strengths = [epsilon for epsilon in rows.epsilons if epsilon > 0]
    if len(strengths) < 2:
        raise ValueError(
            f"A curve over ε needs two strengths besides 0, but there is {strengths}. Evaluate several: "
            "evaluate_robustness(..., epsilon=[0.05, 0.1, 0.15])."
        )
    if len(rows.units) > 1 and not mixed_units:
        raise ValueError(
            f"The agents' ε are in different units ({', '.join(unit or 'unknown' for unit in rows.units)}), so one "
            "axis would compare what is not comparable. Draw them one by one, or pass mixed_units=True."
        )
    figure, axes = canvas(7.6)
    for a, agent in enumerate(rows.agents):
        points = [_returns(rows, agent, strengths[0], NATURAL)]
        for epsilon in strengths:
            points.append(_returns(rows, agent, epsilon, str(rows.summary(epsilon).loc[agent, "worst_attack"])))
        means = [returns.mean() for returns in points]
        ends = [bootstrap_interval(one, np.mean) if len(one) > 1 else (one[0], one[0]) for one in points]
        low, high = np.transpose(ends)
        colour = COLOURS[a % len(COLOURS)]
        axes.plot([0.0, *strengths], means, marker="osD^vPX"[a % 7], color=colour, lw=2.2, ms=6, label=agent)
        axes.fill_between([0.0, *strengths], low, high, color=colour, alpha=0.2, lw=0)
    axes.set_xlabel(_axis(rows))
    under = "worst attack at each ε" if len(rows.attacks) > 1 else display(rows.attacks[0])
    kinds: list[Any] = [ATTACKS.get(attack, object) for attack in rows.attacks]
    fitted = f"; learned attacks fitted at ε = {strengths[-1]:g}, scaled"
    scaled = fitted if any(issubclass(kind, LearnedAttack) for kind in kinds) else ""
    _finish(
        axes,
        f"{_where(rows)}{under}{scaled}\nMean over {counted(len(rows.seeds))} with its 95 % bootstrap interval",
    )
    return figure


def _returns(rows: Rows, agent: str, epsilon: float, attack: str) -> np.ndarray:
    shown = rows.at(epsilon)
    returns: np.ndarray = shown.loc[(shown["agent"] == agent) & (shown["attack"] == attack), "return"].to_numpy()
    return returns


def plot_trace(clean: "Trace", attacked: "Trace", title: str) -> "Figure":
    """
    :param clean: An episode without an attack.
    :param attacked: The episode of the same seed under attack.
    :param title: The title of the picture.
    :return: Over the steps of the attacked episode, from the top: what the attack added to each feature, in units of ε;
        the feature that it moved most, clean and as the agent saw it; the action that differed most, as the agent took
        it and as it would have taken it without the attack (these two if the trace has actions); the reward summed up
        so far, with and without the attack. Observations of several dimensions are flattened to features.
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
    names = attacked.features or [f"feature {i}" for i in range(len(shares))]
    many = len(shares) > 40
    rows = 4.8 if many else max(0.19 * len(shares), 1.6)  # height in inches
    heights = [rows, *([1.4, 1.4] if attacked.actions is not None else []), 1.9]
    figure, (top, *middle, bottom) = canvas(
        8.6, sum(heights) + 1.2, nrows=len(heights), sharex=True, gridspec_kw={"height_ratios": heights}
    )
    picture = top.imshow(
        shares,
        cmap="RdBu_r",
        vmin=-1,
        vmax=1,
        aspect="auto",
        interpolation="antialiased" if many else "nearest",  # sharp where there is a pixel for each feature
        extent=(0, steps, len(shares) - 0.5, -0.5),
    )
    top.set_title(title, loc="left")
    if many:
        top.set_ylabel("feature")
    else:
        top.set_yticks(range(len(shares)), names, fontsize=8)
    figure.colorbar(picture, ax=top, label="δ / ε", ticks=[-1, 0, 1], pad=0.01, aspect=12.5 * rows)
    if middle:
        moved = int(np.abs(shares).mean(axis=1).argmax())
        observed = attacked.observations.reshape(steps, -1)[:, moved]
        _pair(middle[0], observed, observed + shares[moved] * attacked.epsilon, ["clean", "as seen"], names[moved])
        _actions(middle[1], attacked)
    for trace, colour in zip((clean, attacked), COLOURS, strict=False):
        length, sums = len(trace.rewards), np.concatenate([[0.0], np.cumsum(trace.rewards)])
        shown = sums[: steps + 1]
        label = f"{display(trace.attack)}: {number(sums[-1])} in {counted(length, 'step')}"
        bottom.plot(shown, color=colour, lw=2.2, label=label)
        if length <= steps:
            bottom.plot(length, sums[-1], "o", color=colour, ms=6, clip_on=False, zorder=3)
    top.set_xlim(0, steps)
    top.xaxis.get_major_locator().set_params(integer=True)
    bottom.set_xlabel("step")
    bottom.set_ylabel("reward so far")
    _legend_above(bottom)
    return figure


def _actions(axes: "Axes", trace: "Trace") -> None:
    steps = len(trace.rewards)
    taken = np.asarray(trace.actions, dtype=float).reshape(steps, -1)
    clean = np.asarray(trace.clean_actions, dtype=float).reshape(steps, -1)
    most = int(np.abs(taken - clean).mean(axis=0).argmax())
    _pair(axes, clean[:, most], taken[:, most], ["on clean", "as taken"], f"action {most}")


def _pair(axes: "Axes", clean: np.ndarray, shown: np.ndarray, labels: Sequence[str], what: str) -> None:
    for values, colour, label in zip((clean, shown), COLOURS, labels, strict=False):
        axes.plot(np.arange(len(values)) + 0.5, values, color=colour, lw=1.4, label=label)
    axes.set_ylabel(what)
    _legend_above(axes)


def _legend_above(axes: "Axes") -> None:
    axes.grid(axis="y", alpha=0.25)
    # Above the axes, where no line can lie behind it.
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0, ncols=2, frameon=False)


def _where(rows: Rows) -> str:
    return f"{rows.env}: " if rows.env else ""


def _axis(rows: Rows) -> str:
    """The label of an axis of ε."""
    if rows.units == ["sheet"]:
        return "attack, as a share of the spec sheet"
    return f"ε of the attack{_unit(rows).replace(' ', ', in ', 1)}"


def _unit(rows: Rows) -> str:
    return _UNITS[rows.units[0]] if len(rows.units) == 1 else " (in different units)"


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
