"""A report in words: the table and the sentence."""

import math

import pandas as pd
from tabulate import tabulate

from sb3_barpo.evaluation.rows import Rows
from sb3_barpo.figures import NONE, counted, number, percent, spread


def markdown(rows: Rows) -> str:
    """
    :param rows: The episodes.
    :return: A table, one row for each agent and ε, and a line that says what its figures are.
    """
    columns = ["natural", *rows.attacks]
    lines = []
    for epsilon in rows.epsilons:
        for agent, row in rows.summary(epsilon).iterrows():
            returns = [spread(row[name], row[f"{name}_std"]) if name in row else NONE for name in columns]
            lines.append([agent, f"{epsilon:g}", *returns, number(row["worst_case"]), percent(row["robustness"])])
    headers = ["agent", "ε", *columns, "worst case", "robustness"]
    align = ["left"] + ["right"] * (len(headers) - 1)
    table = tabulate(lines, headers, tablefmt="pipe", colalign=align, disable_numparse=True)
    return f"{table}\n\n{_legend(rows.seeds)}\n"


def _legend(seeds: list[int]) -> str:
    consecutive = seeds == list(range(seeds[0], seeds[0] + len(seeds)))
    listed = f"{seeds[0]} to {seeds[-1]}" if consecutive and len(seeds) > 1 else ", ".join(map(str, seeds))
    return (
        f"Return: mean ± standard deviation over {counted(len(seeds))}, the same for every column and agent "
        f"(seed{'s' * (len(seeds) > 1)} {listed}). Worst case: the lowest mean over the attacks. "
        "Robustness: (worst case − natural) / |natural|."
    )


def verdict(rows: Rows) -> str:
    """
    :param rows: The episodes.
    :return: One sentence on the largest ε: what each agent keeps, and who has the highest worst case.
    """
    table = rows.summary()
    attacks = [attack for attack in rows.attacks if attack in table]
    under = _joined(attacks) if len(attacks) == 1 else f"the worst of {_joined(attacks)}"
    opening = f"Under {under} at ε = {rows.epsilons[-1]:g} ({counted(len(rows.seeds))} each)"
    return f"{opening}, {_kept(table)}{_winner(table, len(rows.seeds))}."


def _kept(table: pd.DataFrame) -> str:
    """Shares where they make sense, otherwise the returns alone."""
    ways = [f"{number(row['natural'])} → {number(row['worst_case'])}" for _, row in table.iterrows()]
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
