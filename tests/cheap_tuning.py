"""A study whose trials cost nothing, in a module, so that worker processes can import it."""

import os
import signal
import time
from dataclasses import dataclass
from typing import Any

import optuna
from brief import BRIEF

from sb3_barpo.experiment import Agent, Evaluation
from sb3_barpo.schedules import as_schedule
from sb3_barpo.tuning import StrengthSpace, Tuning, suggest_strength

AGENT = Agent("barpo", "barpo", BRIEF, 0, 64, kwargs={"n_steps": 32, "batch_size": 32, "n_epochs": 1})
SPACE = StrengthSpace.around(0.1)
EVALUATION = Evaluation([0.1], ["random"], n_eval_episodes=1)


@dataclass(frozen=True)
class Cheap(Tuning):
    """
    Instead of training: more strength costs natural return and brings worst case. The agent's ``n_envs`` is how many
    hundredths of a second a trial takes.
    """

    def objective(self, trial: optuna.Trial) -> tuple[float, ...]:
        strength = suggest_strength(trial, self.space)
        epsilon, kappa = (as_schedule(strength[name])(0.0) for name in ("epsilon", "kappa"))
        epsilon *= strength["margin"]
        time.sleep(self.agent.n_envs / 100)
        natural, worst_case = 100 - 100 * epsilon, 100 * epsilon - abs(kappa - 1)
        trial.set_user_attr("natural", natural)
        trial.set_user_attr("worst_case", worst_case)
        self.criterion.constrain(trial, natural)
        return self.criterion.score(natural, worst_case)


@dataclass(frozen=True)
class Failing(Cheap):
    """Every trial fails."""

    def objective(self, trial: optuna.Trial) -> tuple[float, ...]:
        super().objective(trial)
        raise ArithmeticError(f"no luck in trial {trial.number}")


@dataclass(frozen=True)
class Suicidal(Cheap):
    """Its first ten trials kill their own process, as a lack of memory would, in the middle of their work."""

    def objective(self, trial: optuna.Trial) -> tuple[float, ...]:
        values = super().objective(trial)
        if trial.number < 10:
            os.kill(os.getpid(), signal.SIGKILL)
        return values


@dataclass(frozen=True)
class Hopeless(Cheap):
    """Every trial kills its process."""

    def objective(self, trial: optuna.Trial) -> tuple[float, ...]:
        super().objective(trial)
        os.kill(os.getpid(), signal.SIGKILL)
        return ()


def cheap(kind: type[Cheap] = Cheap, **changes: Any) -> Cheap:
    return kind(**{"agent": AGENT, "space": SPACE, "evaluation": EVALUATION, **changes})


def worker_pids(study: optuna.Study) -> set[int]:
    return {trial.user_attrs["worker"]["pid"] for trial in study.trials if "worker" in trial.user_attrs}


def wait_until(condition: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.02)
