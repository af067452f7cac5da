"""
What attacks cost, side by side in one run, and how well PA-AD's actor does what its director says.

    python benchmarks/attacks.py

1. Episodes under MAD: all environments in one batch, against one environment at a time.
2. Steps a second of fitting SA-RL and PA-AD, against PPO on the same environment with the same settings.
3. PA-AD's actor: one signed step from noise within ε/10, up the published objective (in both signs) and up ours, for
   random directions at states that the victim visits.

Prints the tables and writes them to ``attacks.md``.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_barpo.adversary import PGD, Adversary, Objective, Towards
from sb3_barpo.attacks import MAD, PAAD, SARL
from sb3_barpo.evaluation.robustness import origin_of, run_trial
from sb3_barpo.evaluation.settings import EvalConfig
from sb3_barpo.policies.evaluate import policy_output

HERE = Path(__file__).parent
PPO_SETTINGS = {"n_steps": 256, "batch_size": 256, "seed": 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", type=Path, default=HERE / "hopper" / "agents" / "barpo-seed2", help="its folder")
    parser.add_argument("--env", default="Hopper-v5")
    parser.add_argument("--epsilon", type=float, default=0.075)
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--n-envs", type=int, default=16, help="environments in one batch under MAD")
    parser.add_argument("--steps", type=int, default=20_480, help="steps of each fit")
    parser.add_argument("--repeats", type=int, default=3, help="fits of each kind, in turn")
    parser.add_argument("--output", type=Path, default=HERE / "attacks.md")
    args = parser.parse_args()
    th.set_num_threads(1)
    tables = [episodes_under_mad(args), fitting(args), directions(args)]
    machine = f"{args.agent.name} on {args.env}, ε = {args.epsilon:g}. {platform.machine()}, CPU, one torch thread."
    text = "\n\n".join([*tables, machine]) + "\n"
    args.output.write_text(text, encoding="utf-8")
    print(text)


def load(args: argparse.Namespace, n_envs: int) -> tuple[PPO, VecNormalize]:
    venv = VecNormalize.load(str(args.agent / "vecnormalize.pkl"), make_vec_env(args.env, n_envs=n_envs))
    return PPO.load(args.agent / "agent", env=venv, device="cpu"), venv


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def episodes_under_mad(args: argparse.Namespace) -> str:
    rows = []
    for n_envs in (1, args.n_envs):
        model, venv = load(args, n_envs)
        start = time.perf_counter()
        episodes = run_trial(origin_of(model, venv), model, venv, MAD(model, args.epsilon), EvalConfig(args.episodes))
        took = time.perf_counter() - start
        steps = sum(episode[-1] for episode in episodes) / took
        rows.append({"environments together": n_envs, "episodes": args.episodes, "s": took, "steps/s": steps})
    table = pd.DataFrame(rows)
    table["speed"] = (table["s"].iloc[0] / table["s"]).map("{:.1f} x".format)
    return "Episodes under MAD:\n\n" + table.round(0).to_markdown(index=False)


def fitting(args: argparse.Namespace) -> str:
    """Each kind in turn, several times: what else the machine does then meets all alike."""
    model, venv = load(args, 8)

    def ppo() -> None:
        env = VecNormalize(make_vec_env(args.env, n_envs=8))
        PPO("MlpPolicy", env, device="cpu", **PPO_SETTINGS).learn(args.steps)

    works = {
        "PPO": ppo,
        "SA-RL": lambda: SARL(model, args.epsilon, **PPO_SETTINGS).fit(venv, args.steps),
        "PA-AD": lambda: PAAD(model, args.epsilon, **PPO_SETTINGS).fit(venv, args.steps),
    }
    took: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(args.repeats):
        for name, work in works.items():
            took[name].append(args.steps / seconds(work))
    rows = [
        {
            "training of": name,
            "steps/s, median": statistics.median(speeds),
            "lowest": min(speeds),
            "highest": max(speeds),
            "relative to PPO, median of the turns": f"{np.median(np.divide(speeds, took['PPO'])):.2f}",
        }
        for name, speeds in took.items()
    ]
    return f"{args.steps} steps, 8 environments, batch 256, {args.repeats} turns:\n\n" + pd.DataFrame(rows).round(
        0
    ).to_markdown(index=False, disable_numparse=True)


class Published(Objective):
    """PA-AD's published objective, ``cos(Δ, d) + ‖Δ‖``; the reference code descends it."""

    def __init__(self, directions: th.Tensor, sign: int) -> None:
        self.directions = directions
        self.sign = sign

    def prepare(self, policy, observations, samples=None):
        clean = policy_output(policy, observations).detach()

        def goal(perturbed):
            shift = policy_output(policy, perturbed) - clean
            return self.sign * (th.cosine_similarity(shift, self.directions, dim=1) + shift.norm(dim=1))

        return goal


def directions(args: argparse.Namespace) -> str:
    model, venv = load(args, 8)
    venv.training = False
    venv.seed(0)
    observations, visited = venv.reset(), []
    for _ in range(128):
        visited.append(observations)
        observations, *_ = venv.step(model.predict(observations, deterministic=True)[0])
    states = th.as_tensor(np.concatenate(visited), dtype=th.float32)
    with th.no_grad():
        clean = policy_output(model.policy, states)
    wanted = th.randn(clean.shape, generator=th.Generator().manual_seed(0))
    objectives: dict[str, Objective] = {
        "published, as the reference code steps": Published(wanted, -1),
        "published, ascended": Published(wanted, 1),
        "ours, the shift along the direction": Towards(wanted),
    }
    rows = []
    for name, objective in objectives.items():
        actor = Adversary(objective, PGD(1, start_radius=0.1))
        actor.seed(0)
        with th.no_grad():
            shift = policy_output(model.policy, actor.perturb(model.policy, states, args.epsilon)) - clean
        cosine = th.cosine_similarity(shift, wanted, dim=1).mean()
        along = (shift * th.nn.functional.normalize(wanted, dim=1)).sum(1).mean()
        length = shift.norm(dim=1).mean()
        rows.append({"objective": name, "cosine": cosine, "length of the shift": length, "shift along it": along})
    return f"{len(states)} states, means:\n\n" + pd.DataFrame(rows).astype(
        {"cosine": float, "length of the shift": float, "shift along it": float}
    ).round(3).to_markdown(index=False)


if __name__ == "__main__":
    main()
