"""Evaluation under attack in the RL Zoo's ``train``."""

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sb3_barpo.attacks import attack_names
from sb3_barpo.checks import require_count, require_strength
from sb3_barpo.evaluation.callbacks import RobustEvalCallback

#: Name of the model that is best in the worst case, beside the Zoo's ``best_model``.
BEST = "best_robust_model"


def parser() -> argparse.ArgumentParser:
    """:return: The parser of the arguments that ``train`` has beside the Zoo's."""
    own = argparse.ArgumentParser(prog="sb3-barpo train", usage=argparse.SUPPRESS, add_help=False, allow_abbrev=False)
    group = own.add_argument_group("evaluation under attack (of sb3-barpo)")
    group.add_argument(
        "--robust-eval-freq",
        type=int,
        help=f"evaluate under attack every so many steps, log eval/robust_*, and keep the model that is best in the "
        f"worst case as {BEST}.zip, with its statistics (default: never)",
    )
    group.add_argument("--robust-epsilon", type=float, help="strength (default: the one at the end of training)")
    group.add_argument("--robust-attacks", nargs="+", help="attacks that need no learning (default: random critic mad)")
    return own


def split(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """
    :param argv: Arguments of ``train``.
    :return: Those of this module, and the Zoo's.
    :raises ValueError: for a value out of range or an unknown attack, one without ``--robust-eval-freq``, or that
        with ``-optimize``.
    """
    own, rest = parser().parse_known_args(argv)
    if own.robust_eval_freq is None:
        for name in ("robust_epsilon", "robust_attacks"):
            if getattr(own, name) is not None:
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} needs --robust-eval-freq, the steps between two evaluations under attack.")
        return own, rest
    if {"-optimize", "--optimize-hyperparameters"} & set(rest):
        raise ValueError(
            "The RL Zoo's -optimize scores trials without an attack, so it takes no --robust-eval-freq. Search for the "
            "strength with `sb3-barpo tune`, whose trials are attacked."
        )
    require_count("--robust-eval-freq", own.robust_eval_freq, "it is a number of steps, at least 1; 25000 is usual")
    if own.robust_epsilon is not None:
        require_strength("--robust-epsilon", own.robust_epsilon)
    attack_names(own.robust_attacks or "mad")
    return own, rest


@contextlib.contextmanager
def robust_evaluation(own: argparse.Namespace) -> Iterator[None]:
    """
    Within, the Zoo's experiments evaluate under attack: as asked for by the arguments, and by each
    :class:`RobustEvalCallback` of the settings, which gets the Zoo's evaluation environment and the agent's folder.

    :param own: What :func:`split` returned.
    """
    from rl_zoo3 import exp_manager

    class Manager(exp_manager.ExperimentManager):
        """The Zoo's, with our callback completed."""

        def create_callbacks(self) -> None:
            super().create_callbacks()  # type: ignore[no-untyped-call]
            if own.robust_eval_freq and not self.optimize_hyperparameters:
                self.callbacks.append(self._robust_callback())
            for callback in self.callbacks:
                if isinstance(callback, RobustEvalCallback) and not callback.has_env:
                    self._complete(callback)

        def _robust_callback(self) -> RobustEvalCallback:
            given: dict[str, Any] = {"epsilon": own.robust_epsilon, "attacks": own.robust_attacks}
            return RobustEvalCallback(
                eval_freq=max(own.robust_eval_freq // self.n_envs, 1),
                n_eval_episodes=self.n_eval_episodes,
                deterministic=self.deterministic_eval,
                **{name: value for name, value in given.items() if value is not None},
            )

        def _complete(self, callback: RobustEvalCallback) -> None:
            callback.set_env(self.create_envs(self.n_eval_envs, eval_env=True))
            if callback.best_model_save_path is None:
                callback.best_model_save_path, callback.best_model_name = self.save_path, BEST
            if callback.log_path is None:
                callback.log_path = str(Path(self.save_path) / "robust_evaluations")

    original = exp_manager.ExperimentManager
    exp_manager.ExperimentManager = Manager  # type: ignore[misc]
    try:
        yield
    finally:
        exp_manager.ExperimentManager = original  # type: ignore[misc]
