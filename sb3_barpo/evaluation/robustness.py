"""`evaluate_robustness`: the same episodes without an attack and under each one."""

import math
import warnings
from collections.abc import Sequence
from numbers import Real
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, is_vecenv_wrapped, unwrap_vec_normalize
from tqdm import tqdm

from sb3_barpo.attacks import ATTACKS, Attack, AttackObservation, UnderAttack, VecAttackObservation, make_attacks
from sb3_barpo.evaluation.episodes import Episode, is_monitored, run_wave, undisturbed
from sb3_barpo.evaluation.report import COLUMNS, NATURAL, RobustnessReport


def evaluate_robustness(
    model: OnPolicyAlgorithm,
    env: gym.Env[Any, Any] | VecEnv,
    attacks: str | Attack | Sequence[str | Attack] = ("random", "critic", "mad"),
    epsilon: float | Sequence[float] = 0.075,
    n_eval_episodes: int = 50,
    seed: int = 0,
    deterministic: bool = True,
    name: str | None = None,
    progress_bar: bool = False,
    warn: bool = True,
) -> RobustnessReport:
    """
    Evaluate a model on the same episodes first without an attack, then under each attack.

    Episode k starts from seed ``seed + k`` whatever the attack, the model and the number of environments. Attacks and
    sampled actions are seeded too, for each batch of ``n_envs`` episodes: what they draw depends on that number.
    Returns are those of ``Monitor`` where there is one, otherwise sums of the rewards as they come.
    With a wrapper that puts off resets, such as SB3's ``EpisodicLifeEnv``, evaluate on one environment: among several,
    one that is in the middle of its game does not take the seed of its next episode.

    :param model: The agent, any SB3 on-policy one with a feed-forward policy.
    :param env: Its environment or environments, wrapped as in training (``VecNormalize`` with its statistics above
        all), but not by an attack. The statistics are frozen meanwhile.
    :param attacks: Names, ``"all"``, or attacks that are built already. These keep their own ε.
    :param epsilon: Strength of the named attacks, in units of what the policy sees; or several, for the return as a
        function of ε.
    :param n_eval_episodes: Number of episodes for each attack and ε.
    :param seed: Seed of the first episode.
    :param deterministic: Whether the agent takes its most likely action.
    :param name: Name of the agent in the report, by default that of its class.
    :param progress_bar: Whether to show the progress over all episodes.
    :param warn: Whether to warn about an environment without ``Monitor``, or without the normalisation that the
        model knows.
    :return: The report, one row an episode.
    :raises ValueError: for a setting out of range, unknown or doubled attacks, spaces that differ from the model's, an
        environment that is under attack already, or a return that is NaN or infinite.
    :raises TypeError: if the model or its observation space cannot be attacked, or an attack is none.
    """
    check_settings(attacks, epsilon, n_eval_episodes)
    venv = BaseAlgorithm._wrap_env(env)
    _check_env(model, venv, warn)
    trials: list[Attack | None] = [None, *_build(model, attacks, epsilon)]
    agent = type(model).__name__ if name is None else name
    rows: list[tuple[Any, ...]] = []
    with (
        undisturbed(model, venv),
        tqdm(total=len(trials) * n_eval_episodes, unit="episode", disable=not progress_bar) as bar,
    ):
        for attack in trials:
            label, strength = (NATURAL, 0.0) if attack is None else (attack.name, attack.epsilon)
            bar.set_description(f"{agent}, {label}" if attack is None else f"{agent}, {label} at ε = {strength:g}")
            episodes = _episodes(model, attack, venv, n_eval_episodes, seed, deterministic, bar)
            rows += [(agent, label, strength, k, seed + k, *episode) for k, episode in enumerate(episodes)]
    return RobustnessReport(pd.DataFrame(rows, columns=COLUMNS))


def _episodes(
    model: OnPolicyAlgorithm,
    attack: Attack | None,
    venv: VecEnv,
    n_episodes: int,
    seed: int,
    deterministic: bool,
    bar: "tqdm[Any]",
) -> list[Episode]:
    predictor = model if attack is None else UnderAttack(model, attack, unwrap_vec_normalize(venv))
    episodes: list[Episode] = []
    for first in range(0, n_episodes, venv.num_envs):
        th.manual_seed(seed + first)
        if attack is not None:
            attack.seed(seed + first)
        n_wave = min(venv.num_envs, n_episodes - first)
        episodes += run_wave(predictor, venv, n_wave, seed + first, deterministic)
        bar.update(n_wave)
    return episodes


def check_settings(
    attacks: str | Attack | Sequence[str | Attack], epsilon: float | Sequence[float], n_eval_episodes: int
) -> None:
    """
    What can be checked without a model; see :func:`evaluate_robustness`.

    :raises ValueError: for a setting out of range or an unknown attack.
    :raises TypeError: if an attack is none.
    """
    if n_eval_episodes < 1:
        raise ValueError(f"n_eval_episodes must be at least 1, but it is {n_eval_episodes}. 50 is usual.")
    for attack in _listed(attacks):
        if not isinstance(attack, str | Attack):
            raise TypeError(f"An attack is a name or an Attack object, MAD(model, 0.075) for example, not {attack!r}.")
        if isinstance(attack, str) and attack not in ("all", *ATTACKS):
            raise ValueError(f"Unknown attack {attack!r}. Choose from {', '.join(ATTACKS)}, or 'all' of them.")
    for strength in _strengths(epsilon):
        if not isinstance(strength, Real) or not 0 <= strength < math.inf:
            raise ValueError(
                f"epsilon must be a finite number, at least 0, or several, but it is {epsilon!r}. It is the largest "
                "change of an observation, in units of what the policy sees; 0.075 is usual for Hopper."
            )
    if not _listed(attacks) or not _strengths(epsilon):
        raise ValueError(
            f"There is nothing to evaluate: attacks is {attacks!r}, epsilon is {epsilon!r}. Name at least one of each; "
            "for returns without an attack, use stable_baselines3's evaluate_policy."
        )


def _listed(attacks: str | Attack | Sequence[str | Attack]) -> list[str | Attack]:
    return [attacks] if isinstance(attacks, str | Attack) else list(attacks)


def _strengths(epsilon: float | Sequence[float]) -> list[float]:
    return list(epsilon) if isinstance(epsilon, Sequence | np.ndarray) else [epsilon]


def _build(
    model: OnPolicyAlgorithm, attacks: str | Attack | Sequence[str | Attack], epsilon: float | Sequence[float]
) -> list[Attack]:
    """The attacks in the order given, each name at each strength."""
    built: list[Attack] = []
    for attack in _listed(attacks):
        if isinstance(attack, Attack):
            built.append(attack)
        else:
            built += [one for strength in _strengths(epsilon) for one in make_attacks(attack, model, strength)]
    keys = [(attack.name, attack.epsilon) for attack in built]
    doubled = sorted({key for key in keys if keys.count(key) > 1 or key[0] == NATURAL})
    if doubled:
        raise ValueError(
            f"Each attack needs a name of its own at each ε, other than {NATURAL!r}, but these are taken: {doubled}. "
            "Name an attack once; give a second setting of the same one a subclass with another `name`."
        )
    return built


def _check_env(model: OnPolicyAlgorithm, venv: VecEnv, warn: bool) -> None:
    for what in ("observation_space", "action_space"):
        if getattr(venv, what) != getattr(model, what):
            raise ValueError(
                f"The environment's {what} must be the model's, but it is {getattr(venv, what)} and the model's is "
                f"{getattr(model, what)}. Evaluate on the environment of the training, wrapped in the same way."
            )
    if is_vecenv_wrapped(venv, VecAttackObservation) or any(venv.env_is_wrapped(AttackObservation)):
        raise ValueError(
            "The environment must not be under attack already, but it is wrapped by AttackObservation or "
            "VecAttackObservation. Pass the clean environment, and the attack in `attacks`."
        )
    if warn and not is_monitored(venv):
        warnings.warn(
            "The environment is not wrapped by SB3's Monitor, so returns and lengths are those that its other wrappers "
            "leave. Wrap it by Monitor first, or make it by make_vec_env.",
            UserWarning,
            stacklevel=3,
        )
    if warn and model.get_vec_normalize_env() is not None and unwrap_vec_normalize(venv) is None:
        warnings.warn(
            "The model was trained with VecNormalize, but the environment is not wrapped by it: the policy will see "
            "raw observations. Wrap it: VecNormalize.load(path, venv).",
            UserWarning,
            stacklevel=3,
        )
