"""
``attacks="auto"``: a search without parameters that spends its budget where it pays, and says whether it is done.

1. Attacks that learn nothing are tried, the pushes to every limit of the action among them.
2. Two action values are learned, and attacks by them tried.
3. A first round of adversaries learns: SA-RL and PA-AD in two ways each, and one of each that imitates the strongest
   attack so far before it learns.
4. Further rounds double the budget. A third of each goes on from what is strongest so far, by continuing and by
   imitating it; two thirds go to fits from scratch in both ways of the stronger kind, longer than those before. From
   four times the first ones on, half of these two thirds goes to one longer fit, in the way that does most, and half to
   more of the same length: fits of the same settings end far apart, and some victims fall to long ones only. The search
   ends where two doublings together no longer pay, one alone may pause by chance, and where what was found once is
   found again: what one of many fits found by luck, another may undercut.

All is compared on episodes that no report uses, and each finished step is stored, see
:mod:`sb3_barpo.evaluation.members`.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from sb3_barpo.adversary import limits_of
from sb3_barpo.attacks import (
    ATTACKS,
    AUTO,
    MAD,
    PAAD,
    SARL,
    Attack,
    Critic,
    MaxKL,
    PolicyAttack,
    Push,
    Random,
    RobustSarsa,
    WorstQ,
)
from sb3_barpo.checks import require, require_count
from sb3_barpo.evaluation.budgets import COHERENT, FARSIGHTED, QUIET, Member, adversary
from sb3_barpo.evaluation.members import PackedVictim, Task, Victim, load_member, mean_return, run_tasks
from sb3_barpo.evaluation.rows import NATURAL
from sb3_barpo.resume import read_record

#: Settings of the adversaries that imitate: little noise, so that they do not lose at once what they took over.
_IMITATORS: dict[str, dict[str, Any]] = {
    SARL.name: QUIET,
    PAAD.name: {"policy_kwargs": {"log_std_init": -1.5}, **FARSIGHTED},
}
#: The ways in which adversaries learn from scratch: the multiple of ε with which they begin, and their settings.
_WAYS: dict[str, list[tuple[float, dict[str, Any]]]] = {
    SARL.name: [(6.0, COHERENT), (1.0, QUIET)],
    PAAD.name: [(3.0, {}), (6.0, FARSIGHTED)],
}
#: Radius and weight of the regularisers of the two action values.
_VALUES = [(0.05, 0.3), (0.1, 1.0)]
#: So many times as long as the fits of the first round are those of which further rounds have more instead of longer
#: ones.
_LONG = 4
#: Seeds of fits that differ in nothing else lie this far apart.
_COPY = 100
#: Samples that a fit of an action value learns from, if it takes no more than so many passes.
_SAMPLES, _MOST_PASSES = 500_000, 100


@dataclass(frozen=True)
class AutoBudget:
    """
    How far ``"auto"`` may go. There is nothing to tune; smaller numbers serve small problems.

    :param steps: Environment steps of each fit in the first round.
    :param rounds: Number of rounds in which adversaries learn, at most. Each doubles the budget.
    :param n_episodes: Episodes by which attacks are compared, others than those of the report.
    :param share: The search ends where two doublings together lower the worst case by less than this share of the
        damage done, or by less than a fifth of this share of the natural return.
    :raises ValueError: if a setting is out of range.
    """

    steps: int = 50_000
    rounds: int = 4
    n_episodes: int = 16
    share: float = 0.05

    def __post_init__(self) -> None:
        for name in ("steps", "rounds", "n_episodes"):
            require_count(f"AutoBudget's {name}", getattr(self, name), "a search takes a whole number, at least 1")
        require(0 < self.share < 1, "AutoBudget's share", self.share, "it must lie between 0 and 1")


class Found(NamedTuple):
    """
    What a search has found on one victim.

    :param attacks: The strongest of each kind, by name.
    :param told: As JSON can hold it: ``saturated``, ``share``, ``n_episodes``, ``natural`` on the episodes that
        compare, and ``curve``, a list of ``steps`` of learning so far, ``worst_case``, ``attack``, the worst cases of
        adversaries that learn (``learned``), of those among them that began from nothing (``from_scratch``), and of
        those of these that the strongest attack does not go back to (``again``), all ``None`` before there are any, and
        ``seconds`` of one core.
    """

    attacks: dict[str, Attack]
    told: dict[str, Any]


def find_auto(
    victims: Sequence[Victim],
    epsilon: float,
    budget: AutoBudget | None = None,
    n_jobs: int = 1,
    seed: int = 0,
    deterministic: bool = True,
    progress_bar: bool = False,
) -> list[Found]:
    """
    Search for the strongest attacks on each victim; see the module.

    :param victims: The agents to be attacked.
    :param epsilon: The strength.
    :param budget: How far to go at most.
    :param n_jobs: Number of processes.
    :param seed: Seed of the search, that of the report. Attackers learn from other seeds, and are compared on others
        again.
    :param deterministic: Whether the victim takes its most likely action.
    :param progress_bar: Whether to show the progress.
    :return: What was found on each.
    :raises TypeError: if environments cannot be sent to other processes.
    """
    budget = AutoBudget() if budget is None else budget
    with ExitStack() as stack:
        hunts = []
        for victim in victims:
            folder = victim.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="attacks-")))
            packed = PackedVictim.of(victim, folder, epsilon, seed, budget.n_episodes, deterministic)
            hunts.append(_Hunt(victim, packed, budget))
        steps = [hunt.steps() for hunt in hunts]
        # Step by step together, so that the processes have enough to do.
        while waiting := [task for step in steps for task in next(step, [])]:
            run_tasks(waiting, n_jobs, progress_bar)
        return [hunt.found() for hunt in hunts]


class _Hunt:
    """The search on one victim."""

    def __init__(self, victim: Victim, packed: PackedVictim, budget: AutoBudget) -> None:
        self.victim = victim
        self.packed = packed
        self.budget = budget
        self.kinds = [name for name in AUTO if _can_attack(ATTACKS[name], victim, packed.record["epsilon"])]
        self.tried: list[Task] = []
        self.curve: list[dict[str, Any]] = []
        self.saturated = False
        self.natural = packed.task(Member(NATURAL, 0))

    def steps(self) -> Iterator[list[Task]]:
        """:return: Members to be fitted and tried, step by step; which come next depends on those before."""
        limits = range(len(limits_of(self.victim.model.action_space)))
        simple = [
            Member(Random.name, 0),
            Member(MAD.name, 0),
            Member(MaxKL.name, 0),
            Member(Critic.name, 0),
            Member(Critic.name, 0, {"restarts": 2}),
            *(Member(Push.name, 0, {"limit": limit}) for limit in limits),
        ]
        yield [self.natural, *self._try([self.packed.task(member) for member in simple])]
        self._mark()
        if RobustSarsa.name in self.kinds:
            values = self._try([self.packed.task(member) for member in self._values()])
            yield values
            yield self._try([self.packed.task(Member(WorstQ.name, 0), task.path) for task in values])
            self._mark()
        for number in range(self.budget.rounds):
            yield self._try(self._first_round() if number == 0 else self._round(number))
            self._mark()
            if number > 1 and self._is_saturated():
                self.saturated = True
                return

    def _values(self) -> list[Member]:
        steps = self.budget.steps
        passes = min(max(_SAMPLES // steps, 1), _MOST_PASSES)
        return [
            Member(RobustSarsa.name, steps, {"sarsa_epsilon": radius, "regularization": weight, "n_epochs": passes})
            for radius, weight in _VALUES
        ]

    def _first_round(self) -> list[Task]:
        steps = self.budget.steps
        return [
            *(task for kind in self._learners() for task in self._fresh(kind, steps, 0)),
            *(self._imitator(kind, steps, 0) for kind in self._learners()),
        ]

    def _round(self, number: int) -> list[Task]:
        steps = self.budget.steps * 2 ** (number - 1)
        adversaries = self._adversaries()
        strongest = adversaries[0]
        fresh = _from_scratch(adversaries)[0].member
        others = [kind for kind in self._learners() if kind != strongest.member.attack]
        longer, long = 2 * steps, _LONG * self.budget.steps
        if longer <= long:
            from_scratch = self._fresh(fresh.attack, longer, number)
        else:
            more = (self._fresh(fresh.attack, long, number + k * _COPY) for k in range(steps // long))
            from_scratch = [self.packed.task(replace(fresh, total_timesteps=longer, seed=number)), *chain(*more)]
        return [
            self._continued(strongest, steps),
            *(self._imitator(kind, steps, number) for kind in others),
            *from_scratch,
        ]

    def _fresh(self, kind: str, steps: int, seed: int) -> list[Task]:
        """From scratch, in both ways."""
        return [
            self.packed.task(Member(kind, steps, self._settings(curriculum, **changes), seed))
            for curriculum, changes in _WAYS[kind]
        ]

    def _continued(self, task: Task, steps: int) -> Task:
        member = task.member
        longer = Member(member.attack, member.total_timesteps + steps, member.settings, member.seed)
        return self.packed.task(longer, task.path, "continues")

    def _imitator(self, kind: str, steps: int, number: int) -> Task:
        strongest = min(self.tried, key=_strength)
        member = Member(kind, steps, self._settings(1.0, **_IMITATORS[kind]), number)
        return self.packed.task(member, strongest.path, "imitates")

    def _settings(self, curriculum: float, **changes: Any) -> dict[str, Any]:
        rollout = min(2048, max(self.budget.steps // 8, 256))  # several updates even in a short fit
        return adversary(self.victim.venv.num_envs, curriculum, rollout, **changes)

    def _adversaries(self) -> list[Task]:
        """What learns from episodes under its own attack, the strongest first."""
        return sorted((task for task in self.tried if task.member.attack in self._learners()), key=_strength)

    def _learners(self) -> list[str]:
        return [kind for kind in (SARL.name, PAAD.name) if kind in self.kinds]

    def _try(self, tasks: list[Task]) -> list[Task]:
        self.tried += tasks
        return tasks

    def _mark(self) -> None:
        """Note what is reached."""
        strongest = min(self.tried, key=_strength)
        learned = 0
        for task in self.tried:
            continues = task.base is not None and task.record.get("how") == "continues"
            before = read_record(task.base)["total_timesteps"] if task.base is not None and continues else 0
            learned += task.member.total_timesteps - before
        adversaries = self._adversaries()
        from_scratch = _from_scratch(adversaries)
        origins = self._origins(strongest)
        told = {
            "steps": learned,
            "worst_case": mean_return(strongest.path),
            "attack": strongest.member.attack,
            "learned": _lowest(adversaries),
            "from_scratch": _lowest(from_scratch),
            "again": _lowest([task for task in from_scratch if task.path not in origins]),
            "seconds": round(sum(read_record(task.path)["seconds"] for task in [self.natural, *self.tried]), 1),
        }
        self.curve.append(told)

    def _origins(self, task: Task) -> set[Path]:
        """What it goes back to, and itself."""
        base = next((other for other in self.tried if other.path == task.base), None)
        return {task.path} | (self._origins(base) if base is not None else set())

    def _is_saturated(self) -> bool:
        return is_saturated(mean_return(self.natural.path), self.curve, self.budget.share)

    def found(self) -> Found:
        """:return: The strongest of each kind, and what is to be told."""
        best: dict[str, Task] = {}
        for task in sorted(self.tried, key=_strength):
            best.setdefault(task.member.attack, task)
        model, ball = self.victim.model, self.victim.ball
        attacks = {name: load_member(best[name].path, model, ball) for name in AUTO if name in best}
        told = {
            "saturated": self.saturated,
            "share": self.budget.share,
            "n_episodes": self.budget.n_episodes,
            "natural": mean_return(self.natural.path),
            "curve": self.curve,
        }
        return Found(attacks, told)


def is_saturated(natural: float, curve: Sequence[Mapping[str, Any]], share: float) -> bool:
    """
    Whether a search is done. Little is less than a share of the damage, or than a fifth of it of the natural return,
    which is what episodes can tell at all.

    :param natural: Mean return without an attack.
    :param curve: That of :class:`Found`, of three rounds or more.
    :param share: The share.
    :return: Whether the worst case fell by little while the budget was doubled twice; it was found again, by a fit from
        scratch, or, where it needs no learning, by any adversary; and fits from scratch would not undercut it, had they
        gained as much again, by more than a little.
    """
    before, after = curve[-3], curve[-1]
    worst = after["worst_case"]
    little = max(share * (natural - worst), share / 5 * abs(natural))

    def is_near(found: float) -> bool:
        return bool(found - worst < little)

    without = next(point["worst_case"] for point in reversed(curve) if point["learned"] is None)
    again = is_near(after["again"]) or (is_near(without) and is_near(after["learned"]))
    foreseen = 2 * after["from_scratch"] - before["from_scratch"]
    return is_near(before["worst_case"]) and again and bool(worst - foreseen < little)


def _from_scratch(adversaries: Sequence[Task]) -> list[Task]:
    """Those of them that began from nothing, in their order."""
    return [task for task in adversaries if task.base is None]


def _lowest(tasks: Sequence[Task]) -> float | None:
    return min((mean_return(task.path) for task in tasks), default=None)


def _strength(task: Task) -> tuple[float, str]:
    """Sorts the strongest first."""
    return mean_return(task.path), task.path.name


def _can_attack(kind: Any, victim: Victim, epsilon: float) -> bool:
    """Whether an attack supports the victim's spaces."""
    try:
        attack = kind(victim.model, epsilon, ball=victim.ball)
        if isinstance(attack, PolicyAttack):
            attack.adversary_space()
    except TypeError:
        return False
    return True
