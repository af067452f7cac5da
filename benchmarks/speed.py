"""
What robust training costs, side by side in one run, with SB3's PPO as the unit.

    python benchmarks/speed.py

1. Updates: PPO, ARPO and BARPO at their defaults, which start searches warm, with cold searches of ten steps at every
   visit, and on the general path by autograd.
2. The adversary's gain, cold and with a warm start, relative to a search of 100 steps, in the training of an agent.
3. Whole training on a MuJoCo task with 8 environments.
4. Episodes under MAD: all environments together, against one at a time on the general path.
5. Updates against batch size, inner steps (of cold searches) and width.
6. Threads.

What is compared takes turns, so that whatever else the machine does meets all alike; ratios are taken within each turn.
Prints the tables, and writes ``table.md`` and ``cost.png``.
"""

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
import torch as th
from gymnasium import spaces
from matplotlib.figure import Figure
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecNormalize

from sb3_barpo import ARPO, BARPO
from sb3_barpo.adversary import KL, SGLD, Adversary, Objective, Surrogate, Uniform, WarmStart
from sb3_barpo.attacks import MAD
from sb3_barpo.evaluation.robustness import origin_of, run_trial
from sb3_barpo.evaluation.settings import EvalConfig
from sb3_barpo.figures import COLOURS

HERE = Path(__file__).parent
EPSILON = 0.075
OBJECTIVES: dict[type[PPO], Objective] = {BARPO: KL(), ARPO: Surrogate()}
STEPS = [0, 1, 3, 5, 10, 20]
BATCHES = [64, 256, 1024, 2048, 8192]
#: Settings beside which the defaults stand.
COLD = {"adversary": {"later_steps": 0}}
ONE_STEP = {"adversary": {"later_steps": 1}}


class General(ActorCriticPolicy):
    """SB3's policy; a method of its own keeps it from the fast path."""

    def get_distribution(self, obs):
        return super().get_distribution(obs)


class Blank(gym.Env):
    """Only its spaces matter."""

    def __init__(self, n_observed: int, n_actions: int) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (n_observed,), np.float64)  # as MuJoCo's
        self.action_space = spaces.Box(-1, 1, (n_actions,), np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=Path, default=HERE / "hopper" / "agents", help="where trained agents lie")
    parser.add_argument("--env", default="Hopper-v5")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--output", type=Path, default=HERE / "speed")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    th.set_num_threads(1)
    costs: dict[int, pd.DataFrame] = {}

    def cost_at(width: int) -> pd.DataFrame:
        costs[width] = cost(width)
        return costs[width]

    sections: dict[str, Callable[[], pd.DataFrame]] = {
        "Update time, PPO = 1: median (quartiles)": lambda: updates(args),
        "Gain of the adversary, relative to a cold search of 100 steps": lambda: gains(args),
        f"Whole training, {args.env}, 8 environments, `n_steps=512`": lambda: whole_training(args),
        f"Episodes under MAD, {args.env}": lambda: episodes_under_mad(args),
        "BARPO's update time against batch size and steps of cold searches, PPO = 1, width 64": lambda: cost_at(64),
        "The same, width 256": lambda: cost_at(256),
        "Threads: ms for one minibatch of 64, cold": threads,
    }
    text = (
        f"ε = {EPSILON:g}, networks 64-64 tanh where no width is given, SGLD: ten steps at all visits where it says "
        "cold, two at later ones where it does not. "
        f"{platform.machine()}, CPU, one thread where no number is given, torch {th.__version__}.\n"
    )
    for title, section in sections.items():
        text += f"\n**{title}**\n\n{section().to_markdown()}\n"
        (args.output / "table.md").write_text(text, encoding="utf-8")
    picture(costs).savefig(args.output / "cost.png")
    print(text)


def filled(algorithm: type[PPO], shape: tuple[int, int], batch: int, minibatches: int, **kwargs: Any) -> PPO:
    """A model with a rollout of random observations, on which ``train`` can be called again and again."""
    n_steps = batch * minibatches
    kwargs = {"policy": "MlpPolicy", "n_steps": n_steps, "batch_size": batch, "device": "cpu", "seed": 0} | kwargs
    model = algorithm(env=Blank(*shape), **kwargs)
    model.set_logger(Logger(None, []))
    rng = np.random.default_rng(0)
    buffer = model.rollout_buffer
    observations = rng.normal(size=(n_steps, 1, shape[0]))
    with th.no_grad():
        actions, values, log_prob = model.policy(th.as_tensor(observations[:, 0]))
    buffer.observations[:], buffer.actions[:] = observations, actions.numpy()[:, None]
    buffer.values[:], buffer.log_probs[:] = values.numpy(), log_prob.numpy()[:, None]
    buffer.advantages[:] = rng.normal(size=(n_steps, 1))
    buffer.returns[:] = buffer.advantages + buffer.values
    buffer.pos, buffer.full = n_steps, True
    return model


def robust(algorithm: type[PPO], *place: Any, **kwargs: Any) -> PPO:
    return filled(algorithm, *place, epsilon=EPSILON, **kwargs)


def in_turns(works: dict[str, Callable[[], object]], turns: int) -> pd.DataFrame:
    """Seconds, one row a turn, one column for each."""
    rows = []
    for _ in range(turns):
        row = {}
        for name, work in works.items():
            start = time.perf_counter()
            work()
            row[name] = time.perf_counter() - start
        rows.append(row)
    return pd.DataFrame(rows)


def relative(seconds: pd.DataFrame, unit: str) -> pd.Series:
    quartiles = seconds.div(seconds[unit], axis=0).quantile([0.5, 0.25, 0.75])
    return quartiles.apply(lambda q: f"{q[0.5]:.2f} ({q[0.25]:.2f} to {q[0.75]:.2f})")


def updates(args: argparse.Namespace) -> pd.DataFrame:
    columns = {}
    for shape in ((11, 3), (17, 6)):
        for batch, minibatches in ((64, 32), (2048, 8)):
            place = (shape, batch, minibatches)
            models = {
                "PPO": filled(PPO, *place),
                "BARPO": robust(BARPO, *place),
                "ARPO": robust(ARPO, *place),
                "BARPO, one later step": robust(BARPO, *place, **ONE_STEP),
                "ARPO, one later step": robust(ARPO, *place, **ONE_STEP),
                "BARPO, cold": robust(BARPO, *place, **COLD),
                "ARPO, cold": robust(ARPO, *place, **COLD),
            }
            if shape == (11, 3):
                models["BARPO, cold, general path"] = robust(BARPO, *place, policy=General, **COLD)
            seconds = in_turns({name: model.train for name, model in models.items()}, args.turns)
            column = relative(seconds, "PPO")
            column["PPO, ms for a minibatch"] = f"{1e3 * seconds['PPO'].median() / 10 / minibatches:.2f}"
            columns[f"{shape[0]} observed, {shape[1]} actions, batch {batch}"] = column
    return pd.DataFrame(columns).fillna("")


class Compared(Adversary):
    """Now and then also searches as others would, and keeps everyone's gain."""

    def __init__(self, objective: Objective, solver: WarmStart) -> None:
        super().__init__(objective, solver)
        self.others = {f"cold, {n} steps": Adversary(objective, SGLD(n)) for n in (2, 10, 100)}
        self.rows: list[dict[str, float]] = []
        self.calls = 0

    def perturb(self, policy, observations, epsilon, samples=None, bounds=None, start=None):
        perturbed = super().perturb(policy, observations, epsilon, samples, bounds, start)
        self.calls += 1
        if self.calls % 16 == 0:
            found = {name: o.perturb(policy, observations, epsilon, samples, bounds) for name, o in self.others.items()}
            found[f"warm, {self.solver.later.n_steps} steps"] = perturbed
            gain = {name: self.gain(policy, observations, p, samples).mean().item() for name, p in found.items()}
            self.rows.append(gain)
        return perturbed


def gains(args: argparse.Namespace) -> pd.DataFrame:
    """In three rollouts of going on with the training of an agent, at every sixteenth minibatch."""
    columns = {}
    for algorithm, objective in OBJECTIVES.items():
        column: dict[str, float] = {}
        for n_steps in (1, 2):
            folder = args.agents / f"{algorithm.__name__.lower()}-seed0"
            venv = VecNormalize.load(str(folder / "vecnormalize.pkl"), make_vec_env(args.env, n_envs=8, seed=0))
            changed = {"n_steps": 256, "n_envs": 8, "epsilon": EPSILON, "learning_rate": 3e-4, "lr_schedule": None}
            changed["adversary"] = Compared(objective, WarmStart(later=SGLD(n_steps)))
            model = algorithm.load(folder / "agent", env=venv, device="cpu", custom_objects=changed)
            model.learn(3 * 8 * 256)
            rows = pd.DataFrame(model._adversary.rows).mean()
            column |= (rows / rows["cold, 100 steps"]).to_dict()
        columns[algorithm.__name__] = column
    return pd.DataFrame(columns).sort_index().drop("cold, 100 steps").map("{:.3f}".format)


def whole_training(args: argparse.Namespace) -> pd.DataFrame:
    def learn(algorithm: type[PPO], **own: Any) -> Callable[[], object]:
        venv = VecNormalize(make_vec_env(args.env, n_envs=8, seed=0))
        model = algorithm("MlpPolicy", venv, n_steps=512, seed=0, device="cpu", **own)
        return lambda: model.learn(8 * 512, reset_num_timesteps=False)

    seconds = in_turns(
        {
            "PPO": learn(PPO),
            "BARPO": learn(BARPO, epsilon=EPSILON),
            "ARPO": learn(ARPO, epsilon=EPSILON),
            "BARPO, cold": learn(BARPO, epsilon=EPSILON, **COLD),
            "ARPO, cold": learn(ARPO, epsilon=EPSILON, **COLD),
        },
        args.turns,
    )
    speed = 8 * 512 / seconds
    return pd.DataFrame(
        {"steps/s, median": speed.median().round(), "relative to PPO: median (quartiles)": relative(speed, "PPO")}
    )


def episodes_under_mad(args: argparse.Namespace) -> pd.DataFrame:
    rows = {}
    folder = args.agents / "barpo-seed2"
    for name, n_envs, episodes, changed in (
        ("one at a time, general path", 1, 2, {"policy_class": General}),
        ("one at a time", 1, 2, {}),
        ("16 together", 16, 32, {}),
    ):
        venv = VecNormalize.load(str(folder / "vecnormalize.pkl"), make_vec_env(args.env, n_envs=n_envs))
        model = PPO.load(folder / "agent", env=venv, device="cpu", custom_objects=changed)
        start = time.perf_counter()
        done = run_trial(origin_of(model, venv), model, venv, MAD(model, EPSILON), EvalConfig(episodes))
        took = time.perf_counter() - start
        steps = sum(episode[-1] for episode in done)
        rows[name] = {"episodes": episodes, "episodes/s": episodes / took, "steps/s": steps / took}
    table = pd.DataFrame(rows).T
    for unit in ("episodes/s", "steps/s"):
        table[f"{unit}, relative"] = (table[unit] / table[unit].iloc[0]).map("{:.1f}".format)
    return table.round({"episodes/s": 3, "steps/s": 0})


def cost(width: int) -> pd.DataFrame:
    """One row a batch size, one column a number of inner steps; 0 steps are one uniform draw."""
    rows = {}
    for batch in BATCHES:
        place = ((17, 6), batch, 8 if batch < 8192 else 2)
        kwargs = {"n_epochs": 1, "policy_kwargs": {"net_arch": [width, width]}}
        works = {"PPO": filled(PPO, *place, **kwargs).train}
        for n in STEPS:
            adversary = Adversary(None, Uniform()) if n == 0 else Adversary(KL(), SGLD(n))
            works[str(n)] = filled(BARPO, *place, epsilon=EPSILON, adversary=adversary, **kwargs).train
        seconds = in_turns(works, 6 if batch < 1024 else 2)
        rows[batch] = seconds.div(seconds["PPO"], axis=0).median().drop("PPO").round(2)
    return pd.DataFrame(rows).T.rename_axis("batch")


def threads() -> pd.DataFrame:
    place = ((17, 6), 64, 8)
    rows = {}
    for name, model in (("PPO", filled(PPO, *place, n_epochs=1)), ("BARPO", robust(BARPO, *place, n_epochs=1, **COLD))):
        row = rows[name] = {}
        for number in (1, 2, 4):
            th.set_num_threads(number)
            took = in_turns({"train": model.train}, 6)["train"].median()
            row[f"{number} threads" if number > 1 else "1 thread"] = round(1e3 * took / 8, 2)
    th.set_num_threads(1)
    return pd.DataFrame(rows).T


def picture(costs: dict[int, pd.DataFrame]) -> Figure:
    figure = Figure(figsize=(9, 3.8), dpi=150, layout="constrained")
    for axes, (width, table) in zip(figure.subplots(1, 2, sharey=True), costs.items(), strict=True):
        for colour, (n, column) in zip(COLOURS, table.items(), strict=False):
            axes.plot(column.index, column, "o-", color=colour, ms=4, label=f"{n} steps")
        axes.axhline(1, color="0.6", lw=1, ls="--")
        axes.set_xscale("log", base=2)
        axes.set_xticks(BATCHES, map(str, BATCHES))
        axes.set_xlabel("batch size")
        axes.set_title(f"hidden layers of {width}", loc="left", fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
    figure.axes[0].set_ylabel("BARPO's update time (cold), PPO = 1")
    figure.axes[0].set_ylim(bottom=0)
    figure.axes[0].legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
