"""A callback for trials: evaluates under attack during training, reports to the study, prunes."""

from collections.abc import Sequence
from statistics import fmean
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
    :param n_seeds: Seeds of training of the trial. Each has a model and a callback of its own.
    :param earlier: Reports on the agents of the seeds before this one. What is reported, stored and returned are means
        over all seeds so far. The trial is reported at the start of a later seed too, and may be pruned before that is
        trained. The attribute ``worst_cases`` lists the worst case of each seed.
    :param kwargs: Further arguments of ``RobustEvalCallback``, such as ``attacks``, ``epsilon``, ``eval_freq``.
    :raises ValueError: if the study has another number of objectives, or minimises one, or for more reports than there
        can be.

    Example::

        def objective(trial):
            model = BARPO("MlpPolicy", env, **suggest_strength(trial, space))
            callback = RobustTrialCallback(eval_env, trial, epsilon=0.075, eval_freq=10_000, warmup=400_000)
            model.learn(500_000, callback=callback)
            return callback.result()

    and with several seeds::

        def objective(trial):
            strength = suggest_strength(trial, space)
            reports = []
            for seed in range(3):
                model = BARPO("MlpPolicy", env, seed=seed, **strength)
                callback = RobustTrialCallback(
                    eval_env, trial, n_seeds=3, earlier=reports, epsilon=0.075, eval_freq=10_000
                )
                model.learn(500_000, callback=callback)
                values = callback.result()
                reports.append(callback.report)
            return values
    """

    def __init__(
        self,
        eval_env: gym.Env[Any, Any] | VecEnv,
        trial: optuna.Trial,
        *,
        criterion: Criterion | None = None,
        warmup: int = 0,
        n_seeds: int = 1,
        earlier: Sequence[RobustnessReport] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(eval_env, **{"verbose": 0, **kwargs})
        self.trial = trial
        self.criterion = Blend() if criterion is None else criterion
        self.warmup = warmup
        self.n_seeds = n_seeds
        self.earlier = list(earlier)
        self.is_pruned = False
        if len(self.earlier) >= n_seeds:
            raise ValueError(
                f"A trial of {n_seeds} seeds has fewer reports of earlier ones, but earlier holds {len(self.earlier)}. "
                "Say by n_seeds how many there will be."
            )
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

    def _on_training_start(self) -> None:
        super()._on_training_start()
        self._steps_before = len(self.earlier) * int(self.locals["total_timesteps"])
        if self.earlier:
            self._report()

    def _on_step(self) -> bool:
        # At the end, pruning would save nothing, and ``result`` evaluates after the last update.
        if self.is_pruned or not self.warmup <= self.num_timesteps < self.locals["total_timesteps"]:
            return not self.is_pruned
        before = self.report
        go_on = super()._on_step()
        if self.report is before:
            return go_on
        self._store_attributes()
        self._report()
        return go_on and not self.is_pruned

    def _report(self) -> None:
        """Report to the study, and ask it whether to stop."""
        if len(self.criterion.values) == 1:  # Optuna prunes no others
            self.trial.report(self.criterion.preference(*self._returns()), self._steps)
            self.is_pruned = self.trial.should_prune()

    @property
    def _steps(self) -> int:
        """Environment steps of the trial so far."""
        return self._steps_before + self.num_timesteps

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
            raise optuna.TrialPruned(f"Pruned after {self._steps} steps.")
        self.evaluate(learned=True)
        self._store_attributes()
        natural, worst_case = self._returns()
        if len(self.earlier) + 1 == self.n_seeds:  # Optuna takes a constraint once
            self.criterion.constrain(self.trial, natural)
        return self.criterion.score(natural, worst_case)

    @property
    def _reports(self) -> list[RobustnessReport]:
        return self.earlier + ([] if self.report is None else [self.report])

    def _returns(self) -> tuple[float, float]:
        """Natural return and worst case, means over the seeds so far."""
        reports = self._reports
        return fmean(one.natural for one in reports), fmean(one.worst_case for one in reports)

    def _store_attributes(self) -> None:
        reports = self._reports
        summaries = [one.summary().iloc[0] for one in reports]
        common = [attack for attack in reports[-1].attacks if all(attack in one.attacks for one in reports)]
        returns = {attack: fmean(float(summary[attack]) for summary in summaries) for attack in common}
        natural, worst_case = self._returns()
        attributes: dict[str, Any] = {
            "natural": natural,
            "worst_case": worst_case,
            "worst_attack": min(returns, key=lambda attack: returns[attack]),
            "returns": returns,
            "timesteps": self._steps,
        }
        if self.earlier:
            attributes["worst_cases"] = [one.worst_case for one in reports]
        if self.adapted is not None:
            attributes["learned_for"] = self.adapted.learned_for
        for name, value in attributes.items():
            self.trial.set_user_attr(name, value)
