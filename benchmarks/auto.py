"""
``attacks="auto"`` on trained agents, beside the strongest member of ``standard`` and Random, on the same episodes.

    python benchmarks/auto.py --agents benchmarks/hopper/agents/ppo-seed0 --jobs 2

Searches are stored and resumed. Writes ``auto/<agent>.md``, ``.csv`` and ``.png``: the worst cases, the curve of the
worst case against the budget, and whether the search saturated. ``standard``'s figures are read from ``six/report.csv``
where it holds the agent at this ε; its rows are of the same 50 episodes.
"""

import argparse
import platform
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_barpo.attacks import SIX
from sb3_barpo.evaluation import evaluate_robustness, saturation
from sb3_barpo.evaluation.auto import AutoBudget
from sb3_barpo.evaluation.statistics import bootstrap_interval
from sb3_barpo.seeds import REPORT

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--agents", type=Path, nargs="+", default=sorted(HERE.glob("hopper/agents/*")), help="their folders"
    )
    parser.add_argument("--env", default="Hopper-v5")
    parser.add_argument("--epsilon", type=float, default=0.075)
    parser.add_argument("--steps", type=int, default=AutoBudget.steps, help="of each fit in the first round")
    parser.add_argument("--rounds", type=int, default=AutoBudget.rounds)
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--output", type=Path, default=HERE / "auto")
    args = parser.parse_args()
    th.set_num_threads(1)
    for folder in args.agents:
        one(folder, args)


def one(folder: Path, args: argparse.Namespace) -> None:
    venv = VecNormalize.load(str(folder / "vecnormalize.pkl"), make_vec_env(args.env, n_envs=8))
    model = PPO.load(folder / "agent", env=venv, device="cpu")
    start, cpu = time.monotonic(), time.process_time()
    report = evaluate_robustness(
        model,
        venv,
        "auto",
        args.epsilon,
        n_eval_episodes=args.episodes,
        seed=REPORT.start,
        name=folder.name,
        progress_bar=True,
        budget=AutoBudget(args.steps, args.rounds),
        n_jobs=args.jobs,
        folder=args.output / "attacks" / folder.name,
    )
    took = f"{(time.monotonic() - start) / 60:.0f} minutes, {(time.process_time() - cpu) / 60:.0f} of this process"
    args.output.mkdir(parents=True, exist_ok=True)
    report.to_csv(args.output / f"{folder.name}.csv")
    saturation.picture(report.judged).savefig(args.output / f"{folder.name}.png")
    curves = saturation.curves(report.judged)
    assert curves is not None
    lines = [*saturation.lines(report.judged), "", beside(report.to_frame(), folder.name, args), ""]
    lines += [
        curves.round(1).to_markdown(index=False),
        "",
        f"{took}. {platform.machine()}, CPU, {args.jobs} processes.",
    ]
    (args.output / f"{folder.name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def beside(rows: pd.DataFrame, agent: str, args: argparse.Namespace) -> str:
    """The lowest mean of each search with its 95 % interval over the episodes, and Random's."""
    told = [told_of("random", rows[rows["attack"] == "random"]), told_of("auto", lowest(rows))]
    file = HERE / "six" / "report.csv"
    if file.exists():
        six = pd.read_csv(file)
        six = six[(six["agent"] == agent) & (six["attack"].isin(SIX)) & np.isclose(six["epsilon"], args.epsilon)]
        if len(six):
            told.append(told_of("standard", lowest(six)))
    return pd.DataFrame(told).to_markdown(index=False)


def lowest(rows: pd.DataFrame) -> pd.DataFrame:
    means = rows[rows["attack"] != "natural"].groupby("attack")["return"].mean()
    return rows[rows["attack"] == means.idxmin()]


def told_of(search: str, rows: pd.DataFrame) -> dict[str, object]:
    returns = rows["return"].to_numpy(dtype=float)
    low, high = bootstrap_interval(returns, np.mean) if len(returns) > 1 else (np.nan, np.nan)
    attack = rows["attack"].iloc[0]
    return {
        "search": search,
        "strongest": attack,
        "return": round(returns.mean(), 1),
        "95 %": f"{low:.1f} to {high:.1f}",
    }


if __name__ == "__main__":
    main()
