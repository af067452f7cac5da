"""The search space of PPO's own settings, which decide first whether a task is learned."""

import inspect
from collections.abc import Mapping
from typing import Any

from optuna.trial import BaseTrial

from sb3_barpo.algorithms import algorithm
from sb3_barpo.expressions import read_kwargs, with_kwargs, without_kwarg, write_kwargs
from sb3_barpo.tuning.kinds import rounded

#: Numbers by name: their range, and whether it is searched on a logarithmic scale.
_RANGES: dict[str, tuple[float, float, bool]] = {
    "clip_range": (0.1, 0.4, False),
    "ent_coef": (1e-6, 0.03, True),
    "gae_lambda": (0.9, 0.99, False),
    "max_grad_norm": (0.3, 10.0, True),
}
_RATES = 3e-5, 3e-3
_STEPS = 128, 256, 512, 1024, 2048
#: Minibatches of an epoch: rollouts are divided without a rest.
_MINIBATCHES = 4, 8, 16, 32
_EPOCHS = 3, 20
#: Of a Gaussian policy's first standard deviation.
_LOG_STD = -2.0, 0.0


def suggest_ppo(trial: BaseTrial, n_envs: int, kwargs: Mapping[str, Any], gaussian: bool) -> dict[str, Any]:
    """
    PPO's settings that a trial tries, as data that JSON can hold, in the RL Zoo's notation: the learning rate, constant
    or ``lin_<initial value>``, steps of a rollout, size of a minibatch, epochs, clip range, entropy coefficient, λ of
    the advantages, norm of the gradient, and the logarithm of the first standard deviation. A stored trial returns the
    same ones again.

    :param trial: Optuna's trial, running, stored or ``FixedTrial``.
    :param n_envs: Environments of a rollout. A rollout has 128 to 2048 steps, of all of them together 1024 at least.
    :param kwargs: Arguments of the algorithm; what is tried takes the place of what they say, and the other
        ``policy_kwargs`` are kept.
    :param gaussian: Whether actions are continuous.
    :return: Arguments of the algorithm.
    """
    rate = rounded(trial.suggest_float("ppo.learning_rate", *_RATES, log=True))
    falls = trial.suggest_categorical("ppo.learning_rate_falls", [True, False])
    n_steps = max(trial.suggest_categorical("ppo.n_steps", _STEPS), -(-1024 // (32 * n_envs)) * 32)
    minibatches = trial.suggest_categorical("ppo.minibatches", _MINIBATCHES)
    found: dict[str, Any] = {
        "learning_rate": f"lin_{rate!r}" if falls else rate,
        "n_steps": n_steps,
        "batch_size": n_steps * n_envs // minibatches,
        "n_epochs": trial.suggest_int("ppo.n_epochs", *_EPOCHS),
    }
    for name, (low, high, log) in _RANGES.items():
        found[name] = rounded(trial.suggest_float(f"ppo.{name}", low, high, log=log))
    if gaussian:
        log_std = rounded(trial.suggest_float("ppo.log_std_init", *_LOG_STD))
        others = without_kwarg(kwargs.get("policy_kwargs") or {}, "log_std_init")
        policy_kwargs = with_kwargs("policy_kwargs", others, {"log_std_init": log_std})
        found["policy_kwargs"] = write_kwargs(policy_kwargs)
    return found


def ppo_params(algo: str, kwargs: Mapping[str, Any], n_envs: int, gaussian: bool) -> dict[str, Any]:
    """
    The parameters of :func:`suggest_ppo` that are closest to the given arguments, for ``study.enqueue_trial``: a search
    starts from what is known.

    :param algo: Name of the algorithm, whose defaults are taken for what is missing.
    :param kwargs: Its arguments in the RL Zoo's notation.
    :param n_envs: Environments of a rollout.
    :param gaussian: Whether actions are continuous.
    :return: The trial's parameters; an entropy coefficient of 0 becomes the smallest of the space.
    """
    arguments = inspect.signature(algorithm(algo)).parameters
    given = {**{name: one.default for name, one in arguments.items()}, **kwargs}
    rate = str(given["learning_rate"])
    minibatches = given["n_steps"] * n_envs / given["batch_size"]
    found = {
        "learning_rate": _within(float(rate.removeprefix("lin_")), *_RATES),
        "learning_rate_falls": rate.startswith("lin_"),
        "n_steps": min(_STEPS, key=lambda steps: abs(steps - given["n_steps"])),
        "minibatches": min(_MINIBATCHES, key=lambda count: abs(count - minibatches)),
        "n_epochs": int(_within(given["n_epochs"], *_EPOCHS)),
    }
    for name, (low, high, _) in _RANGES.items():
        found[name] = _within(float(str(given[name]).removeprefix("lin_")), low, high)
    if gaussian:
        policy_kwargs = read_kwargs(given["policy_kwargs"]) if given.get("policy_kwargs") else {}
        found["log_std_init"] = _within(policy_kwargs.get("log_std_init", 0.0), *_LOG_STD)
    return {f"ppo.{name}": value for name, value in found.items()}


def _within(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
