"""
Whether agents trained with a warm start of the adversary are as good as those trained with cold searches.

    python benchmarks/warm_start.py

Trains BARPO and ARPO both ways on the demo's task and settings, several seeds, and attacks all. Prints the table
and writes it to ``warm_start.md``.
"""

import argparse
import platform
import time
from pathlib import Path

import pandas as pd
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_barpo import ARPO, BARPO
from sb3_barpo.adversary import KL, SGLD, Adversary, Objective, Solver, Surrogate, WarmStart
from sb3_barpo.demo import ENV, EPSILON, N_ENVS, SETTINGS, STEPS
from sb3_barpo.evaluation import evaluate_robustness

HERE = Path(__file__).parent
ALGORITHMS: dict[type[PPO], Objective] = {BARPO: KL(), ARPO: Surrogate()}
SOLVERS: dict[str, Solver] = {"cold": SGLD(), "warm": WarmStart()}
COLUMNS = ["natural", "random", "critic", "mad", "worst_case"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default=ENV)
    parser.add_argument("--epsilon", type=float, default=EPSILON)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--output", type=Path, default=HERE / "warm_start.md")
    args = parser.parse_args()
    th.set_num_threads(1)
    rows = [
        agent(algorithm, solver, seed, args) for seed in args.seeds for algorithm in ALGORITHMS for solver in SOLVERS
    ]
    table = pd.DataFrame(rows).sort_values(["algorithm", "search", "seed"], ascending=[False, True, True])
    means = table.groupby(["algorithm", "search"], sort=False).mean().reset_index().assign(seed="mean")
    text = pd.concat([means, table]).round(0)[table.columns].to_markdown(index=False) + (
        f"\n\n{args.env}, {args.steps:,} steps, ε = {args.epsilon:g} (a ramp in training), {args.episodes} episodes. "
        f"{platform.machine()}, CPU, one torch thread.\n"
    )
    args.output.write_text(text, encoding="utf-8")
    print(text)


def agent(algorithm: type[PPO], search: str, seed: int, args: argparse.Namespace) -> dict[str, object]:
    env = VecNormalize(make_vec_env(args.env, N_ENVS, seed=seed))
    adversary = Adversary(ALGORITHMS[algorithm], SOLVERS[search])
    model = algorithm(
        "MlpPolicy", env, seed=seed, device="cpu", epsilon=f"ramp_{args.epsilon}", adversary=adversary, **SETTINGS
    )
    start = time.perf_counter()
    model.learn(args.steps)
    took = time.perf_counter() - start
    report = evaluate_robustness(
        model, env, ["random", "critic", "mad"], args.epsilon, n_eval_episodes=args.episodes, seed=10_000
    )
    env.close()
    row = {"algorithm": algorithm.__name__, "search": search, "seed": seed}
    print(row | report.summary()[COLUMNS].iloc[0].to_dict(), flush=True)
    return row | report.summary()[COLUMNS].iloc[0].to_dict() | {"training, s": took}


if __name__ == "__main__":
    main()
