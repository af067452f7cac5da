"""A report in words: the table and the sentence."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
from tabulate import tabulate

from sb3_barpo.attacks import ATTACKS, LearnedAttack
from sb3_barpo.evaluation import statistics
from sb3_barpo.evaluation.measures import MEASURES, measures, told
from sb3_barpo.evaluation.rows import Rows
from sb3_barpo.figures import NONE, counted, number, percent, spread


def returns(rows: Rows, tablefmt: str = "pipe") -> str:
    """
    :param rows: The episodes.
    :param tablefmt: One of ``tabulate``'s formats.
    :return: A table, one row for each agent and ε.
    """
    columns = ["natural", *rows.attacks]
    units = {str(agent): str(unit) for agent, unit in rows.origins["unit"].items()}
    mixed = ["unit of ε"] * (len(rows.units) > 1)
    several = ["best response"] * (len(rows.attacks) > 1)
    lines: list[list[str]] = []
    for epsilon in rows.epsilons:
        for agent, row in rows.summary(epsilon).iterrows():
            unit = [units[str(agent)] for _ in mixed]
            cells = [spread(row[name], row[f"{name}_std"]) if name in row else NONE for name in columns]
            response = [number(row["best_response"]) for _ in several]
            worst = [number(row["worst_case"]), *response, _change(row)]
            lines.append([str(agent), f"{epsilon:g}", *unit, *cells, *worst])
    headers = ["agent", "ε", *mixed, *columns, "worst case", *several, "robustness"]
    return _tabulated(headers, lines, tablefmt)


def by_algorithm(rows: Rows, tablefmt: str = "pipe") -> str:
    """
    :param rows: The episodes.
    :param tablefmt: One of ``tabulate``'s formats.
    :return: A table at the largest ε, one row an algorithm, of interquartile means over the seeds of training; empty if
        no algorithm has two seeds.
    """
    table = statistics.by_algorithm(rows)
    if table["n_seeds"].max() < 2:
        return ""
    lines = [
        [algorithm, row["n_seeds"], *(_interval(row, column) for column in ("natural", "worst_case"))]
        for algorithm, row in table.iterrows()
    ]
    return _tabulated(["algorithm", "training seeds", "natural", "worst case"], lines, tablefmt)


def beyond_the_mean(rows: Rows, tablefmt: str = "pipe") -> str:
    """
    :param rows: The episodes.
    :param tablefmt: One of ``tabulate``'s formats.
    :return: A table of :func:`sb3_barpo.evaluation.measures.measures` at the largest ε, one row for each agent and
        attack.
    """
    lines = [
        [row["agent"], _SHOWN.get(row["attack"], row["attack"]), *(_bounded(row, name) for name in MEASURES)]
        for row in told(measures(rows))
    ]
    return _tabulated(["agent", "attack", "mean", "median", "lowest tenth (CVaR)"], lines, tablefmt)


def moved(judged: Mapping[str, Any], tablefmt: str = "pipe") -> str:
    """
    :param judged: What a report holds.
    :param tablefmt: One of ``tabulate``'s formats.
    :return: A table of how far the actions of each agent move under its most damaging attack.
    """
    found = {name: agent["moved"] for name, agent in judged["agents"].items() if "moved" in agent}
    lines = [
        [name, one["attack"], *(_bounded(one, measure) for measure in ("shift", "flip_rate"))]
        for name, one in found.items()
    ]
    return _tabulated(["agent", "attack", "action shift", "flip rate"], lines, tablefmt)


MEASURES_LEGEND = (
    "At the largest ε, with 95 % bootstrap intervals over the episodes. Best response: each episode's lowest return "
    "under any of the attacks. Lowest tenth: the mean of the lowest tenth of the episodes."
)
MOVED_LEGEND = (
    "How the most damaging attack moves the most likely action: its distance from the one at the clean observation, in "
    "units of half the range of each dimension (or the share of discrete actions that differ), and the share of steps "
    "at which it changes sides, or to another choice. 95 % bootstrap intervals over series of episodes."
)
_SHOWN = {"best_response": "best response"}


def _bounded(row: Mapping[str, Any], name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if low is None or high is None:
        return number(row[name])
    return f"{number(row[name])} [{number(low)}, {number(high)}]"


def _tabulated(headers: list[str], lines: list[list[Any]], tablefmt: str) -> str:
    align = ["left"] + ["right"] * (len(headers) - 1)
    return tabulate(lines, headers, tablefmt=tablefmt, colalign=align, disable_numparse=True)


def by_algorithm_legend(rows: Rows) -> str:
    """
    :param rows: The episodes.
    :return: What the figures of :func:`by_algorithm` are.
    """
    return (
        f"ε = {rows.epsilons[-1]:g}. Interquartile mean over the training seeds, with its 95 % bootstrap interval, "
        "which is too narrow for few seeds."
    )


def _interval(row: pd.Series, column: str) -> str:
    if row["n_seeds"] < 2:
        return number(row[column])
    return f"{number(row[column])} [{number(row[f'{column}_low'])}, {number(row[f'{column}_high'])}]"


def _change(row: pd.Series) -> str:
    """Robustness as a share, where a share says something."""
    if row["worst_case"] >= row["natural"]:
        return "not harmed"
    return percent(row["robustness"]) if row["natural"] * row["worst_case"] > 0 else NONE


def legend(rows: Rows) -> str:
    """
    :param rows: The episodes.
    :return: What the figures of :func:`returns` are.
    """
    seeds = rows.seeds
    consecutive = seeds == list(range(seeds[0], seeds[0] + len(seeds)))
    listed = f"{seeds[0]} to {seeds[-1]}" if consecutive and len(seeds) > 1 else ", ".join(map(str, seeds))
    return (
        f"Return: mean ± standard deviation over {counted(len(seeds))}, the same for every column and agent "
        f"(seed{'s' * (len(seeds) > 1)} {listed}). Worst case: the lowest mean over the attacks. "
        f"{_BEST_RESPONSE * (len(rows.attacks) > 1)}"
        f"Robustness: (worst case − natural) / |natural|, {NONE} where returns cross zero.{_units(rows.units)}"
    )


_BEST_RESPONSE = "Best response: the mean of each episode's lowest return, had the attack been chosen for its start. "


def _units(units: list[str]) -> str:
    if len(units) > 1:
        return (
            " The agents' ε are in different units (std: standard deviations, under VecNormalize; raw: the "
            "environment's own; sheet: shares of a spec sheet), so equal numbers are not equally strong attacks."
        )
    return {
        "std": " ε is in standard deviations of the observations, under VecNormalize.",
        "raw": " ε is in the observations' own units.",
        "sheet": " ε is a share of the spec sheet: 1 is the sheet.",
    }.get(units[0], "")


def verdict(rows: Rows) -> str:
    """
    :param rows: The episodes.
    :return: A sentence on the largest ε: what each agent keeps, and who has the highest worst case; and another where
        something speaks against it.
    """
    table = rows.summary()
    attacks = [attack for attack in rows.attacks if attack in table]
    under = _joined(attacks) if len(attacks) == 1 else f"the worst of {_joined(attacks)}"
    unit = (
        {"std": " standard deviations", "raw": " raw units", "sheet": " of the spec sheet"}.get(rows.units[0], "")
        if len(rows.units) == 1
        else ""
    )
    opening = f"Under {under} at ε = {rows.epsilons[-1]:g}{unit} ({counted(len(rows.seeds))} each)"
    harmed = table["worst_case"] < table["natural"]
    clauses = [_kept(table[harmed])] if harmed.any() else []
    clauses += [_unharmed(table[~harmed])] if not harmed.all() else []
    return f"{opening}, {'; '.join(clauses)}{_winner(table, len(rows.seeds))}.{_reservations(rows)}"


def _unharmed(table: pd.DataFrame) -> str:
    return f"no attack harmed {_joined([f'{agent} ({_way(row)})' for agent, row in table.iterrows()])}"


def _reservations(rows: Rows) -> str:
    """What speaks against the verdict."""
    kinds = [ATTACKS.get(attack) for attack in rows.attacks]
    told = ""
    if all(kind is not None and not issubclass(kind, LearnedAttack) for kind in kinds):
        told += " Learned attacks were not run; they are often stronger."
    if len(rows.units) > 1:
        told += " The agents' ε are in different units, so their figures are not comparable."
    return told


def _way(row: pd.Series) -> str:
    return f"{number(row['natural'])} → {number(row['worst_case'])}"


def _kept(table: pd.DataFrame) -> str:
    """Shares where they make sense, otherwise the returns alone."""
    ways = [_way(row) for _, row in table.iterrows()]
    if (table["natural"] <= 0).any() or (table["worst_case"] < 0).any():
        goes = [f"{way} for {agent}" for agent, way in zip(table.index, ways, strict=True)]
        return f"the mean return goes {', '.join(goes)}"
    shares = [f"{100 * row['worst_case'] / row['natural']:.0f} %" for _, row in table.iterrows()]
    first, *others = [f"{share} ({way})" for share, way in zip(shares, ways, strict=True)]
    first = first.replace("%", "% of its natural return")
    return ", ".join([f"{table.index[0]} keeps {first}", *map(" ".join, zip(table.index[1:], others, strict=True))])


def _winner(table: pd.DataFrame, n_episodes: int) -> str:
    """Who has the highest worst case, and whether the episodes suffice to say so."""
    if len(table) == 1:
        return ""
    ranked = table.sort_values("worst_case", ascending=False, kind="stable")
    best, second = ranked.iloc[0], ranked.iloc[1]
    gap = best["worst_case"] - second["worst_case"]
    if gap == 0:
        equals = table.index[table["worst_case"] == best["worst_case"]]
        return f"; {_joined([str(agent) for agent in equals])} share the highest worst case"
    claim = f"; {best.name} has the highest worst case"
    variances = [row[f"{row['worst_attack']}_std"] ** 2 for row in (best, second)]
    if n_episodes > 1 and gap < 2 * math.sqrt(sum(variances) / (n_episodes - 1)):
        return f"{claim}, though {second.name} is too close for {n_episodes} episodes to tell them apart"
    return claim


def _joined(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
