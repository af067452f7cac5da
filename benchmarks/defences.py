"""
What each defence costs, relative to SB3's PPO: CPU time of one thread, for the update alone and with the rollout.

``python benchmarks/defences.py`` prints the table of docs/defences.md. Hopper-v5, one environment, rollouts of 2048
steps, minibatches of 64, ten epochs; the fastest of a few iterations after the first.
"""

import argparse
import os

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import time
from itertools import pairwise
from typing import Any

import pandas as pd
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_barpo import ARPO, ATLA, BARPO, CARPPO, RADIALPPO, SAPPO, SPPO, ConvexSAPPO, WocaRPPO

EPSILON = 0.075
CASES: dict[str, tuple[type[PPO], dict[str, Any]]] = {
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
}


def measure(algorithm: type[PPO], own: dict[str, Any], iterations: int) -> tuple[float, float]:
    """:return: Seconds of an update, and of an iteration."""
    env = VecNormalize(make_vec_env("Hopper-v5", n_envs=1, seed=0))
    model = algorithm("MlpPolicy", env, seed=0, device="cpu", **own)
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=3, help="measured after one that is not")
    iterations = parser.parse_args().iterations
    th.set_num_threads(1)
    found = {name: measure(*case, iterations) for name, case in CASES.items()}
    update, iteration = found["PPO"]
    rows = [
        {
            "": name,
            # ATLA's includes a rollout, the attacker's.
            "update": "" if algorithm is ATLA else f"{mine / update:.2f}",
            "with the rollout": f"{whole / iteration:.2f}",
        }
        for (name, (mine, whole)), (algorithm, _) in zip(found.items(), CASES.values(), strict=True)
    ]
    print(f"PPO: {update:.2f} s an update, {iteration:.2f} s with the rollout\n")
    print(pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True))


if __name__ == "__main__":
    main()
