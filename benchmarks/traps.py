"""
Attacks on victims whose worst case is known (``sb3_barpo.testing.traps``): what each single attack finds of the damage
that can be done, and what ``"auto"`` finds.

    python benchmarks/traps.py --jobs 2

Searches are stored and resumed. Writes ``traps/table.md`` and ``traps/shares.csv``.
"""

import argparse
import platform
import time
from pathlib import Path

import pandas as pd
import torch as th

from sb3_barpo.attacks import ATTACKS, AUTO, PAAD, SARL
from sb3_barpo.attacks.victim import undisturbed
from sb3_barpo.evaluation.auto import AutoBudget, find_auto
from sb3_barpo.evaluation.budgets import adversary
from sb3_barpo.evaluation.episodes import run_episodes
from sb3_barpo.evaluation.members import Victim
from sb3_barpo.figures import display
from sb3_barpo.seeds import REPORT
from sb3_barpo.testing.traps import TRAPS, Trap

HERE = Path(__file__).parent
N_ENVS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traps", nargs="+", default=list(TRAPS), choices=list(TRAPS))
    parser.add_argument("--steps", type=int, default=4096, help="of each fit in the first round of auto")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--output", type=Path, default=HERE / "traps")
    args = parser.parse_args()
    th.set_num_threads(1)
    file = args.output / "shares.csv"
    rows = (
        [row for row in pd.read_csv(file).to_dict("records") if row["trap"] not in args.traps] if file.exists() else []
    )
    for name in args.traps:
        rows.append(shares(TRAPS[name], args))
        print(rows[-1], flush=True)
        args.output.mkdir(exist_ok=True)
        pd.DataFrame(rows).to_csv(file, index=False)
    table = markdown(pd.DataFrame(rows), args)
    (args.output / "table.md").write_text(table, encoding="utf-8")
    print(table)


def shares(trap: Trap, args: argparse.Namespace) -> dict[str, object]:
    """Of the damage that can be done, what each attack does, on episodes that chose nothing."""
    model, venv = trap.make(N_ENVS)
    budget = AutoBudget(args.steps, args.rounds)
    start = time.monotonic()
    victim = Victim(model, venv, args.output / "attacks" / trap.name)
    (found,) = find_auto([victim], trap.epsilon, budget, args.jobs, deterministic=trap.deterministic)
    seconds = time.monotonic() - start

    def mean(attack) -> float:
        with undisturbed(model, venv):
            episodes = run_episodes(model, attack, venv, args.episodes, REPORT.start, trap.deterministic)
        return sum(episode.reward for episode in episodes) / len(episodes)

    natural, worst = mean(None), mean(trap.worst(model))
    row: dict[str, object] = {"trap": trap.name, "natural": natural, "worst": worst, "seconds": seconds}
    for name in AUTO:
        if name in (SARL.name, PAAD.name):  # alone: at the field's settings, for as long as two of auto's fits
            settings = adversary(N_ENVS, 1.0, 256, deterministic=trap.deterministic)
            attack = ATTACKS[name](model, trap.epsilon, seed=0, **settings).fit(venv, 2 * args.steps)
        elif name in found.attacks and name not in ("critic",):
            attack = found.attacks[name]
        else:
            attack = ATTACKS[name](model, trap.epsilon)
        row[name] = (natural - mean(attack)) / (natural - worst)
    strongest = found.attacks[found.told["curve"][-1]["attack"]]
    row["auto"] = (natural - mean(strongest)) / (natural - worst)
    row["by"] = found.told["curve"][-1]["attack"]
    row["saturated"] = found.told["saturated"]
    return row


def markdown(rows: pd.DataFrame, args: argparse.Namespace) -> str:
    table = pd.DataFrame({"victim": rows["trap"]})
    for name in [*AUTO, "auto"]:
        table[name if name == "auto" else display(name)] = rows[name].map("{:.0%}".format)
    table["auto's strongest"] = rows["by"].map(display)
    table["saturated"] = rows["saturated"].map({True: "yes", False: "no"})
    return (
        f"{table.to_markdown(index=False, disable_numparse=True)}\n\n"
        f"Share of the damage that can be done, on {args.episodes} episodes that chose nothing. SA-RL and PA-AD alone "
        f"learn from scratch at ε for {2 * args.steps} steps; auto's fits begin with {args.steps} steps, in at most "
        f"{args.rounds} rounds. Push is the best of its limits. {platform.machine()}, CPU.\n"
    )


if __name__ == "__main__":
    main()
