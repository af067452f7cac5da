"""Comparisons of made-up agents, whose statistics are known."""

from collections.abc import Mapping, Sequence

import pandas as pd

from sb3_barpo.comparison import ComparisonReport
from sb3_barpo.evaluation import RobustnessReport
from sb3_barpo.evaluation.rows import COLUMNS, NATURAL, Origin, make_rows

#: By algorithm, for each seed: mean return without an attack, under the first attack and under the second.
Returns = Mapping[str, Sequence[tuple[float, float, float]]]


def report(env: str, returns: Returns) -> RobustnessReport:
    rows = []
    for algorithm, seeds in returns.items():
        for seed, means in enumerate(seeds):
            origin = Origin(f"{algorithm.lower()}-seed{seed}", algorithm, seed, env, "std")
            for attack, mean in zip((NATURAL, "random", "mad"), means, strict=True):
                episodes = [(mean - 1, 10), (mean + 1, 10)]
                rows += make_rows(origin, attack, 0.0 if attack == NATURAL else 0.1, 10_000, episodes)
    return RobustnessReport(pd.DataFrame(rows, columns=COLUMNS))


#: On the first task PPO is the higher naturally, BARPO in the worst case; on the second both are equal.
FIRST: Returns = {
    "PPO": [(100, 90, 10), (120, 110, 20), (110, 30, 90), (90, 80, 40)],
    "BARPO": [(80, 70, 60), (100, 50, 90), (90, 70, 80), (110, 100, 90)],
}
SECOND: Returns = {"PPO": [(50, 20, 30)] * 2, "BARPO": [(50, 30, 20)] * 2}


def comparison() -> ComparisonReport:
    return ComparisonReport({"One-v0": report("One-v0", FIRST), "Two-v0": report("Two-v0", SECOND)})
