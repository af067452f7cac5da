"""
The lab's claims on whole families of MDPs, not only on the one that was chosen; and what κ and the ramp's delay change.

    python benchmarks/lab.py

Writes ``lab/family.csv`` (one row an MDP and method), ``lab/kappa.csv``, ``lab/delay.csv``, ``lab/table.md`` and
``docs/_static/lab-family.png``. It takes two minutes on one core.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import pandas as pd

from sb3_barpo import lab
from sb3_barpo.lab import pictures
from sb3_barpo.schedules import Ramp

HERE = Path(__file__).parent
PICTURE = HERE.parent / "docs" / "_static" / "lab-family.png"
MEMBERS, STARTS, SEED = 40, 100, 0
#: Half as many steps as by default, of twice the length: for the footbridge the shares of trapped starts are the same.
STEPS, STEP_SIZE = 400, 0.1
KAPPAS = [0.0, 0.5, 1.0, 2.0, 4.0, 8.0]
DELAYS = [0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4]
CLEAN = {"clean_visits": True, "clean_advantages": True}
METHODS = {
    **{name: lab.METHODS[name] for name in ["SPO", "ARPO", "ARPO κ = 1", "BARPO κ = 0", "BARPO κ = 1"]},
    "BARPO κ = 1, clean rollouts": lab.METHODS["BARPO κ = 1, clean rollouts"],
    "the same, ramp from 40 to 80 %": lab.METHODS["BARPO κ = 1, clean rollouts, ramp from 40 to 80 %"],
}


def measure(problem: lab.Problem, method: lab.Method, n_starts: int = STARTS) -> dict[str, float]:
    """Shares of the kinds of ends."""
    ends = lab.ascend(problem, problem.policy.starts(n_starts, SEED), method, STEPS, STEP_SIZE)[-1]
    return lab.shares(lab.classify(problem, ends))


def members(family: str, n_members: int = MEMBERS) -> lab.Found:
    """The family's first ISA-MDPs; the first few are the same however many are asked for."""
    return lab.search(lab.FAMILIES[family], lab.is_isa, n_members, SEED)


def families() -> pd.DataFrame:
    rows = []
    for family in lab.FAMILIES:
        found = members(family)
        for member, problem in enumerate(found.problems):
            for name, method in METHODS.items():
                rows.append({"family": family, "tried": found.tried, "member": member, "method": name})
                rows[-1].update(measure(problem, method))
    return pd.DataFrame(rows)


def kappas() -> pd.DataFrame:
    kinds = {
        "ARPO": lab.Method(lab.strongest),
        "BARPO": lab.Method(lab.kl),
        "ARPO, clean rollouts": lab.Method(lab.strongest, **CLEAN),
        "BARPO, clean rollouts": lab.Method(lab.kl, **CLEAN),
    }
    rows = []
    for problem in (lab.footbridge(), lab.swamp()):
        for name, method in kinds.items():
            for kappa in KAPPAS:
                changed = replace(method, kappa=kappa)
                rows.append({"problem": problem.name, "method": name, "kappa": kappa})
                rows[-1].update(measure(problem, changed, 400))
    return pd.DataFrame(rows)


def delays() -> pd.DataFrame:
    kinds = {
        "ARPO": lab.Method(lab.strongest),
        "BARPO κ = 1": lab.Method(lab.kl, 1.0),
        "ARPO κ = 1, clean rollouts": lab.Method(lab.strongest, 1.0, **CLEAN),
        "BARPO κ = 1, clean rollouts": lab.Method(lab.kl, 1.0, **CLEAN),
    }
    rows = []
    for problem in (lab.footbridge(), lab.swamp()):
        for name, method in kinds.items():
            for delay in DELAYS:
                changed = replace(method, strength=Ramp(1.0, end=delay + 0.4, begin=delay))
                rows.append({"problem": problem.name, "method": name, "begin": delay})
                rows[-1].update(measure(problem, changed, 400))
    return pd.DataFrame(rows)


def table(families: pd.DataFrame, kappas: pd.DataFrame, delays: pd.DataFrame) -> str:
    parts = []
    for family, rows in families.groupby("family", sort=False):
        by_method = rows.groupby("method", sort=False)
        summary = pd.DataFrame(
            {f"median {kind}": 100 * by_method[kind].median() for kind in lab.KINDS}
            | {
                "mean trapped": 100 * by_method["trapped"].mean(),
                "most trapped": 100 * by_method["trapped"].max(),
                "MDPs with any trapped": by_method["trapped"].apply(lambda shares: int((shares > 0).sum())),
            }
        )
        n_members, tried = rows["member"].nunique(), rows["tried"].iloc[0]
        title = f"## {family}\n\n{n_members} ISA-MDPs, of {tried} drawn; % of {STARTS} starts each."
        parts.append(f"{title}\n\n{summary.to_markdown(floatfmt='.3g')}")
    for rows, column, title in ((kappas, "kappa", "κ"), (delays, "begin", "the time at which a ramp of 40 % begins")):
        for problem, part in rows.groupby("problem", sort=False):
            pivot = (100 * part.pivot_table("trapped", "method", column, sort=False)).to_markdown(floatfmt=".3g")
            parts.append(f"## {problem}: % trapped, by {title}\n\n400 starts.\n\n{pivot}")
    return "\n\n".join(parts) + "\n"


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    folder = HERE / "lab"
    folder.mkdir(exist_ok=True)
    measured = {"family": families(), "kappa": kappas(), "delay": delays()}
    for name, rows in measured.items():
        rows.to_csv(folder / f"{name}.csv", index=False, float_format="%.4g")
    (folder / "table.md").write_text(table(*measured.values()), encoding="utf-8")
    crossings = measured["family"].query("family == 'crossings'")
    trapped = {name: rows["trapped"].tolist() for name, rows in crossings.groupby("method", sort=False)}
    pictures.family(trapped, f"{MEMBERS} random crossings, {STARTS} starts each").savefig(PICTURE)


if __name__ == "__main__":
    main()
