"""
What each defence costs, relative to SB3's PPO, and with a memory to sb3-contrib's RecurrentPPO: CPU time of one thread,
for the update alone and with the rollout.

``python benchmarks/defences.py`` prints the table of docs/defences.md, ``--only ATLA RecurrentATLA`` some of its rows.
Hopper-v5, one environment, rollouts of 2048 steps, minibatches of 64, ten epochs; the fastest of a few iterations after
the first.
"""

import argparse
import os

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import time
from itertools import pairwise
from typing import Any

import pandas as pd
import torch as th
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_barpo import ARPO, ATLA, BARPO, CARPPO, RADIALPPO, SAPPO, SPPO, ConvexSAPPO, RecurrentATLA, WocaRPPO

EPSILON = 0.075
CASES: dict[str, tuple[type[PPO | RecurrentPPO], dict[str, Any]]] = {
    "PPO": (PPO, {}),
    "ARPO": (ARPO, {"epsilon": EPSILON}),
    "BARPO": (BARPO, {"epsilon": EPSILON}),
    "SAPPO": (SAPPO, {"epsilon": EPSILON}),
    "SPPO": (SPPO, {"epsilon": EPSILON}),
    "SPPO, λ = 0": (SPPO, {"weight": 0.0}),
    "CARPPO": (CARPPO, {"epsilon": EPSILON}),
    "WocaRPPO": (WocaRPPO, {"epsilon": EPSILON}),
    "RADIALPPO": (RADIALPPO, {"epsilon": EPSILON}),
    "RADIALPPO, by CROWN": (RADIALPPO, {"epsilon": EPSILON, "intervals": 0.0}),
    "ConvexSAPPO, half by CROWN": (ConvexSAPPO, {"epsilon": EPSILON, "intervals": 0.5}),
    "ATLA": (ATLA, {"epsilon": EPSILON}),
    "ATLA, PA-AD": (ATLA, {"epsilon": EPSILON, "attacker": "paad"}),
    "RecurrentPPO": (RecurrentPPO, {}),
    "RecurrentATLA": (RecurrentATLA, {"epsilon": EPSILON}),
}


def measure(algorithm: type[PPO | RecurrentPPO], own: dict[str, Any], iterations: int) -> tuple[float, float]:
    """:return: Seconds of an update, and of an iteration."""
    env = VecNormalize(make_vec_env("Hopper-v5", n_envs=1, seed=0))
    policy = "MlpLstmPolicy" if issubclass(algorithm, RecurrentPPO) else "MlpPolicy"
    model = algorithm(policy, env, n_steps=2048, batch_size=64, seed=0, device="cpu", **own)
    updates, ends = [], []
    train = model.train

    def listen() -> None:
        begin = time.thread_time()
        train()
        ends.append(time.thread_time())
        updates.append(ends[-1] - begin)

    model.train = listen  # type: ignore[method-assign]
    model.learn((iterations + 1) * 2048)
    return min(updates[1:]), min(after - before for before, after in pairwise(ends))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=3, help="measured after one that is not")
    parser.add_argument(
        "--only", nargs="+", default=list(CASES), choices=CASES, metavar="NAME", help="some of the rows"
    )
    args = parser.parse_args()
    th.set_num_threads(1)
    units = {name: unit_of(name) for name in args.only}
    found = {name: measure(*CASES[name], args.iterations) for name in {**dict.fromkeys(units.values()), **units}}
    rows = []
    for name, unit in units.items():
        update, iteration = (mine / theirs for mine, theirs in zip(found[name], found[unit], strict=True))
        # ATLA's update includes a rollout, the attacker's.
        shown = "" if issubclass(CASES[name][0], ATLA | RecurrentATLA) else f"{update:.2f}"
        rows.append({"": name, "relative to": unit, "update": shown, "with the rollout": f"{iteration:.2f}"})
    print(pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True))


def unit_of(name: str) -> str:
    """:return: The name of SB3's algorithm that is the unit of a row."""
    return "RecurrentPPO" if issubclass(CASES[name][0], RecurrentPPO) else "PPO"


if __name__ == "__main__":
    main()
