"""
What an attack does to an agent, beyond the mean: median, the lowest tenth, how far actions move, how often they flip.

With intervals over the episodes of one agent, or over seeds of training where there are several agents of one
algorithm: the two answer different questions, and only the second one is about the algorithm.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_barpo.attacks import Attack, UnderAttack
from sb3_barpo.attacks.victim import undisturbed
from sb3_barpo.evaluation.rows import Rows
from sb3_barpo.evaluation.statistics import bootstrap_interval
from sb3_barpo.vec_envs import seed_if_possible

#: The share of the lowest episodes over which CVaR is the mean.
TAIL = 0.1


def cvar(returns: NDArray[np.floating], axis: int = -1) -> Any:
    """
    Conditional value at risk: the mean of the lowest tenth, at least of the lowest one.

    :param returns: Returns of episodes, any shape.
    :param axis: The axis of the episodes.
    :return: The mean of the lowest tenth along the axis.
    """
    n_lowest = max(int(np.ceil(TAIL * returns.shape[axis])), 1)
    return np.sort(returns, axis=axis).take(range(n_lowest), axis=axis).mean(axis=axis)


#: What is said of returns, by name.
MEASURES: dict[str, Callable[..., Any]] = {"mean": np.mean, "median": np.median, "cvar": cvar}


def measures(rows: Rows, epsilon: float | None = None) -> pd.DataFrame:
    """
    :param rows: The episodes.
    :param epsilon: The strength, the largest by default.
    :return: One row for each agent and attack (natural among them, and ``best_response``, each episode's lowest return
        under any attack): ``mean``, ``median`` and ``cvar`` (the mean of the lowest tenth) of the returns, each with
        the ends of its 95 % bootstrap interval over the episodes (``mean_low``, ``mean_high``), NaN for one episode.
    :raises ValueError: if there are no episodes at this ε.
    """
    table = [
        {"agent": agent, "attack": attack, **_measured(returns)} for (agent, attack), returns in _returns(rows, epsilon)
    ]
    return pd.DataFrame(table).set_index(["agent", "attack"])


def measures_by_algorithm(rows: Rows, epsilon: float | None = None) -> pd.DataFrame:
    """
    :param rows: The episodes.
    :param epsilon: The strength, the largest by default.
    :return: One row for each algorithm and attack: the means over its agents of the measures of :func:`measures`,
        with 95 % bootstrap intervals over the agents, NaN for a single one, and ``n_seeds``.
    :raises ValueError: if there are no episodes at this ε.
    """
    table = measures(rows, epsilon)[list(MEASURES)].reset_index()
    algorithms = rows.origins["algorithm"]
    table["algorithm"] = table["agent"].map(algorithms)
    result = []
    for (algorithm, attack), some in table.groupby(["algorithm", "attack"], sort=False):
        row: dict[str, Any] = {"algorithm": algorithm, "attack": attack, "n_seeds": len(some)}
        for name in MEASURES:
            scores = some[name].to_numpy(dtype=float)
            row |= _with_interval(name, scores, np.mean)
        result.append(row)
    return pd.DataFrame(result).set_index(["algorithm", "attack"])


def _returns(rows: Rows, epsilon: float | None) -> list[tuple[tuple[str, str], NDArray[np.float64]]]:
    frame = rows.at(epsilon)
    found = []
    for agent in rows.agents:
        own = frame[frame["agent"] == agent].pivot(index="seed", columns="attack", values="return")
        attacks = [attack for attack in frame["attack"].unique() if attack in own]
        found += [((agent, attack), own[attack].to_numpy(dtype=float)) for attack in attacks]
        found.append(((agent, "best_response"), own[[*attacks[1:]]].min(axis="columns").to_numpy(dtype=float)))
    return found


def _measured(returns: NDArray[np.float64]) -> dict[str, float]:
    row: dict[str, float] = {}
    for name, statistic in MEASURES.items():
        row |= _with_interval(name, returns, statistic)
    return row


def _with_interval(name: str, values: NDArray[np.float64], statistic: Callable[..., Any]) -> dict[str, float]:
    low, high = bootstrap_interval(values, statistic) if len(values) > 1 else (np.nan, np.nan)
    return {name: float(statistic(values)), f"{name}_low": low, f"{name}_high": high}


class Moved(NamedTuple):
    """
    How an attack moves an agent's actions, on average over the steps of its episodes.

    :param shift: Distance between the most likely action at the shown and at the clean observation: for ``Box`` the
        mean over the dimensions in units of half the action's range (of 1 where there is none), after clipping; for
        others the share of dimensions that differ.
    :param flip_rate: Share of steps at which the most likely action is another one. For ``Box``: at which a dimension
        changes sides of the middle of its range.
    """

    shift: float
    flip_rate: float


def moved(
    model: OnPolicyAlgorithm, venv: VecEnv, attack: Attack, n_steps: int = 1000, seed: int = 0
) -> tuple[Moved, dict[str, tuple[float, float]]]:
    """
    Watch an agent under attack.

    :param model: The agent. One with a memory is asked with what it remembers under attack.
    :param venv: Its environments, clean.
    :param attack: The attack.
    :param n_steps: Steps of each environment.
    :param seed: Seed of the first episodes and of the attack.
    :return: How its actions move, and 95 % bootstrap intervals of both by name, over the environments, each of which
        is one series of episodes.
    """
    with undisturbed(model, venv):
        attack.seed(seed)
        seed_if_possible(venv, seed)
        attacked, state = UnderAttack(model, attack, venv), None
        observations: Any = venv.reset()
        starts = np.ones(venv.num_envs, dtype=bool)
        series = []
        for _ in range(n_steps):
            # Asked first at the clean observation, with the memory of what it was shown so far.
            own: Any = None if state is None else state[: len(state) // 2]
            clean, _ = model.predict(observations, own, starts, deterministic=True)
            taken, state = attacked.predict(observations, state, starts, deterministic=True)
            series.append(_distance(model.action_space, taken, clean))
            observations, _, starts, _ = venv.step(taken)
    shift, flips = (np.array([step[i] for step in series]).mean(0) for i in (0, 1))  # of each environment
    intervals = {
        name: bootstrap_interval(values, np.mean) if len(values) > 1 else (np.nan, np.nan)
        for name, values in (("shift", shift), ("flip_rate", flips))
    }
    return Moved(float(shift.mean()), float(flips.mean())), intervals


def told(table: pd.DataFrame) -> list[dict[str, Any]]:
    """:return: A table of measures as JSON can hold it, ``None`` for what is no finite number."""
    rows = table.reset_index().replace([np.inf, -np.inf], np.nan).to_dict("records")
    return [{str(key): None if pd.isna(value) else value for key, value in row.items()} for row in rows]


def moved_told(model: OnPolicyAlgorithm, venv: VecEnv, attack: Attack, n_steps: int, seed: int) -> dict[str, Any]:
    """:return: What :func:`moved` says, as JSON can hold it, and under which attack."""
    means, intervals = moved(model, venv, attack, n_steps, seed)
    row: dict[str, Any] = {"attack": attack.name, **means._asdict()}
    for name, (low, high) in intervals.items():
        row |= (
            {f"{name}_low": None, f"{name}_high": None} if np.isnan(low) else {f"{name}_low": low, f"{name}_high": high}
        )
    return row


def _distance(space: spaces.Space[Any], taken: np.ndarray, clean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shift and flip of each environment, shape ``(B,)``."""
    one, other = (np.asarray(actions).reshape(len(actions), -1) for actions in (taken, clean))
    if not isinstance(space, spaces.Box):
        differs = one != other
        return differs.mean(1), differs.any(1).astype(float)
    bounded = (np.isfinite(space.low) & np.isfinite(space.high)).ravel()
    low, high = (np.where(bounded, limit.ravel(), end) for limit, end in ((space.low, -1.0), (space.high, 1.0)))
    half, middle = (high - low) / 2, (high + low) / 2
    flipped = (np.sign(one - middle) * np.sign(other - middle) < 0).any(1)
    return (np.abs(one - other) / half).mean(1), flipped.astype(float)
