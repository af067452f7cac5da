"""
Members of a search: attackers that are fitted in parallel processes, tried on episodes that choose, and stored.

A member is stored as soon as it is finished, and while its fit is under way after each of its stages, so that a killed
search can be resumed. Members are compared on other episodes than those of the report, which would otherwise overstate
the attack, and learn from others again (:mod:`sb3_barpo.seeds`).
"""

import hashlib
import json
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch as th
from joblib import delayed
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv

from sb3_barpo import seeds
from sb3_barpo.adversary import Ball, SpaceWarning
from sb3_barpo.agents.pack import pack, unpack
from sb3_barpo.attacks import ATTACKS, Attack, LearnedAttack, PolicyAttack, RobustSarsa
from sb3_barpo.attacks.learned import steps_of
from sb3_barpo.attacks.two_rates import TwoRatesPolicy
from sb3_barpo.attacks.victim import normalizer_digest, undisturbed, victim_digest
from sb3_barpo.evaluation.backends import in_parallel
from sb3_barpo.evaluation.budgets import Member
from sb3_barpo.evaluation.episodes import run_episodes
from sb3_barpo.evaluation.judged import env_of
from sb3_barpo.evaluation.progress import Progress, Tell
from sb3_barpo.evaluation.rows import NATURAL
from sb3_barpo.resume import read_record, replacing, write_record

#: Most steps of another attack that an imitator learns from.
DEMONSTRATION = 8192
#: Seeds of the episodes that compare members lie this far from those of the report.
SELECTION = seeds.SELECTION.start


@dataclass(frozen=True)
class Victim:
    """
    An agent to be attacked, with its environments: what an attack sees of a
    :class:`sb3_barpo.agents.load.LoadedAgent`, or of a model and environments that come from no file.

    :param model: The agent.
    :param venv: Its environments without an attack. They are pickled, so use ``DummyVecEnv``.
    :param folder: Where its attackers are stored and reused; ``None`` stores nothing.
    :param ball: The attackers' ball, :class:`sb3_barpo.adversary.LinfBall` by default.
    """

    model: OnPolicyAlgorithm
    venv: VecEnv
    folder: Path | None = None
    ball: Ball | None = None


class Task(NamedTuple):
    """
    One member to fit and to try, ready to be sent to a process.

    :param path: File of its record; its attack lies beside it, if it is one that learns.
    :param record: All that matters, as JSON can hold it.
    :param member: The member.
    :param victim: The packed victim.
    :param ball: The ball.
    :param base: Record of the member from which it starts, ``None`` for none: a Robust Sarsa whose action value it
        takes over, a shorter fit of the same that it continues, or any attack that it imitates.
    """

    path: Path
    record: dict[str, Any]
    member: Member
    victim: bytes
    ball: Ball | None
    base: Path | None

    @property
    def attack_file(self) -> Path:
        """The finished attack."""
        return self.path.with_suffix(".zip")

    @property
    def part(self) -> Path:
        """The fit while it is under way."""
        return self.path.with_suffix(".part")

    def left(self) -> int:
        """:return: Environment steps that are still to be learned from."""
        if self.path.exists():
            return 0
        done = steps_of(self.part)
        if not done and self.record.get("how") == "continues" and self.base is not None:
            done = steps_of(self.base.with_suffix(".zip"))
        return max(self.member.total_timesteps - done, 0)


@dataclass(frozen=True)
class PackedVictim:
    """A victim as it is sent to processes, with what its tasks have in common."""

    content: bytes
    folder: Path
    record: dict[str, Any]
    ball: Ball | None

    @classmethod
    def of(
        cls, victim: Victim, folder: Path, epsilon: float, seed: int, n_episodes: int, deterministic: bool
    ) -> "PackedVictim":
        """
        :param victim: The victim.
        :param folder: Where its members are stored.
        :param epsilon: Their strength.
        :param seed: Seed of the search.
        :param n_episodes: Episodes by which members are compared.
        :param deterministic: Whether the victim takes its most likely action.
        :return: The packed victim.
        :raises TypeError: if the environments cannot be sent to other processes.
        """
        folder.mkdir(parents=True, exist_ok=True)
        env_id, kwargs = env_of(victim.venv)
        record = {
            "env": env_id,
            "env_kwargs": repr(kwargs) if env_id else "",
            "n_envs": victim.venv.num_envs,
            "victim": victim_digest(victim.model),
            "normalizer": normalizer_digest(victim.venv),
            "epsilon": epsilon,
            "search_seed": seed,
            "first_seed_of_fits": seeds.FITS.start,
            "n_episodes": n_episodes,
            "deterministic": deterministic,
        }
        if victim.ball is not None:  # records of the default ball have always been without
            record["ball"] = repr(victim.ball)
        return cls(pack(victim.model, victim.venv), folder, record, victim.ball)

    def task(self, member: Member, base: Path | None = None, how: str | None = None) -> Task:
        """
        :param member: What to fit.
        :param base: Record of the member from which it starts.
        :param how: ``"continues"`` or ``"imitates"`` it; ``None`` takes its action value over.
        :return: The task. Whatever matters is in its record and in its name, so that other settings are never taken for
            these.
        """
        record = {**self.record, **asdict(member), "base": base and base.stem}
        if how is not None:
            record["how"] = how
        key = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:12]
        return Task(self.folder / f"{member.attack}-{key}.json", record, member, self.content, self.ball, base)


def run_tasks(tasks: Sequence[Task], n_jobs: int, progress_bar: bool) -> None:
    """
    Fit and try all members that are not stored yet. Afterwards each has its record.

    :param tasks: The members.
    :param n_jobs: Number of processes.
    :param progress_bar: Whether to show the progress.
    :raises KeyboardInterrupt: with a sentence that says what is stored.
    """
    waiting = sorted((task for task in tasks if not task.path.exists()), key=lambda task: -task.left())
    waiting = list({task.path: task for task in waiting}.values())
    steps = sum(task.left() for task in waiting)
    try:
        with Progress("attackers", len(waiting), steps, "step", progress_bar, n_jobs) as progress:
            fits = (delayed(fit)(task, progress.tell) for task in waiting)
            for label in in_parallel(fits, n_jobs, ordered=False):
                progress.finished(label)
    except KeyboardInterrupt as interruption:
        raise KeyboardInterrupt(stored(tasks)) from interruption


def stored(tasks: Sequence[Task]) -> str:
    """:return: What of a search is stored, in words."""
    finished = sum(task.path.exists() for task in tasks)
    parts = [(steps_of(task.part), task) for task in tasks if not task.path.exists() and task.part.exists()]
    said = [f"{finished} of {len(tasks)} attackers are stored"]
    said += [f"{task.member.attack} after {done:,} of {task.member.total_timesteps:,} steps" for done, task in parts]
    return f"{', and '.join([said[0], ', '.join(said[1:])] if parts else said)}; the rest is not"


def fit(task: Task, tell: Tell) -> str:
    """
    Fit a member, compare it, and store both.

    :param task: The member.
    :param tell: Takes the number of steps that are done.
    :return: What is finished, in words.
    """
    th.set_num_threads(1)  # processes share the cores; more threads slow small networks down
    start = time.process_time()  # seconds of one core, whatever runs beside it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SpaceWarning)  # the evaluation says it once
        returns = _fit_and_try(task, tell)
    tell(0)
    seconds = time.process_time() - start
    write_record(task.path, {**task.record, "returns": returns, "seconds": seconds})
    task.part.unlink(missing_ok=True)
    return f"{task.member.attack} on {task.path.parent.name}, {task.member.total_timesteps} steps in {seconds:.0f} s"


def _fit_and_try(task: Task, tell: Tell) -> list[float]:
    """:return: The victim's returns; the attack is stored, if it is one that learns."""
    model, venv = unpack(task.victim)
    attack = build(task, model, venv)
    if isinstance(attack, LearnedAttack) and (attack.origin is None or attack.n_fitted < task.member.total_timesteps):

        def store(attack: LearnedAttack) -> None:
            with replacing(task.part) as file:
                attack.save(file)

        left = task.member.total_timesteps - attack.n_fitted
        attack.fit(venv, left, after_stage=store, tell=tell)
    record = task.record
    with undisturbed(model, venv):
        episodes = run_episodes(
            model, attack, venv, record["n_episodes"], record["search_seed"] + SELECTION, record["deterministic"]
        )
    if isinstance(attack, LearnedAttack):
        with replacing(task.attack_file) as file:
            attack.save(file)
    return [episode.reward for episode in episodes]


def load_member(record: Path, model: OnPolicyAlgorithm, ball: Ball | None) -> Attack:
    """
    :param record: Record of a finished member.
    :param model: Its victim.
    :param ball: Its ball.
    :return: The attack.
    """
    if record.with_suffix(".zip").exists():
        return LearnedAttack.load(record.with_suffix(".zip"), model)
    content = read_record(record)
    kind: Any = ATTACKS[content["attack"]]
    attack: Attack = kind(model, content["epsilon"], ball=ball, **content["settings"])
    attack.settings = content["settings"]
    return attack


def mean_return(record: Path) -> float:
    """:return: A finished member's mean return on the episodes that compare."""
    return float(np.mean(read_record(record)["returns"]))


def build(task: Task, model: OnPolicyAlgorithm, venv: VecEnv) -> Attack | None:
    """
    :param task: A member.
    :param model: Its victim.
    :param venv: The victim's environments.
    :return: The attack, as far as it is fitted; ``None`` for the member that is no attack.
    """
    if task.member.attack == NATURAL:
        return None
    if task.part.exists():
        return LearnedAttack.load(task.part, model)
    settings = dict(task.member.settings)
    kind: Any = ATTACKS[task.member.attack]
    if not issubclass(kind, LearnedAttack):
        attack: Attack = kind(model, task.record["epsilon"], ball=task.ball, **settings)
        return attack
    how = task.record.get("how")
    if task.base is not None and how is None:
        return kind.from_sarsa(RobustSarsa.load(task.base.with_suffix(".zip"), model), **settings)  # type: ignore[no-any-return]
    if task.base is not None and how == "continues":
        return LearnedAttack.load(task.base.with_suffix(".zip"), model)
    rate = settings.get("learning_rate")
    if isinstance(rate, str):
        settings["learning_rate"] = LinearSchedule(float(rate.removeprefix("lin_")), 0.0, 1.0)
    if "value_rate" in settings:
        settings["policy"], settings["policy_kwargs"] = TwoRatesPolicy, {"value_rate": settings.pop("value_rate")}
    if issubclass(kind, PolicyAttack):
        settings["deterministic"] = task.record["deterministic"]
    seed = seeds.FITS.start + task.record["search_seed"] + task.member.seed
    learned: LearnedAttack = kind(model, task.record["epsilon"], seed=seed, ball=task.ball, **settings)
    if task.base is not None and isinstance(learned, PolicyAttack):
        learned.imitate(load_member(task.base, model, task.ball), venv, min(task.member.total_timesteps, DEMONSTRATION))
    return learned
