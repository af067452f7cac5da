"""
``attacks="auto"`` on trained agents, beside the strongest of ``standard`` and Random, on the same episodes.

    python benchmarks/auto.py

searches on six Hopper and three HalfCheetah agents, one after the other; a killed run is resumed by the same command.
``--agents`` chooses some, ``--report-only`` none. Writes ``auto/rows.csv`` (every episode), ``auto/curves.csv`` (what
was found against the budget) and, of all agents that are in these, ``auto/table.md`` and ``auto/curves.png``.
``standard``'s rows are those of ``six/`` and ``four_tasks/``, of the same 50 episodes.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_barpo.attacks import SIX, Random
from sb3_barpo.evaluation import evaluate_robustness, saturation
from sb3_barpo.evaluation.auto import AutoBudget
from sb3_barpo.evaluation.statistics import bootstrap_interval
from sb3_barpo.figures import display
from sb3_barpo.seeds import REPORT

HERE = Path(__file__).parent
CHEETAHS = HERE / "four_tasks" / "HalfCheetah-v5"
AGENTS = [
    *(HERE / "hopper" / "agents" / f"{kind}-seed{seed}" for seed in range(3) for kind in ("ppo", "barpo")),
    *(CHEETAHS / "agents" / f"barpo-margin-2-seed{seed}" for seed in (0, 1, 4)),
]
EPSILONS = {"Hopper-v5": 0.075, "HalfCheetah-v5": 0.15}
STANDARD = {"Hopper-v5": HERE / "six" / "report.csv", "HalfCheetah-v5": CHEETAHS / "rows.csv"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=Path, nargs="+", default=AGENTS, help="their folders")
    parser.add_argument("--steps", type=int, default=AutoBudget.steps, help="of each fit in the first round")
    parser.add_argument("--rounds", type=int, default=AutoBudget.rounds)
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--report-only", action="store_true", help="search for nothing")
    parser.add_argument("--output", type=Path, default=HERE / "auto")
    args = parser.parse_args()
    th.set_num_threads(1)
    args.output.mkdir(parents=True, exist_ok=True)
    for folder in [] if args.report_only else args.agents:
        one(folder, args)
    rows, curves = (pd.read_csv(args.output / name) for name in ("rows.csv", "curves.csv"))
    text = table(rows, curves)
    (args.output / "table.md").write_text(text, encoding="utf-8")
    agents = {name: told(curve) for name, curve in curves.groupby("agent", sort=False)}
    saturation.picture({"agents": agents}).savefig(args.output / "curves.png")
    print(text)


def one(folder: Path, args: argparse.Namespace) -> None:
    """Search on one agent, attack it, and add what was found to the tables."""
    env = json.loads((folder / "agent.json").read_text(encoding="utf-8"))["env"]
    name = f"{env.split('-')[0]} {folder.name}"
    venv = VecNormalize.load(str(folder / "vecnormalize.pkl"), make_vec_env(env, n_envs=8))
    model = PPO.load(folder / "agent", env=venv, device="cpu")
    cpu = time.process_time()
    report = evaluate_robustness(
        model,
        venv,
        "auto",
        EPSILONS[env],
        n_eval_episodes=args.episodes,
        seed=REPORT.start,
        name=name,
        progress_bar=True,
        budget=AutoBudget(args.steps, args.rounds),
        folder=args.output / "attacks" / f"{env}-{folder.name}",
    )
    print(*saturation.lines(report.judged), f"{(time.process_time() - cpu) / 60:.1f} minutes of this process")
    rows = report.to_frame()[["agent", "env", "epsilon", "attack", "seed", "return"]]
    searched = report.judged["agents"][name]["auto"]
    curve = pd.DataFrame({"agent": name, **point} for point in searched["curve"])
    curve = curve.assign(natural=searched["natural"], saturated=searched["saturated"], machine=platform.machine())
    for file, new in (("rows.csv", rows), ("curves.csv", curve)):
        path = args.output / file
        others = pd.read_csv(path) if path.exists() else new.head(0)
        pd.concat([others[others["agent"] != name], new]).to_csv(path, index=False)


def told(curve: pd.DataFrame) -> dict[str, object]:
    """What the search said of itself."""
    points = curve[["steps", "worst_case", "attack"]].to_dict("records")
    last = curve.iloc[-1]
    return {"auto": {"curve": points, "natural": last["natural"], "saturated": bool(last["saturated"])}}


def table(rows: pd.DataFrame, curves: pd.DataFrame) -> str:
    """One line an agent."""
    lines = []
    for name, own in rows.groupby("agent", sort=False):
        curve = curves[curves["agent"] == name]
        env, attacked = own["env"].iloc[0], own[own["attack"] != "natural"]
        searched = strongest(attacked)
        response = attacked.groupby("seed")["return"].min()
        standard = strongest(standard_rows(env, name.split()[-1]))
        natural = own[own["attack"] == "natural"]["return"].mean()
        share = (natural - searched["return"].mean()) / (natural - standard["return"].mean())
        above = interval(searched["return"])[0] > interval(standard["return"])[1]
        lines.append(
            {
                "agent": name,
                "natural": f"{natural:.0f}",
                "Random": f"{own[own['attack'] == Random.name]['return'].mean():.0f}",
                "standard": shown(standard),
                "auto": shown(searched),
                "damage, standard = 100 %": f"{share:.0%}{' (less)' if above else ''}".replace("%", " %"),
                "best response": f"{response.mean():.0f}",
                "saturated": "yes" if curve["saturated"].iloc[-1] else "no",
                "steps of learning": f"{curve['steps'].iloc[-1]:,}",
                "minutes": f"{curve['seconds'].iloc[-1] / 60:.0f}",
            }
        )
    seeds = rows["seed"].nunique()
    return (
        f"{pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True)}\n\n"
        f"Mean return over {seeds} episodes (seeds {rows['seed'].min()} to {rows['seed'].max()}) with its 95 % "
        "bootstrap interval, under the strongest attack of each search; less: the intervals do not overlap. "
        f"ε = 0.075 on Hopper-v5, 0.15 on HalfCheetah-v5. Minutes: of one core, for the search. "
        f"{curves['machine'].iloc[-1]}, CPU.\n"
    )


def standard_rows(env: str, agent: str) -> pd.DataFrame:
    rows = pd.read_csv(STANDARD[env])
    return rows[(rows["agent"] == agent) & rows["attack"].isin(SIX) & np.isclose(rows["epsilon"], EPSILONS[env])]


def strongest(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["attack"] == rows.groupby("attack")["return"].mean().idxmin()]


def interval(returns: pd.Series) -> tuple[float, float]:
    return bootstrap_interval(returns.to_numpy(dtype=float), np.mean)


def shown(rows: pd.DataFrame) -> str:
    low, high = interval(rows["return"])
    return f"{rows['return'].mean():.0f} [{low:.0f}, {high:.0f}], {display(rows['attack'].iloc[0])}"


if __name__ == "__main__":
    main()
