"""
The landscape of trained agents: natural return and worst case on a plane through three of them.

This is the lab's bridge to deep training, and its only module that needs the rest of the package.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pandas as pd
import torch as th
from joblib import Parallel, delayed
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize
from tqdm import tqdm

from sb3_barpo.agents.load import LoadedAgent
from sb3_barpo.agents.pack import pack, unpack
from sb3_barpo.attacks.victim import normalizer_digest, victim_digest
from sb3_barpo.evaluation.robustness import check_settings, evaluate_robustness, learned_names
from sb3_barpo.evaluation.settings import EvalConfig
from sb3_barpo.lab.pictures import canvas
from sb3_barpo.resume import read_record, write_record
from sb3_barpo.seeds import REPORT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: All numbers that make an agent act, by name.
Weights: TypeAlias = dict[str, np.ndarray]


@dataclass(frozen=True)
class Landscape:
    """
    Returns on a plane of agents.

    :param frame: One row a point, with the columns ``x``, ``y``, ``natural`` and ``worst_case``.
    :param marks: Where the three agents are, by their names: (0, 0), (1, 0) and the third.
    :param title: What was measured.
    """

    frame: pd.DataFrame
    marks: dict[str, tuple[float, float]]
    title: str

    def plot(self, path: str | Path | None = None) -> "Figure":
        """
        :param path: File to write the picture to, if any.
        :return: Natural return and worst case side by side, with the three agents.
        :raises ImportError: if matplotlib is not installed.
        """
        figure, row = canvas(9.4, 5.3, ncols=2, sharex=True, sharey=True)
        returns = self.frame[["natural", "worst_case"]].to_numpy()
        levels = np.linspace(returns.min(), returns.max() + 1e-9, 25)
        for axes, column in zip(row, ("natural", "worst_case"), strict=True):
            table = self.frame.pivot_table(column, "y", "x")
            filled = axes.contourf(table.columns, table.index, table.to_numpy(), levels=levels, cmap="bone")
            for marker, (name, (x, y)) in zip("oX*", self.marks.items(), strict=True):
                axes.plot(x, y, marker, color="#E69F00", mec="black", ms=17 if marker == "*" else 11, ls="", label=name)
            axes.set_title("natural return" if column == "natural" else "worst-case return")
            axes.set_aspect("equal")
            axes.set_xlabel(f"towards {list(self.marks)[1]}")
        row[0].set_ylabel(f"at a right angle, towards {list(self.marks)[2]}")
        figure.colorbar(filled, ax=row, label="return", format="%.0f", ticks=levels[::4], pad=0.01)
        figure.legend(*row[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
        figure.suptitle(self.title, fontsize=11)
        if path is not None:
            figure.savefig(path)
        return figure


def landscape(
    start: LoadedAgent,
    end: LoadedAgent,
    other: LoadedAgent,
    attacks: Sequence[str] = ("random", "critic", "mad"),
    epsilon: float = 0.075,
    points: int = 15,
    margin: float = 0.3,
    n_eval_episodes: int = 8,
    seed: int = REPORT.start,
    deterministic: bool = True,
    folder: str | Path | None = None,
    n_jobs: int = 1,
    progress_bar: bool = False,
) -> Landscape:
    """
    Evaluate the agents of a plane through three: the start of a training, where it ended, and a second end, for example
    ARPO's and BARPO's. One axis leads from the start to the end; the other is at a right angle to it, towards the
    second end, in the same unit. The plane is that of all weights of the policy and, where there is ``VecNormalize``,
    of the means and the logarithms of the variances of observations, since these belong to how an agent acts.

    :param start: The agent at (0, 0); its environments are those of the evaluation.
    :param end: The agent at (1, 0).
    :param other: The third agent.
    :param attacks: Names of attacks that need no learning.
    :param epsilon: Their strength, in units of what the policy sees.
    :param points: Number of points along each side.
    :param margin: How far the plane goes beyond the three, as a share of what they span.
    :param n_eval_episodes: Episodes without an attack and under each; as many as there are environments step together.
    :param seed: Seed of the first episode, the same at all points.
    :param deterministic: Whether the agents take their most likely action.
    :param folder: Where each finished point is stored at once and found again; ``None`` stores none.
    :param n_jobs: Number of processes.
    :param progress_bar: Whether to show the progress.
    :return: The landscape.
    :raises ValueError: for a setting out of range, an unknown attack or one that is learned, agents whose policies
        differ in more than their weights or that lie on a line, or a folder that holds another landscape.
    """
    _check(attacks, epsilon, points, margin, n_eval_episodes)
    named = dict(zip(_names(start, end, other), (start, end, other), strict=True))
    origin, right, up, corner = _plane(*(_read(agent.model, agent.venv) for agent in named.values()))
    marks = dict(zip(named, [(0.0, 0.0), (1.0, 0.0), corner], strict=True))
    places = _grid(np.array(list(marks.values())), points, margin)
    settings = (list(attacks), epsilon, n_eval_episodes, seed, deterministic)
    identity = [(victim_digest(agent.model), normalizer_digest(agent.venv)) for agent in named.values()]
    store = _store(folder, json.dumps([identity, settings, points, margin]))
    files = [None if store is None else store / f"{i}.json" for i in range(len(places))]
    found = [None if file is None else read_record(file) for file in files]
    content = pack(start.model, start.venv)
    missing = [i for i, record in enumerate(found) if record is None]
    waiting = (
        delayed(_measure)(content, {k: origin[k] + x * right[k] + y * up[k] for k in origin}, *settings)
        for x, y in (places[i] for i in missing)
    )
    results = Parallel(n_jobs, return_as="generator")(waiting)
    for i, record in zip(missing, tqdm(results, "points", len(missing), disable=not progress_bar), strict=True):
        found[i] = record
        if (file := files[i]) is not None:
            write_record(file, record)
    frame = pd.DataFrame(places, columns=["x", "y"]).join(pd.DataFrame(found))
    words = f"{', '.join(attacks)} at ε = {epsilon:g}; means over {n_eval_episodes} episodes"
    return Landscape(frame, marks, f"Worst case: {words}")


def _check(attacks: Sequence[str], epsilon: float, points: int, margin: float, n_eval_episodes: int) -> None:
    EvalConfig(n_eval_episodes)
    check_settings(attacks, epsilon)
    if learned := learned_names(attacks):
        raise ValueError(
            f"Each point is attacked anew, by attacks that need no learning, but these are learned: "
            f"{', '.join(learned)}. Take random, critic and mad."
        )
    if points < 2:
        raise ValueError(f"points must be at least 2, but it is {points}. 15 is usual.")
    if not margin >= 0:
        raise ValueError(f"margin must be at least 0, but it is {margin}. 0.3 is usual.")


def _names(*agents: LoadedAgent) -> list[str]:
    """The agents' names, with their parts in the plane where names would be the same."""
    names = [agent.name for agent in agents]
    if len(set(names)) == len(names):
        return names
    return [f"{part}: {name}" for part, name in zip(("start", "end", "other end"), names, strict=True)]


def _read(model: OnPolicyAlgorithm, venv: VecEnv) -> Weights:
    weights = {
        name: value.detach().cpu().double().numpy()
        for name, value in model.policy.state_dict().items()
        if value.is_floating_point()
    }
    for key, moments in _statistics(venv).items():
        weights[f"mean of observations {key}"] = np.array(moments.mean, dtype=float)
        weights[f"variance of observations {key}"] = np.log(np.array(moments.var, dtype=float))
    return weights


def _write(model: OnPolicyAlgorithm, venv: VecEnv, weights: Weights) -> None:
    state = model.policy.state_dict()
    for name in weights.keys() & state.keys():
        state[name] = th.as_tensor(weights[name]).to(state[name])
    model.policy.load_state_dict(state)
    for key, moments in _statistics(venv).items():
        moments.mean = weights[f"mean of observations {key}"]
        moments.var = np.exp(weights[f"variance of observations {key}"])


def _statistics(venv: VecEnv) -> dict[str, RunningMeanStd]:
    layer = unwrap_vec_normalize(venv)
    if layer is None or not layer.norm_obs:
        return {}
    return layer.obs_rms if isinstance(layer.obs_rms, dict) else {"": layer.obs_rms}


def _plane(start: Weights, end: Weights, other: Weights) -> tuple[Weights, Weights, Weights, tuple[float, float]]:
    """Origin, the two axes, which are orthogonal and of one length, and the coordinates of the third agent."""
    shapes = [{name: value.shape for name, value in weights.items()} for weights in (start, end, other)]
    if not shapes[0] == shapes[1] == shapes[2]:
        raise ValueError(
            "The three agents must have policies of one architecture, and either all VecNormalize or none, but theirs "
            "differ. Train them with the same policy_kwargs on the same environment."
        )
    right = {name: end[name] - start[name] for name in start}
    towards = {name: other[name] - start[name] for name in start}
    length = _dot(right, right)
    x = _dot(right, towards) / length if length > 0 else np.nan
    rest = {name: towards[name] - x * right[name] for name in start}
    y = float(np.sqrt(_dot(rest, rest) / length)) if length > 0 else np.nan
    if not y > 1e-6:
        raise ValueError(
            "The three agents lie on a line, or two are the same, and a plane needs three others. Name another one."
        )
    return start, right, {name: value / y for name, value in rest.items()}, (float(x), y)


def _dot(one: Weights, other: Weights) -> float:
    return float(sum((one[name] * other[name]).sum() for name in one))


def _grid(marks: np.ndarray, points: int, margin: float) -> np.ndarray:
    low, high = marks.min(0), marks.max(0)
    middle, half = (low + high) / 2, (high - low).max() * (0.5 + margin)  # a square
    x, y = (np.linspace(centre - half, centre + half, points) for centre in middle)
    return np.stack([axis.ravel() for axis in np.meshgrid(x, y)], -1)


def _store(folder: str | Path | None, identity: str) -> Path | None:
    if folder is None:
        return None
    store = Path(folder)
    store.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(identity.encode()).hexdigest()
    stored = read_record(store / "landscape.json")
    if stored is not None and stored != digest:
        raise ValueError(f"{str(store)!r} holds the landscape of other agents or settings. Name another folder.")
    write_record(store / "landscape.json", digest)
    return store


def _measure(
    content: bytes,
    weights: Weights,
    attacks: list[str],
    epsilon: float,
    n_eval_episodes: int,
    seed: int,
    deterministic: bool,
) -> dict[str, float]:
    th.set_num_threads(1)  # processes share the cores; more threads slow small networks down
    model, venv = unpack(content)
    _write(model, venv, weights)
    report = evaluate_robustness(model, venv, attacks, epsilon, n_eval_episodes, seed, deterministic, warn=False)
    # What an attack adds by chance is not its harm.
    return {"natural": report.natural, "worst_case": min(report.natural, report.worst_case)}
