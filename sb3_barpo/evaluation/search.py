"""
The search for the strongest learned attacks: every member of a grid is fitted and tried, and the best one is kept.

How members are fitted, compared and stored is in :mod:`sb3_barpo.evaluation.members`.
"""

import json
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd

from sb3_barpo.attacks import ATTACKS, LearnedAttack, Push, RobustSarsa, SarsaMAD, WorstQ
from sb3_barpo.attacks.victim import undisturbed
from sb3_barpo.evaluation.budgets import Budget, make_budget
from sb3_barpo.evaluation.episodes import run_episodes
from sb3_barpo.evaluation.judged import env_of
from sb3_barpo.evaluation.members import SELECTION, PackedVictim, Task, Victim, mean_return, run_tasks
from sb3_barpo.resume import read_record
from sb3_barpo.training.robust import RobustUpdate

#: Attacks that take the action value of the best Robust Sarsa over.
ON_SARSA = (SarsaMAD.name, WorstQ.name)


def find_attacks(
    victims: Sequence[Victim],
    names: Sequence[str],
    epsilon: float,
    budget: str | Budget = "quick",
    n_jobs: int = 1,
    seed: int = 0,
    deterministic: bool = True,
    progress_bar: bool = False,
) -> list[dict[str, LearnedAttack]]:
    """
    The strongest learned attacks on each victim: of all members, those that leave the lowest mean return.

    :param victims: The agents to be attacked.
    :param names: Which learned attacks.
    :param epsilon: Their strength.
    :param budget: ``"quick"``, ``"standard"``, ``"paper"``, or a :class:`Budget`: which members are fitted.
    :param n_jobs: Number of processes.
    :param seed: Seed of the search, that of the report. The members learn from seeds from ``seed + 2_000_000`` on, and
        are compared on episodes from ``seed + 1_000_000`` on, so that no episode of the report is among them.
    :param deterministic: Whether the victim takes its most likely action while members are compared.
    :param progress_bar: Whether to show the progress over the members.
    :return: For each victim, its attacks by name.
    :raises ValueError: for an unknown budget, one without members for an attack, or an attack that is not learned.
    :raises TypeError: if environments cannot be sent to other processes, or an attack does not support the victim.
    """
    unknown = [name for name in names if not issubclass(ATTACKS.get(name, object), LearnedAttack)]
    if unknown:
        raise ValueError(f"Only attacks that are learned can be searched for, but {', '.join(unknown)} is not.")
    with ExitStack() as stack:
        packed_victims = [_packed(victim, budget, epsilon, seed, deterministic, stack) for victim in victims]
        first = [name for name in names if name not in ON_SARSA]
        if on_sarsa := [name for name in names if name in ON_SARSA]:
            first = list(dict.fromkeys([*first, RobustSarsa.name]))
        best = _best(
            [task for packed, budget in packed_victims for name in first for task in _tasks(packed, budget, name)],
            n_jobs,
            progress_bar,
        )
        if on_sarsa:
            mixed = [
                task
                for packed, grid in packed_victims
                for name in on_sarsa
                for task in _tasks(packed, grid, name, best[packed.folder, RobustSarsa.name])
            ]
            best |= _best(mixed, n_jobs, progress_bar)
        return [
            {name: LearnedAttack.load(best[packed.folder, name].with_suffix(".zip"), victim.model) for name in names}
            for victim, (packed, _) in zip(victims, packed_victims, strict=True)
        ]


def strongest_push(
    victim: Victim, epsilon: float, seed: int = 0, deterministic: bool = True, n_episodes: int = 10
) -> Push:
    """
    The limit of the actions to which a steady push leaves the lowest mean return: nobody knows beforehand which it is,
    and the others may do no harm.

    :param victim: The agent to be attacked.
    :param epsilon: The strength.
    :param seed: Seed of the report; the limits are compared on other episodes, as in :func:`find_attacks`.
    :param deterministic: Whether the victim takes its most likely action.
    :param n_episodes: Episodes by which limits are compared.
    :return: The attack.
    """

    def mean(attack: Push) -> float:
        episodes = run_episodes(victim.model, attack, victim.venv, n_episodes, seed + SELECTION, deterministic)
        return float(np.mean([episode.reward for episode in episodes]))

    with undisturbed(victim.model, victim.venv):
        return min(Push.each(victim.model, epsilon, ball=victim.ball), key=mean)


def members_tried(folder: Path) -> pd.DataFrame:
    """
    :param folder: Where a search stores its members.
    :return: One row for each stored member, whatever search it belongs to: ``attack``, ``epsilon``,
        ``total_timesteps``, ``seed``, ``settings``, ``mean_return`` on the episodes that compare members, ``seconds``
        of fit and comparison, ``file``.
    """
    rows = []
    for path in sorted(folder.glob("*.json")):
        record = read_record(path)
        if "returns" not in record:
            continue
        kept = {key: record[key] for key in ("attack", "epsilon", "total_timesteps", "seed")}
        settings = json.dumps(record["settings"])
        found = {"mean_return": float(np.mean(record["returns"])), "seconds": round(record["seconds"], 1)}
        rows.append({**kept, "settings": settings, **found, "file": path.with_suffix(".zip").name})
    return pd.DataFrame(rows)


def _packed(
    victim: Victim, budget: str | Budget, epsilon: float, seed: int, deterministic: bool, stack: ExitStack
) -> tuple[PackedVictim, Budget]:
    folder = victim.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="attacks-")))
    env_id, _ = env_of(victim.venv)
    grid = make_budget(budget, env_id, isinstance(victim.model, RobustUpdate), victim.venv.num_envs)
    return PackedVictim.of(victim, folder, epsilon, seed, grid.n_episodes, deterministic), grid


def _tasks(packed: PackedVictim, budget: Budget, attack: str, base: Path | None = None) -> list[Task]:
    members = budget.members.get(attack)
    if not members:
        raise ValueError(f"The budget has no members for {attack}: it has some for {', '.join(budget.members)}.")
    return [packed.task(member, base) for member in members]


def _best(tasks: list[Task], n_jobs: int, progress_bar: bool) -> dict[tuple[Path, str], Path]:
    """The record of the strongest member, by folder and attack."""
    run_tasks(tasks, n_jobs, progress_bar)
    best: dict[tuple[Path, str], Path] = {}
    for task in sorted(tasks, key=lambda task: (mean_return(task.path), task.path)):
        best.setdefault((task.path.parent, task.member.attack), task.path)
    return best
