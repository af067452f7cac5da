"""
What a budget buys: the attackers of the published grid against those of the smaller budgets, on one agent.

    python benchmarks/budgets.py --jobs 4

Robust Sarsa's grid is run whole. Those of SA-RL and PA-AD have 216 members of a million steps each; ``--sample`` of
them are drawn at random (the draw with 12 contains that with 8), ``--sample 216 216`` runs all, 0 none. Each member is
stored when it is finished and found again, so a killed run goes on where it was, and a larger sample adds to a smaller
one. Writes ``members.csv`` (one row a member) and ``table.md``.
"""

import argparse
import platform
import random
from pathlib import Path

import pandas as pd
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_barpo.evaluation import evaluate_robustness
from sb3_barpo.evaluation.budgets import Budget, make_budget
from sb3_barpo.evaluation.members import Victim
from sb3_barpo.evaluation.search import find_attacks, members_tried

ATTACKS = ["robust_sarsa", "sarsa_mad", "sarl", "paad"]
HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", type=Path, default=HERE / "hopper" / "agents" / "ppo-seed0", help="its folder")
    parser.add_argument("--env", default="Hopper-v5")
    parser.add_argument("--epsilon", type=float, default=0.075)
    parser.add_argument("--sample", type=int, nargs=2, default=[8, 8], help="members of SA-RL's and of PA-AD's grid")
    parser.add_argument("--budgets", nargs="+", default=["quick", "standard", "paper"])
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--jobs", type=int, default=1, help="number of processes")
    parser.add_argument("--output", type=Path, default=HERE / "budgets")
    args = parser.parse_args()

    venv = VecNormalize.load(str(args.agent / "vecnormalize.pkl"), make_vec_env(args.env, n_envs=8))
    model = PPO.load(args.agent / "agent", env=venv, device="cpu")
    members, returns = [], []
    for name in args.budgets:
        budget = make_budget(name, args.env, robust_victim=False, n_envs=8)
        if name == "paper":
            budget = sampled(budget, args.sample)
        folder = args.output / "attacks" / name
        names = [attack for attack in ATTACKS if budget.members[attack]]
        (attacks,) = find_attacks(
            [Victim(model, venv, folder)], names, args.epsilon, budget, args.jobs, progress_bar=True
        )
        members.append(members_tried(folder).assign(budget=name))
        report = evaluate_robustness(model, venv, list(attacks.values()), n_eval_episodes=args.episodes, seed=10_000)
        returns.append(report.summary().iloc[0].rename(name))
    rows = pd.concat(members)
    rows.to_csv(args.output / "members.csv", index=False)
    (args.output / "table.md").write_text(table(rows, pd.DataFrame(returns), args), encoding="utf-8")
    print(table(rows, pd.DataFrame(returns), args))


def sampled(budget: Budget, sizes: list[int]) -> Budget:
    """SA-RL's and PA-AD's members in one random order, as many of them as asked for."""
    members = dict(budget.members)
    for attack, size in zip(("sarl", "paad"), sizes, strict=True):
        members[attack] = random.Random(0).sample(members[attack], len(members[attack]))[:size]
    return Budget(members, budget.n_episodes)


def table(members: pd.DataFrame, returns: pd.DataFrame, args: argparse.Namespace) -> str:
    natural = returns["natural"].iloc[0]
    lines = []
    for attack in ATTACKS:
        for budget in args.budgets:
            some = members[(members["attack"] == attack) & (members["budget"] == budget)]
            if some.empty:
                continue
            left = returns.loc[budget, attack]
            lines.append(
                {
                    "attack": attack,
                    "budget": budget,
                    "fits": len(some),
                    "core minutes": f"{some['seconds'].sum() / 60:.0f}",
                    "return of its members (selection episodes)": f"{some['mean_return'].min():.0f} to "
                    f"{some['mean_return'].max():.0f}, median {some['mean_return'].median():.0f}",
                    "return under the strongest": f"{left:.0f}",
                    "damage": f"{100 * (natural - left) / natural:.0f} %",
                }
            )
    worst = returns.reindex(columns=ATTACKS).min(axis="columns")
    best = ", ".join(f"{budget} {worst[budget]:.0f}" for budget in args.budgets)
    markdown = pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True)
    return (
        f"{markdown}\n\n{args.agent.name} on {args.env}, ε = {args.epsilon:g}; natural return {natural:.0f}. Lowest of "
        f"the four attacks: {best}. Strongest: the member that left the least on the selection episodes; its return is "
        f"the mean over {args.episodes} others. {platform.machine()}, CPU, one torch thread for each fit, "
        f"{args.jobs} at a time.\n"
    )


if __name__ == "__main__":
    main()
