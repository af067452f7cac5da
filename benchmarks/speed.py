"""
What robust training costs, side by side in one run, with SB3's PPO as the unit.

    python benchmarks/speed.py            # the tables
    python benchmarks/speed.py --profile  # where the time of an update goes

1. Updates: PPO, ARPO and BARPO, PPO by hand, and the general path by autograd, over batch sizes and widths.
2. Whole training on a MuJoCo task, with eight environments and with one, of a trained agent.
3. SA-RL's training: an attacker that learns, in steps a second, against PPO's own training.
4. Episodes under MAD: all environments together, against one at a time on the general path.
5. Updates on images and with a memory, which take the general path.
6. The adversary's gain, cold and with a warm start, relative to a search of 100 steps, in the training of an agent.

What is compared takes turns, so that whatever else the machine does meets all alike; times are CPU time of the one
thread, and ratios are taken within each turn. Prints the tables, and writes ``table.md`` or ``profile.md``.
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
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecNormalize

from sb3_barpo import ARPO, BARPO
from sb3_barpo.adversary import KL, SGLD, Adversary, Objective, Surrogate, WarmStart
from sb3_barpo.attacks import MAD, SARL
from sb3_barpo.attacks.quick_ppo import QuickPPO
from sb3_barpo.evaluation.robustness import origin_of, run_trial
from sb3_barpo.evaluation.settings import EvalConfig
from sb3_barpo.policies.flat import FlatNetwork, FlatPolicy
from sb3_barpo.recurrent import RecurrentBARPO
from sb3_barpo.training import inner

HERE = Path(__file__).parent
EPSILON = 0.075
OBJECTIVES: dict[type[PPO], Objective] = {BARPO: KL(), ARPO: Surrogate()}
#: Observed features and actions, batch, minibatches an update, hidden layers.
PLACES = [
    ((11, 3), 64, 32, 64),
    ((17, 6), 64, 32, 64),
    ((11, 3), 256, 8, 64),
    ((17, 6), 256, 8, 64),
    ((11, 3), 2048, 4, 64),
    ((17, 6), 2048, 4, 64),
    ((11, 3), 64, 16, 256),
]


class General(ActorCriticPolicy):
    """SB3's policy; a method of its own keeps it from the fast path."""

    def get_distribution(self, obs):
        return super().get_distribution(obs)


class Blank(gym.Env):
    """Only its spaces matter."""

    def __init__(self, n_observed: int, n_actions: int) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (n_observed,), np.float64)  # as MuJoCo's
        self.action_space = spaces.Box(-1, 1, (n_actions,), np.float32)


class Pixels(Blank):
    """Four frames, as of Atari games."""

    def __init__(self) -> None:
        super().__init__(1, 1)
        self.observation_space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
        self.action_space = spaces.Discrete(6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=Path, default=HERE / "hopper" / "agents", help="where trained agents lie")
    parser.add_argument("--env", default="Hopper-v5")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="the parts of one update instead of the tables")
    parser.add_argument("--output", type=Path, default=HERE / "speed")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    th.set_num_threads(1)
    if args.profile:
        where = f"Microseconds, {platform.machine()}, torch {th.__version__}; {args.turns} turns."
        text = f"{profile(args).to_markdown()}\n\n{where}\n"
        (args.output / "profile.md").write_text(text, encoding="utf-8")
        print(text)
        return
    sections: dict[str, Callable[[], pd.DataFrame]] = {
        "Update time, PPO = 1: median (quartiles)": lambda: updates(args),
        f"Whole training, {args.env}: steps a second, PPO = 1": lambda: whole_training(args),
        f"SA-RL's training on {args.env}, 8 environments: steps a second": lambda: attackers(args),
        f"Episodes under MAD, {args.env}": lambda: episodes_under_mad(args),
        "Updates on the general path, SB3's algorithm = 1": lambda: on_the_general_path(args),
        "Gain of the adversary, relative to a cold search of 100 steps": lambda: gains(args),
    }
    text = (
        f"ε = {EPSILON:g}, tanh networks, SGLD of ten steps at a sample's first visit and one at later ones. "
        f"{platform.machine()}, one thread, its CPU time, torch {th.__version__}; {args.turns} turns.\n"
    )
    for title, section in sections.items():
        text += f"\n**{title}**\n\n{section().to_markdown()}\n"
        (args.output / "table.md").write_text(text, encoding="utf-8")
    print(text)


def filled(algorithm: type[PPO], shape: tuple[int, int], batch: int, minibatches: int, **kwargs: Any) -> PPO:
    """A model with a rollout of random observations, on which ``train`` can be called again and again."""
    n_steps = batch * minibatches
    own = {"policy": "MlpPolicy", "n_steps": n_steps, "batch_size": batch, "device": "cpu", "seed": 0}
    model = algorithm(**{"env": Blank(*shape)} | own | kwargs)
    model.set_logger(Logger(None, []))
    rng = np.random.default_rng(0)
    buffer, space = model.rollout_buffer, model.observation_space
    observations = rng.normal(size=(n_steps, 1, *space.shape))
    if space.dtype == np.uint8:
        observations = rng.integers(0, 256, observations.shape, np.uint8)
    with th.no_grad():
        actions, values, log_prob = model.policy(th.as_tensor(observations[:, 0]))
    buffer.observations[:], buffer.actions[:] = observations, actions.numpy().reshape(n_steps, 1, -1)
    buffer.values[:], buffer.log_probs[:] = values.numpy(), log_prob.numpy()[:, None]
    buffer.advantages[:] = rng.normal(size=(n_steps, 1))
    buffer.returns[:] = buffer.advantages + buffer.values
    buffer.pos, buffer.full = n_steps, True
    return model


def robust(algorithm: type[PPO], *place: Any, **kwargs: Any) -> PPO:
    return filled(algorithm, *place, epsilon=EPSILON, **kwargs)


def in_turns(works: dict[str, Callable[[], object]], turns: int) -> pd.DataFrame:
    """Seconds of CPU time, one row a turn, one column for each; a first turn that warms up is left out."""
    rows = []
    for turn in range(turns + 1):
        row = {}
        for name, work in works.items():
            start = time.thread_time()
            work()
            row[name] = time.thread_time() - start
        rows += [row] if turn else []
    return pd.DataFrame(rows)


def relative(seconds: pd.DataFrame, unit: str) -> pd.Series:
    quartiles = seconds.div(seconds[unit], axis=0).quantile([0.5, 0.25, 0.75])
    return quartiles.apply(lambda q: f"{q[0.5]:.2f} ({q[0.25]:.2f} to {q[0.75]:.2f})")


def updates(args: argparse.Namespace) -> pd.DataFrame:
    rows = {}
    for shape, batch, minibatches, width in PLACES:
        place = (shape, batch, minibatches)
        kwargs = {"policy_kwargs": {"net_arch": [width, width]}}
        models = {
            "PPO": filled(PPO, *place, **kwargs),
            "BARPO": robust(BARPO, *place, **kwargs),
            "ARPO": robust(ARPO, *place, **kwargs),
            "PPO by hand": filled(QuickPPO, *place, **kwargs),
            "BARPO, general path": robust(BARPO, *place, policy=General, **kwargs),
        }
        seconds = in_turns({name: model.train for name, model in models.items()}, args.turns)
        row = relative(seconds, "PPO").drop("PPO")
        row["PPO, ms for a minibatch"] = f"{1e3 * seconds['PPO'].median() / 10 / minibatches:.2f}"
        rows[f"{shape[0]} observed, {shape[1]} actions, {width}-{width}, batch {batch}"] = row
    return pd.DataFrame(rows).T


def on_the_general_path(args: argparse.Namespace) -> pd.DataFrame:
    """Images, and a policy with a memory on the task."""

    def images(algorithm: type[PPO], **own: Any) -> PPO:
        return filled(algorithm, (1, 1), 32, 2, policy="CnnPolicy", env=Pixels(), n_epochs=4, **own)

    def with_memory(algorithm: type[PPO], **own: Any) -> PPO:
        env = make_vec_env(args.env, seed=0)
        model = algorithm("MlpLstmPolicy", env, n_steps=256, batch_size=128, n_epochs=4, device="cpu", seed=0, **own)
        model.set_logger(Logger(None, []))
        return model.learn(256)

    rows = {}
    for name, (plain, ours) in {
        "CnnPolicy, 4 x 84 x 84, batch 32": (images(PPO), images(BARPO, epsilon=1.0)),
        "MlpLstmPolicy, batch 128": (with_memory(RecurrentPPO), with_memory(RecurrentBARPO, epsilon=EPSILON)),
    }.items():
        rows[name] = relative(in_turns({"SB3": plain.train, "BARPO": ours.train}, args.turns), "SB3").drop("SB3")
    return pd.DataFrame(rows).T


#: What is timed of an update, outermost first: calls within another part count there.
PARTS: dict[str, list[tuple[Any, str]]] = {
    "gather": [(RolloutBuffer, "_get_samples"), (FlatPolicy, "__init__")],
    "search": [(Adversary, "search")],
    "forward": [(ActorCriticPolicy, "evaluate_actions"), (inner, "evaluate_actions"), (FlatNetwork, "forward")],
    "backward": [(th.Tensor, "backward"), (FlatNetwork, "to_parameters")],
    "clip and Adam": [(th.nn.utils, "clip_grad_norm_"), (th.optim.Adam, "step"), (FlatPolicy, "step")],
}


def profile(args: argparse.Namespace) -> pd.DataFrame:
    """Microseconds of each part for one minibatch of 64, medians of the turns."""
    took = dict.fromkeys(PARTS, 0.0)
    inside: list[str] = []

    def timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.thread_time()
            inside.append(part)
            returned = function(*args, **kwargs)
            if inside.pop() and not inside:
                took[part] += time.thread_time() - start
            return returned

        return call

    place = ((11, 3), 64, 32)
    models = {
        "SB3's PPO": filled(PPO, *place),
        "BARPO, general path": robust(BARPO, *place, policy=General),
        "BARPO by hand": robust(BARPO, *place),
    }
    for part, functions in PARTS.items():
        for owner, name in functions:
            setattr(owner, name, timed(part, getattr(owner, name)))
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in models}
    for _ in range(args.turns + 1):
        for name, model in models.items():
            took.update(dict.fromkeys(PARTS, 0.0))
            start = time.thread_time()
            model.train()
            whole = time.thread_time() - start
            turns[name].append({**took, "all else": whole - sum(took.values()), "whole": whole})
    columns = {name: pd.DataFrame(rows[1:]).median() for name, rows in turns.items()}
    return (pd.DataFrame(columns) * 1e6 / model.n_epochs / place[2]).round().astype(int)


class Compared(Adversary):
    """Now and then also searches as others would, and keeps everyone's gain."""

    def __init__(self, objective: Objective, solver: WarmStart) -> None:
        super().__init__(objective, solver)
        self.others = {f"cold, {n} steps": Adversary(objective, SGLD(n)) for n in (2, 10, 100)}
        self.rows: list[dict[str, float]] = []
        self.calls = 0

    def search(self, policy, observations, epsilon, samples=None, bounds=None, start=None):
        perturbation = super().search(policy, observations, epsilon, samples, bounds, start)
        self.calls += 1
        if self.calls % 16 == 0:
            found = {name: o.perturb(policy, observations, epsilon, samples, bounds) for name, o in self.others.items()}
            found[f"warm, {self.solver.later.n_steps} steps"] = perturbation.observations
            gain = {name: self.gain(policy, observations, p, samples).mean().item() for name, p in found.items()}
            self.rows.append(gain)
        return perturbation


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


def learner(args: argparse.Namespace, algorithm: type[PPO], n_envs: int, **own: Any) -> Callable[[], object]:
    """Trains on for one rollout of 4,096 steps; at a learning rate of 0, so that all live through the same episodes."""
    folder = args.agents / "ppo-seed0"
    venv = VecNormalize.load(str(folder / "vecnormalize.pkl"), make_vec_env(args.env, n_envs=n_envs, seed=0))
    model = algorithm("MlpPolicy", venv, n_steps=4096 // n_envs, seed=0, device="cpu", learning_rate=0.0, **own)
    model.policy.load_state_dict(PPO.load(folder / "agent", device="cpu").policy.state_dict())
    model.set_logger(Logger(None, []))
    return lambda: model.learn(4096, reset_num_timesteps=False)


def whole_training(args: argparse.Namespace) -> pd.DataFrame:
    rows = {}
    for n_envs in (8, 1):
        works = {
            "PPO": learner(args, PPO, n_envs),
            "BARPO": learner(args, BARPO, n_envs, epsilon=EPSILON),
            "ARPO": learner(args, ARPO, n_envs, epsilon=EPSILON),
            "PPO by hand": learner(args, QuickPPO, n_envs),
        }
        seconds = in_turns(works, args.turns)
        row = relative(1 / seconds, "PPO").drop("PPO")
        row["PPO, steps/s"] = f"{4096 / seconds['PPO'].median():.0f}"
        rows["8 environments" if n_envs == 8 else "1 environment"] = row
    return pd.DataFrame(rows).T


def attackers(args: argparse.Namespace) -> pd.DataFrame:
    """A victim of PPO under SA-RL: the attacker is PPO too, and steps through the same environments."""
    folder = args.agents / "ppo-seed0"
    venv = VecNormalize.load(str(folder / "vecnormalize.pkl"), make_vec_env(args.env, n_envs=8, seed=0))
    victim = PPO.load(folder / "agent", device="cpu")
    works = {
        "PPO": learner(args, PPO, 8),
        "SA-RL": lambda: SARL(victim, EPSILON, n_steps=512, seed=0).fit(venv, 4096),
    }
    seconds = in_turns(works, args.turns)
    return pd.DataFrame({"relative to PPO: median (quartiles)": relative(1 / seconds, "PPO").drop("PPO")})


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
        start = time.thread_time()
        done = run_trial(origin_of(model, venv), model, venv, MAD(model, EPSILON), EvalConfig(episodes))
        took = time.thread_time() - start
        steps = sum(episode[-1] for episode in done)
        rows[name] = {"episodes": episodes, "episodes/s": episodes / took, "steps/s": steps / took}
    table = pd.DataFrame(rows).T
    for unit in ("episodes/s", "steps/s"):
        table[f"{unit}, relative"] = (table[unit] / table[unit].iloc[0]).map("{:.1f}".format)
    return table.round({"episodes/s": 3, "steps/s": 0})


if __name__ == "__main__":
    main()
