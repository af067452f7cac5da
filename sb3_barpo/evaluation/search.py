"""
The search for the strongest learned attacks: every member of a grid is fitted and tried, and the best one is kept.

Members are fitted in parallel processes. Each is stored as soon as it is finished, so that a killed search can be
resumed. Members are compared on other episodes than those of the report, which would otherwise overstate the attack.
"""

import hashlib
import json
import tempfile
import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch as th
from joblib import Parallel, delayed
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv

from sb3_barpo import seeds
from sb3_barpo.adversary import Ball, SpaceWarning
from sb3_barpo.agents.pack import pack, unpack
from sb3_barpo.attacks import ATTACKS, LearnedAttack, RobustSarsa, SarsaMAD
from sb3_barpo.attacks.two_rates import TwoRatesPolicy
from sb3_barpo.attacks.victim import normalizer_digest, undisturbed, victim_digest
from sb3_barpo.evaluation.budgets import Budget, Member, make_budget
from sb3_barpo.evaluation.episodes import run_episodes
from sb3_barpo.evaluation.judged import env_of
from sb3_barpo.evaluation.progress import Progress, Tell, counted_steps
from sb3_barpo.resume import read_record, replacing, write_record
from sb3_barpo.training.robust import RobustUpdate

#: Seeds of the episodes that compare members lie this far from those of the report.
SELECTION = seeds.SELECTION.start


@dataclass(frozen=True)
class Victim:
    """
    An agent to be attacked.

    :param model: The agent.
    :param venv: Its environments without an attack. They are pickled, so use ``DummyVecEnv``.
    :param folder: Where its attackers are stored and reused; ``None`` stores nothing.
    :param ball: The attackers' ball, :class:`sb3_barpo.adversary.LinfBall` by default.
    """

    model: OnPolicyAlgorithm
    venv: VecEnv
    folder: Path | None = None
    ball: Ball | None = None


class _Task(NamedTuple):
    """One member to fit and to try, ready to be sent to a process."""

    path: Path  # of its record; its attack lies beside it
    record: dict[str, Any]
    member: Member
    victim: bytes
    ball: Ball | None
    base: Path | None  # the action value that RS+MAD takes over


@dataclass(frozen=True)
class _Target:
    """A victim with what its tasks have in common."""

    content: bytes
    folder: Path
    budget: Budget
    record: dict[str, Any]
    ball: Ball | None

    def tasks(self, attack: str, base: Path | None = None) -> list[_Task]:
        members = self.budget.members.get(attack)
        if not members:
            raise ValueError(
                f"The budget has no members for {attack}: it has some for {', '.join(self.budget.members)}."
            )
        return [self._task(member, base) for member in members]

    def _task(self, member: Member, base: Path | None) -> _Task:
        # Whatever matters is in the record and in the name, so that other settings are never taken for these.
        record = {**self.record, **asdict(member), "base": base and base.stem}
        key = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:12]
        return _Task(self.folder / f"{member.attack}-{key}.json", record, member, self.content, self.ball, base)


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
    :param seed: Seed of the fits. The members are compared on episodes from ``seed + 1_000_000`` on.
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
        targets = [_target(victim, budget, epsilon, seed, deterministic, stack) for victim in victims]
        first = [name for name in names if name != SarsaMAD.name]
        if SarsaMAD.name in names:
            first = list(dict.fromkeys([*first, RobustSarsa.name]))
        best = _run([task for target in targets for name in first for task in target.tasks(name)], n_jobs, progress_bar)
        if SarsaMAD.name in names:
            mixed = [
                task
                for target in targets
                for task in target.tasks(SarsaMAD.name, best[target.folder, RobustSarsa.name])
            ]
            best |= _run(mixed, n_jobs, progress_bar)
        return [
            {name: LearnedAttack.load(best[target.folder, name], victim.model) for name in names}
            for victim, target in zip(victims, targets, strict=True)
        ]


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
        kept = {key: record[key] for key in ("attack", "epsilon", "total_timesteps", "seed")}
        settings = json.dumps(record["settings"])
        found = {"mean_return": float(np.mean(record["returns"])), "seconds": round(record["seconds"], 1)}
        rows.append({**kept, "settings": settings, **found, "file": path.with_suffix(".zip").name})
    return pd.DataFrame(rows)


def _target(
    victim: Victim, budget: str | Budget, epsilon: float, seed: int, deterministic: bool, stack: ExitStack
) -> _Target:
    env_id, kwargs = env_of(victim.venv)
    folder = victim.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="attacks-")))
    folder.mkdir(parents=True, exist_ok=True)
    members = make_budget(budget, env_id, isinstance(victim.model, RobustUpdate), victim.venv.num_envs)
    record = {
        "env": env_id,
        "env_kwargs": repr(kwargs) if env_id else "",
        "n_envs": victim.venv.num_envs,
        "victim": victim_digest(victim.model),
        "normalizer": normalizer_digest(victim.venv),
        "epsilon": epsilon,
        "search_seed": seed,
        "n_episodes": members.n_episodes,
        "deterministic": deterministic,
    }
    if victim.ball is not None:  # records of the default ball have always been without
        record["ball"] = repr(victim.ball)
    return _Target(pack(victim.model, victim.venv), folder, members, record, victim.ball)


def _run(tasks: list[_Task], n_jobs: int, progress_bar: bool) -> dict[tuple[Path, str], Path]:
    """The file of the strongest member, by folder and attack."""
    waiting = sorted((task for task in tasks if not task.path.exists()), key=lambda task: -task.member.total_timesteps)
    steps = sum(task.member.total_timesteps for task in waiting)
    with Progress("attackers", len(waiting), steps, "step", progress_bar, n_jobs) as progress:
        fits = (delayed(_fit)(task, progress.tell) for task in waiting)
        for label in Parallel(n_jobs, return_as="generator_unordered")(fits):
            progress.finished(label)
    best: dict[tuple[Path, str], tuple[float, Path]] = {}
    for task in tasks:
        key = task.path.parent, task.member.attack
        found = (float(np.mean(read_record(task.path)["returns"])), task.path.with_suffix(".zip"))
        best[key] = min(best.get(key, found), found)
    return {key: path for key, (_, path) in best.items()}


def _fit(task: _Task, tell: Tell) -> str:
    """Fit a member and compare it. :return: What is finished, in words."""
    th.set_num_threads(1)  # processes share the cores; more threads slow small networks down
    start = time.monotonic()
    model, venv = unpack(task.victim)
    attack = _build(task, model)
    record = task.record
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SpaceWarning)  # the evaluation says it once
        if attack.origin is None:
            attack.fit(counted_steps(venv, tell), task.member.total_timesteps)
        with undisturbed(model, venv):
            seed = record["search_seed"] + SELECTION
            episodes = run_episodes(model, attack, venv, record["n_episodes"], seed, record["deterministic"])
    with replacing(task.path.with_suffix(".zip")) as file:
        attack.save(file)
    returns = [episode.reward for episode in episodes]
    tell(0)
    seconds = time.monotonic() - start
    write_record(task.path, {**record, "returns": returns, "seconds": seconds})
    return f"{task.member.attack} on {task.path.parent.name}, {task.member.total_timesteps} steps in {seconds:.0f} s"


def _build(task: _Task, model: OnPolicyAlgorithm) -> LearnedAttack:
    settings = dict(task.member.settings)
    if task.base is not None:
        return SarsaMAD.from_sarsa(RobustSarsa.load(task.base, model), **settings)
    rate = settings.get("learning_rate")
    if isinstance(rate, str):
        settings["learning_rate"] = LinearSchedule(float(rate.removeprefix("lin_")), 0.0, 1.0)
    if "value_rate" in settings:
        settings["policy"], settings["policy_kwargs"] = TwoRatesPolicy, {"value_rate": settings.pop("value_rate")}
    kind: Any = ATTACKS[task.member.attack]
    seed = task.record["search_seed"] + task.member.seed
    attack: LearnedAttack = kind(model, task.record["epsilon"], seed=seed, ball=task.ball, **settings)
    return attack
