"""
Controllers in the lab: from how many of 400 starts each method is trapped, by what sets its strength or κ.

    python benchmarks/lab_controllers.py

Writes ``lab/controllers.csv`` and prints a table. It takes two minutes on one core.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from sb3_barpo import lab
from sb3_barpo.controllers import Competence, DualKappa, HoldKL

OUTPUT = Path(__file__).parent / "lab" / "controllers.csv"
STARTS, SEED = 400, 0
STEPS, STEP_SIZE = 400, 0.1
CLEAN = {"clean_visits": True, "clean_advantages": True}
METHODS = {
    "ARPO": lab.Method(lab.strongest),
    "BARPO κ = 1": lab.Method(lab.kl, 1.0),
    "ARPO, clean rollouts": lab.Method(lab.strongest, **CLEAN),
    "BARPO κ = 1, clean rollouts": lab.Method(lab.kl, 1.0, **CLEAN),
}


def rows_of(problem: lab.Problem) -> list[dict[str, Any]]:
    starts = problem.policy.starts(STARTS, SEED)
    # From the mean value of the untrained policies to the mean that SPO reaches.
    trained = lab.ascend(problem, starts, lab.METHODS["SPO"], STEPS, STEP_SIZE)[-1]
    low, high = problem.natural(starts).mean(), problem.natural(trained).mean()
    changes = {
        "constant": {},
        "Competence": {"strength": Competence(low, high, 1.0)},
        "HoldKL(0.02)": {"strength": HoldKL(0.02, 1.0)},
        "HoldKL(0.1)": {"strength": HoldKL(0.1, 1.0)},
        "DualKappa(0.05)": {"kappa": DualKappa(0.05)},
        "DualKappa(0.2)": {"kappa": DualKappa(0.2)},
    }
    rows = []
    for method, settings in METHODS.items():
        for name, change in changes.items():
            ends = lab.ascend(problem, starts, replace(settings, **change), STEPS, STEP_SIZE)[-1]
            found = lab.shares(lab.classify(problem, ends))
            values = {"natural": problem.natural(ends).mean(), "worst_case": problem.robust(ends).mean()}
            rows.append({"problem": problem.name, "method": method, "by": name, **found, **values})
    return rows


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    rows = pd.DataFrame([row for problem in (lab.footbridge(), lab.swamp()) for row in rows_of(problem)])
    OUTPUT.parent.mkdir(exist_ok=True)
    rows.to_csv(OUTPUT, index=False, float_format="%.4g")
    shown = rows.assign(trapped=100 * rows["trapped"]).pivot_table("trapped", ["problem", "method"], "by", sort=False)
    print(shown.reset_index().to_markdown(index=False, floatfmt=".3g"))


if __name__ == "__main__":
    main()
