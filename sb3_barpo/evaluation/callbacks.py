"""Evaluation under attack during training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, sync_envs_normalization, unwrap_vec_normalize

from sb3_barpo import seeds
from sb3_barpo.adversary import Ball
from sb3_barpo.attacks import Attack, attack_names
from sb3_barpo.checks import require_env
from sb3_barpo.evaluation.adapted import AdaptedAttacks
from sb3_barpo.evaluation.report import RobustnessReport
from sb3_barpo.evaluation.robustness import USUAL_EPSILON, check_settings, evaluate_robustness, learned_names
from sb3_barpo.evaluation.rows import NATURAL
from sb3_barpo.evaluation.settings import EvalConfig
from sb3_barpo.evaluation.within import own_epsilon
from sb3_barpo.vec_envs import copy_for_evaluation


class RobustEvalCallback(EvalCallback):
    """
    SB3's ``EvalCallback`` under attack: the best model is the one of the highest *worst case*, and so
    ``best_mean_reward``, ``StopTrainingOnRewardThreshold`` and ``callback_on_new_best`` refer to the worst case.

    Logs ``eval/mean_reward`` (natural), ``eval/mean_ep_length``, ``eval/robust_<attack>``, ``eval/worst_case`` and
    ``eval/robustness``. ``evaluations.npz`` has SB3's layout for the natural episodes (``timesteps``, ``results``,
    ``ep_lengths``), and ``results_<attack>`` beside it. The episodes are the same each time, and the attacks are built
    for the policy as it is then.

    All arguments but ``eval_env`` and ``ball`` are plain data, so an entry of the RL Zoo can hold the callback, and
    ``sb3-barpo train`` keeps the best model beside the Zoo's::

        callback:
          - sb3_barpo.RobustEvalCallback:
              eval_freq: 10000
              epsilon: 0.075

    :param eval_env: Evaluation environment, wrapped as the training environment is, but not by an attack. The
        statistics of ``VecNormalize`` are copied to it. By default the environments of the training are copied.
    :param attacks: Names of attacks; of those that learn only with ``adapt_steps``.
    :param adapt_steps: Environment steps for which each learned attack adapts to the policy as it is then, starting
        from the attacker of the evaluation before; the first is fitted for longer
        (:class:`sb3_barpo.evaluation.adapted.AdaptedAttacks`). 10,000 is usual.
    :param attackers: Folder in which attackers are stored and from which they start, by default a temporary one.
    :param epsilon: Their strength, in units of what the policy sees, by default the one that the agent shall withstand
        (its ε at the end of training, without the margin), and 0.075 for agents that are not trained to be robust.
    :param seed: Seed of the first episode, by default the first of :data:`sb3_barpo.seeds.CALLBACKS`, none of which
        ``evaluate`` reports on: the best model would look better on the episodes by which it was chosen.
    :param ball: Their ball, by default the agent's own.
    :param best_model_name: Name of the best model's file in ``best_model_save_path``. The statistics of
        ``VecNormalize`` at that time are kept beside it, as ``<name>_vecnormalize.pkl``.
    :param kwargs: Further arguments of ``EvalCallback``; ``render`` is not supported.
    :raises ValueError: for a setting out of range, an unknown attack, one that is learned without ``adapt_steps``,
        or ``render``.
    :raises TypeError: for an attack that is not a name: an ``Attack`` object would keep attacking the policy that
        it was built with.
    """

    model: OnPolicyAlgorithm
    #: The last evaluation.
    report: RobustnessReport | None = None

    def __init__(
        self,
        eval_env: gym.Env[Any, Any] | VecEnv | None = None,
        *,
        attacks: str | Sequence[str] = ("random", "critic", "mad"),
        epsilon: float | None = None,
        adapt_steps: int | None = None,
        attackers: str | Path | None = None,
        seed: int = seeds.CALLBACKS.start,
        ball: Ball | None = None,
        best_model_name: str = "best_model",
        **kwargs: Any,
    ) -> None:
        require_env(eval_env)
        # SB3's constructor wants an environment and stores it; there is none before the training begins.
        super().__init__(DummyVecEnv.__new__(DummyVecEnv) if eval_env is None else eval_env, **kwargs)
        self._has_env = eval_env is not None
        names = [attacks] if isinstance(attacks, str) else list(attacks)
        if not all(isinstance(name, str) for name in names):
            raise TypeError(
                f"The attacks of a callback are names, such as 'mad', built anew for each evaluation, but they are "
                f"{attacks!r}."
            )
        EvalConfig(self.n_eval_episodes)
        check_settings(
            names, [USUAL_EPSILON if epsilon is None else epsilon]
        )  # one strength: the best model needs one number
        to_learn = learned_names(attack_names(names))
        if to_learn and adapt_steps is None:
            raise ValueError(
                f"{', '.join(to_learn)} would have to be fitted anew at each evaluation, which takes longer than the "
                "training. Choose attacks that need no fit: random, critic, mad; or let attackers adapt, with "
                "adapt_steps=10_000."
            )
        #: The learned ones among the attacks.
        self.adapted = AdaptedAttacks(to_learn, adapt_steps or 1, folder=attackers, ball=ball) if to_learn else None
        if self.render:
            raise ValueError(
                "RobustEvalCallback does not support render. Use SB3's EvalCallback or record_video beside it."
            )
        self.attacks = names
        self.epsilon = epsilon
        self.seed = seed
        self.ball = ball
        self.best_model_name = best_model_name
        self._under_attack: dict[str, list[list[float]]] = {}

    def set_env(self, eval_env: VecEnv) -> None:
        """:param eval_env: Evaluation environment, as in the constructor."""
        self.eval_env, self._has_env = eval_env, True

    @property
    def has_env(self) -> bool:
        """Whether the evaluation environment is known; otherwise the training's are copied when it begins."""
        return self._has_env

    def _init_callback(self) -> None:
        if not self._has_env:
            self.set_env(copy_for_evaluation(self.training_env))
        super()._init_callback()
        if self.model.get_vec_normalize_env() is not None and unwrap_vec_normalize(self.eval_env) is None:
            raise ValueError(
                "The training environment is wrapped by VecNormalize, so the evaluation environment must be too, but "
                "it is not. Wrap it: VecNormalize(eval_env, training=False, norm_reward=False); statistics are copied."
            )

    def _on_step(self) -> bool:
        if self.eval_freq <= 0 or self.n_calls % self.eval_freq != 0:
            return True
        report = self.evaluate()
        self._log(report)
        self._store(report)
        continue_training = True
        if report.worst_case > self.best_mean_reward:
            continue_training = self._keep_best(report.worst_case)
        if self.callback is not None:
            continue_training = continue_training and self._on_event()
        return continue_training

    def evaluate(self, learned: bool = True) -> RobustnessReport:
        """
        :param learned: Whether under the learned attacks too.
        :return: The report on the current policy, also stored in ``report``.
        """
        if self.model.get_vec_normalize_env() is not None:
            sync_envs_normalization(self.training_env, self.eval_env)
        epsilon = own_epsilon(self.model) or USUAL_EPSILON if self.epsilon is None else self.epsilon
        attacks: list[str | Attack] = [name for name in self.attacks if name not in self.learned]
        if self.adapted is not None and learned:
            attacks += self.adapted.on(self.model, self.eval_env, epsilon)
        self.report = evaluate_robustness(
            self.model,
            self.eval_env,
            attacks,
            epsilon,
            n_eval_episodes=self.n_eval_episodes,
            seed=self.seed,
            deterministic=self.deterministic,
            warn=self.warn,
            ball=self.ball,
        )
        return self.report

    @property
    def learned(self) -> list[str]:
        """Names of the attacks that adapt to the policy."""
        return [] if self.adapted is None else self.adapted.names

    def _log(self, report: RobustnessReport) -> None:
        self.last_mean_reward = report.natural
        rows = report.to_frame()
        self.logger.record("eval/mean_reward", report.natural)
        self.logger.record("eval/mean_ep_length", rows.loc[rows["attack"] == NATURAL, "length"].mean())
        summary = report.summary().iloc[0]
        for attack in report.attacks:
            self.logger.record(f"eval/robust_{attack}", float(summary[attack]))
        self.logger.record("eval/worst_case", report.worst_case)
        self.logger.record("eval/robustness", report.robustness)
        # At once, so that the figures stand at the step at which they were measured.
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)
        if self.verbose >= 1:
            print(
                f"Eval num_timesteps={self.num_timesteps}, natural={report.natural:.2f}, "
                f"worst case={report.worst_case:.2f} ({summary['worst_attack']})"
            )

    def _store(self, report: RobustnessReport) -> None:
        if self.log_path is None:
            return
        groups = {str(name): rows for name, rows in report.to_frame().groupby("attack", sort=False)}
        natural = groups.pop(NATURAL)
        self.evaluations_timesteps.append(self.num_timesteps)
        self.evaluations_results.append(natural["return"].to_list())
        self.evaluations_length.append(natural["length"].to_list())
        for attack, rows in groups.items():
            self._under_attack.setdefault(f"results_{attack}", []).append(rows["return"].to_list())
        arrays: dict[str, Any] = {
            "timesteps": self.evaluations_timesteps,
            "results": self.evaluations_results,
            "ep_lengths": self.evaluations_length,
            **self._under_attack,
        }
        np.savez(self.log_path, **arrays)

    def _keep_best(self, worst_case: float) -> bool:
        self.best_mean_reward = worst_case
        if self.verbose >= 1:
            print("New best worst case!")
        if self.best_model_save_path is not None:
            path = Path(self.best_model_save_path) / self.best_model_name
            self.model.save(path)
            if (layer := self.model.get_vec_normalize_env()) is not None:
                layer.save(f"{path}_vecnormalize.pkl")
        return self.callback_on_new_best is None or self.callback_on_new_best.on_step()
