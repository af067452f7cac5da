"""Learned attacks on a victim that changes, each continued from the attacker of the victim before."""

import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_barpo.adversary import Ball
from sb3_barpo.attacks import PAAD, SARL, LearnedAttack, RobustSarsa
from sb3_barpo.checks import require_count
from sb3_barpo.evaluation.budgets import Budget, Member, make_budget
from sb3_barpo.evaluation.judged import env_of
from sb3_barpo.evaluation.members import Task, build
from sb3_barpo.evaluation.within import own
from sb3_barpo.resume import replacing
from sb3_barpo.training.robust import RobustUpdate

#: The learned attacks that can follow a victim. The others take over what one of these has learned.
ADAPTABLE = (RobustSarsa.name, SARL.name, PAAD.name)


class AdaptedAttacks:
    """
    Learned attacks at a price that training and tuning can pay. The first victim's attackers are fitted as a budget's
    first members. Every later victim's start from the last one's and learn for some ten thousand steps more.

    So later victims meet attackers that have learned for longer: a comparison by them is slightly unfair to these, and
    its winner wants to be confirmed by attackers of its own (:func:`sb3_barpo.evaluation.evaluate_robustness`).

    :param names: Which attacks, of :data:`ADAPTABLE`.
    :param steps: Environment steps on each victim after the first; in rollouts of about 2048.
    :param budget: Whose first members are fitted to the first victim.
    :param folder: Where attackers are stored, and found by other processes; by default a temporary folder.
    :param seed: Seed of the fits.
    :param ball: Their ball, by default the victim's own.
    :raises ValueError: for an attack that cannot be adapted, or a number of steps below 1.
    """

    def __init__(
        self,
        names: Sequence[str],
        steps: int = 10_000,
        budget: str | Budget = "quick",
        folder: str | Path | None = None,
        seed: int = 0,
        ball: Ball | None = None,
    ) -> None:
        if unfit := [name for name in names if name not in ADAPTABLE]:
            raise ValueError(f"{', '.join(unfit)} cannot be adapted. Choose from {', '.join(ADAPTABLE)}.")
        require_count("The number of steps by which attackers are adapted", steps, "it is a whole number, at least 1")
        self.names = list(names)
        self.steps, self.budget = steps, budget
        self._folder = None if folder is None else Path(folder)
        #: Environment steps from which the attackers of the last victim had learned, by name.
        self.learned_for: dict[str, int] = {}
        self.seed = seed
        self.ball = ball

    def on(self, model: OnPolicyAlgorithm, venv: VecEnv, epsilon: float) -> list[LearnedAttack]:
        """
        :param model: The victim as it is now.
        :param venv: Its environments, without an attack, as many each time.
        :param epsilon: Strength of the attacks.
        :return: The attacks, adapted to the victim and stored.
        """
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="attackers-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        return [self._adapted(name, self._folder, model, venv, epsilon) for name in self.names]

    def _adapted(
        self, name: str, folder: Path, model: OnPolicyAlgorithm, venv: VecEnv, epsilon: float
    ) -> LearnedAttack:
        # Attackers of other strengths and numbers of environments are others.
        path = folder / f"{name}-{epsilon:g}-{venv.num_envs}.zip"
        if path.exists():
            attack, steps = LearnedAttack.load(path, model, transfer=True), self.steps
        else:
            budget = make_budget(self.budget, env_of(venv)[0], isinstance(model, RobustUpdate), venv.num_envs)
            member = budget.members[name][0]
            attack, steps = self._new(member, path, model, venv, epsilon), member.total_timesteps
        attack.fit(venv, steps)
        attack.transfer = False
        self.learned_for[name] = attack.n_fitted
        with replacing(path) as file:
            attack.save(file)
        return attack

    def _new(self, member: Member, path: Path, model: OnPolicyAlgorithm, venv: VecEnv, epsilon: float) -> LearnedAttack:
        record = {"epsilon": epsilon, "search_seed": self.seed, "deterministic": True}
        ball = self.ball or own(model, venv).ball
        attack = build(Task(path.with_suffix(".json"), record, member, b"", ball, None), model, venv)
        assert isinstance(attack, LearnedAttack)  # for mypy: all that can be adapted are
        return attack
