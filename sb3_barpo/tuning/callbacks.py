"""A callback for trials: evaluates under attack during training, reports to the study, prunes."""

from typing import Any

import gymnasium as gym
import optuna
from optuna.study import StudyDirection
from stable_baselines3.common.vec_env import VecEnv

from sb3_barpo.evaluation import RobustEvalCallback, RobustnessReport
from sb3_barpo.tuning.criteria import Blend, Criterion


class RobustTrialCallback(RobustEvalCallback):
    """
    Evaluates under attack during training, reports to an Optuna trial, and stops a trial that is pruned.

    The last results are stored as user attributes of the trial: ``natural``, ``worst_case``, ``worst_attack``,
    ``returns`` (by attack) and ``timesteps``. During a ramp, agents are trained against less than the final strength:
    start pruning after the latest ramp has ended (``MedianPruner(n_warmup_steps=...)``), or evaluate only from then on
    (``warmup``).

    Attacks that learn (``adapt_steps``) are asked at the end only, by :meth:`result`: cheap attacks prune, learned ones
    decide. The attribute ``learned_for`` says from how many steps each attacker has learned by then.

    :param eval_env: As for :class:`sb3_barpo.evaluation.RobustEvalCallback`.
    :param trial: The trial.
    :param criterion: What the study maximises, :class:`Blend` by default. The study needs as many directions as it has
        values.
    :param warmup: Nothing is evaluated before this number of environment steps.
    :param kwargs: Further arguments of ``RobustEvalCallback``, such as ``attacks``, ``epsilon``, ``eval_freq``.
    :raises ValueError: if the study has another number of objectives, or minimises one.

    Example::

        def objective(trial):
            model = BARPO("MlpPolicy", env, **suggest_strength(trial, space))
            callback = RobustTrialCallback(eval_env, trial, epsilon=0.075, eval_freq=10_000, warmup=400_000)
            model.learn(500_000, callback=callback)
            return callback.result()
    """

    def __init__(
        self,
        eval_env: gym.Env[Any, Any] | VecEnv,
        trial: optuna.Trial,
        *,
        criterion: Criterion | None = None,
        warmup: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(eval_env, **{"verbose": 0, **kwargs})
        self.trial = trial
        self.criterion = Blend() if criterion is None else criterion
        self.warmup = warmup
        self.is_pruned = False
        if len(trial.study.directions) != len(self.criterion.values):
            raise ValueError(
                f"The study has {len(trial.study.directions)} objectives, but the criterion {self.criterion.kind} "
                f"gives {len(self.criterion.values)}: {', '.join(self.criterion.values)}. Create the study with as "
                "many directions, all 'maximize'."
            )
        if set(trial.study.directions) != {StudyDirection.MAXIMIZE}:
            directions = ", ".join(direction.name.lower() for direction in trial.study.directions)
            raise ValueError(
                f"The study must maximise {' and '.join(self.criterion.values)}, but its direction is {directions}, so "
                "it would look for the worst settings. Create it with create_study(direction='maximize'), or with "
                "directions=['maximize', 'maximize'] for Pareto: Optuna's default is to minimise."
            )

    def _on_step(self) -> bool:
        # At the end, pruning would save nothing, and ``result`` evaluates after the last update.
        if not self.warmup <= self.num_timesteps < self.locals["total_timesteps"]:
            return True
        before = self.report
        go_on = super()._on_step()
        if self.report is before:
            return go_on
        self._store_attributes()
        if len(self.criterion.values) == 1:  # Optuna prunes no others
            self.trial.report(self.criterion.preference(*self._returns()), self.num_timesteps)
            self.is_pruned = self.trial.should_prune()
        return go_on and not self.is_pruned

    def evaluate(self, learned: bool = False) -> RobustnessReport:
        """
        :param learned: Whether under the learned attacks too; without cheap ones, always.
        :return: The report on the current policy.
        """
        return super().evaluate(learned or self.learned == self.attacks)

    def result(self) -> tuple[float, ...]:
        """
        Call this after ``learn``. It evaluates the trained policy: the last evaluation during training was before the
        last update.

        :return: The trial's values.
        :raises optuna.TrialPruned: if the trial was pruned.
        """
        if self.is_pruned:
            raise optuna.TrialPruned(f"Pruned after {self.num_timesteps} steps.")
        self.evaluate(learned=True)
        self._store_attributes()
        self.criterion.constrain(self.trial, self._returns()[0])
        return self.criterion.score(*self._returns())

    def _returns(self) -> tuple[float, float]:
        assert self.report is not None  # for mypy: both callers have evaluated
        return self.report.natural, self.report.worst_case

    def _store_attributes(self) -> None:
        assert self.report is not None  # likewise
        summary = self.report.summary().iloc[0]
        attributes: dict[str, Any] = {
            "natural": self.report.natural,
            "worst_case": self.report.worst_case,
            "worst_attack": str(summary["worst_attack"]),
            "returns": {attack: float(summary[attack]) for attack in self.report.attacks},
            "timesteps": self.num_timesteps,
        }
        if self.adapted is not None:
            attributes["learned_for"] = self.adapted.learned_for
        for name, value in attributes.items():
            self.trial.set_user_attr(name, value)
