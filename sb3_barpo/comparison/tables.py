"""A comparison in tables: Markdown, and LaTeX to be set with ``booktabs``."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from tabulate import tabulate

from sb3_barpo.comparison.report import MEASURES, ComparisonReport
from sb3_barpo.figures import NONE, display, number

#: Marks the highest value of a column, until the format is known.
_BEST = "⌈%s⌉"
_MARKDOWN = {"⌈": "**", "⌉": "**"}
#: Its default fonts lack these signs.
_LATEX = {"⌈": r"\textbf{", "⌉": "}", "ε": r"$\varepsilon$", "κ": r"$\kappa$", "λ": r"$\lambda$", "−": "$-$", "–": "--"}


def by_algorithm(report: ComparisonReport, tablefmt: str = "pipe") -> str:
    """
    :param report: The comparison.
    :param tablefmt: ``"pipe"`` for Markdown, or ``"latex_booktabs"``.
    :return: The interquartile means of natural and worst-case return with their intervals, the medians, what is kept,
        and p of the test against the task's highest worst case, if there are several seeds; one row a task and
        algorithm, the highest of each task bold.
    """
    table = report.by_algorithm()
    tested = report.n_seeds > 1 and len(report.algorithms) > 1
    lines = []
    for env, rows in table.groupby("env", sort=False):
        best = {column: rows[column].max() for column in (*MEASURES, "natural_median", "worst_case_median")}
        several = len(rows) > 1
        for k, row in enumerate(rows.to_dict("records")):
            cells = [_best(_interval(row, measure), several and row[measure] == best[measure]) for measure in MEASURES]
            medians = [f"{measure}_median" for measure in MEASURES]
            cells += [_best(number(row[name]), several and row[name] == best[name]) for name in medians]
            kept = NONE if np.isnan(row["kept"]) else f"{100 * row['kept']:.0f} %"
            p = [NONE if np.isnan(row["p"]) else f"{row['p']:.2g}"] if tested else []
            lines.append([env if k == 0 else "", row["algorithm"], str(row["n_seeds"]), *cells, kept, *p])
    headers = ["task", "algorithm", "seeds", "natural", "worst case", "median natural", "median worst case", "kept"]
    return _tabulated([*headers, "p"] if tested else headers, lines, tablefmt, 2)


def by_attack(report: ComparisonReport, env: str, tablefmt: str = "pipe") -> str:
    """
    :param report: The comparison.
    :param env: A task.
    :param tablefmt: ``"pipe"`` for Markdown, or ``"latex_booktabs"``.
    :return: The interquartile means under each attack, one row an algorithm, the highest of each column bold.
    """
    table = report.by_algorithm()
    table = table[table["env"] == env]
    columns = ["natural", *report.reports[env].attacks, "worst_case"]
    best = {column: table[column].max() for column in columns}
    lines = [
        [
            row["algorithm"],
            *(_best(number(row[column]), len(table) > 1 and row[column] == best[column]) for column in columns),
        ]
        for row in table.to_dict("records")
    ]
    return _tabulated(["algorithm", *map(_shown, columns)], lines, tablefmt, 1)


def by_seed(report: ComparisonReport, env: str, tablefmt: str = "pipe") -> str:
    """
    :param report: The comparison.
    :param env: A task.
    :param tablefmt: ``"pipe"`` for Markdown, or ``"latex_booktabs"``.
    :return: The mean returns of every agent, natural and under each attack.
    """
    rows = report.agents[report.agents["env"] == env]
    columns = ["natural", *report.reports[env].attacks, "worst_case"]
    lines = [
        [
            row["algorithm"],
            NONE if pd.isna(row["train_seed"]) else str(row["train_seed"]),
            *(number(row[column]) for column in columns),
            display(row["worst_attack"]),
        ]
        for row in rows.to_dict("records")
    ]
    return _tabulated(["algorithm", "seed", *map(_shown, columns), "worst attack"], lines, tablefmt, 2)


def overall(report: ComparisonReport, tablefmt: str = "pipe") -> str:
    """
    :param report: The comparison.
    :param tablefmt: ``"pipe"`` for Markdown, or ``"latex_booktabs"``.
    :return: The interquartile means over all tasks, and the mean rank by worst case.
    """
    table = report.overall()
    best = {measure: table[measure].max() for measure in MEASURES}
    lines = [
        [
            algorithm,
            *(_best(_interval(row, measure, "{:.2f}".format), row[measure] == best[measure]) for measure in MEASURES),
            f"{row['rank']:.1f}",
        ]
        for algorithm, row in zip(report.algorithms, table.to_dict("records"), strict=True)
    ]
    return _tabulated(["algorithm", "natural", "worst case", "mean rank by worst case"], lines, tablefmt, 1)


def improvement(report: ComparisonReport, tablefmt: str = "pipe") -> str:
    """
    :param report: The comparison.
    :param tablefmt: ``"pipe"`` for Markdown, or ``"latex_booktabs"``.
    :return: The probabilities that the row's algorithm has a higher worst case than the column's.
    """
    table = report.improvement()
    lines = [
        [one, *(NONE if one == other else f"{p:.2f}" for other, p in zip(report.algorithms, row, strict=True))]
        for one, row in zip(report.algorithms, table.to_numpy(), strict=True)
    ]
    return _tabulated(["", *report.algorithms], lines, tablefmt, 1)


def to_latex(report: ComparisonReport) -> str:
    """
    :param report: The comparison.
    :return: All tables, to be included where ``booktabs`` is loaded.
    """
    parts = [f"% The table of all tasks\n{by_algorithm(report, 'latex_booktabs')}"]
    parts += [f"% {env}, by attack\n{by_attack(report, env, 'latex_booktabs')}" for env in report.envs]
    if len(report.algorithms) > 1 and len(report.common) > 1:
        parts.append(f"% Over all tasks\n{overall(report, 'latex_booktabs')}")
    return "\n\n".join(parts) + "\n"


def _best(text: str, best: bool) -> str:
    return _BEST % text if best else text


def _shown(column: str) -> str:
    return "worst case" if column == "worst_case" else display(column)


def _interval(row: Any, column: str, write: Callable[[float], str] = number) -> str:
    low, high = row[f"{column}_low"], row[f"{column}_high"]
    return write(row[column]) if np.isnan(low) else f"{write(row[column])} [{write(low)}, {write(high)}]"


def _tabulated(headers: Sequence[str], lines: Sequence[Sequence[str]], tablefmt: str, n_names: int) -> str:
    """The first columns are names and lie on the left."""
    align = ["left"] * n_names + ["right"] * (len(headers) - n_names)
    if tablefmt == "pipe":
        lines = [[_replaced(cell, _MARKDOWN) for cell in line] for line in lines]
    text = str(tabulate(lines, headers, tablefmt=tablefmt, colalign=align, disable_numparse=True))
    # After tabulate, which escapes what LaTeX would read.
    return _replaced(text, _LATEX) if tablefmt.startswith("latex") else text


def _replaced(text: str, signs: Mapping[str, str]) -> str:
    for sign, written in signs.items():
        text = text.replace(sign, written)
    return text
