"""`evaluate_robustness`: the same episodes without an attack and under each one."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize
from tqdm import tqdm

from sb3_barpo.adversary import Ball
from sb3_barpo.attacks import ATTACKS, AUTO, Attack, LearnedAttack, Push, attack_names
from sb3_barpo.attacks.learned import check_clean_env
from sb3_barpo.attacks.victim import undisturbed
from sb3_barpo.checks import require_env, require_model
from sb3_barpo.evaluation.auto import AutoBudget, find_auto
from sb3_barpo.evaluation.budgets import Budget, check_budget
from sb3_barpo.evaluation.episodes import is_monitored, run_episodes
from sb3_barpo.evaluation.judged import describe, env_of, too_weak
from sb3_barpo.evaluation.members import Victim
from sb3_barpo.evaluation.report import RobustnessReport
from sb3_barpo.evaluation.rows import COLUMNS, NATURAL, Origin, make_rows
from sb3_barpo.evaluation.search import find_attacks, strongest_push
from sb3_barpo.evaluation.settings import EvalConfig
from sb3_barpo.evaluation.within import DEFAULT, Within, own, own_epsilon, within_sheet
from sb3_barpo.policies.views import uncompiled
from sb3_barpo.sensors import SensorsLike, as_sensors

#: The field's strength for Hopper-v5 (Zhang et al., NeurIPS 2020).
USUAL_EPSILON = 0.075


def evaluate_robustness(
    model: OnPolicyAlgorithm,
    env: gym.Env[Any, Any] | VecEnv,
    attacks: str | Attack | Sequence[str | Attack] = ("random", "critic", "mad"),
    epsilon: float | Sequence[float] | None = None,
    n_eval_episodes: int = 50,
    seed: int = 0,
    deterministic: bool = True,
    name: str | None = None,
    progress_bar: bool = False,
    warn: bool = True,
    budget: str | Budget | AutoBudget = "quick",
    n_jobs: int = 1,
    folder: str | Path | None = None,
    ball: Ball | None = None,
    algorithm: str | None = None,
    sensors: SensorsLike | None = None,
) -> RobustnessReport:
    """
    Evaluate a model on the same episodes, first without an attack, then under each attack.

    Learned attacks that are given by name are fitted first, see
    :func:`sb3_barpo.evaluation.search.find_attacks`: at the largest ε; smaller ε use the same attackers. ``"push"`` is
    the push to that limit of the actions which harms most, found in the same way.

    Episode k starts from seed ``seed + k`` whatever the attack, the model and the number of environments. Attacks and
    sampled actions are seeded for each batch of ``n_envs`` episodes, so what they draw depends on that number.
    Returns are those of ``Monitor`` if there is one, otherwise sums of the rewards that the environment returns.
    SB3's ``EpisodicLifeEnv`` is supported. With any other wrapper that delays resets, evaluate on one environment.

    :param model: The agent, any SB3 on-policy one, with or without a memory.
    :param env: Its environment or environments, wrapped as in training (in particular by ``VecNormalize`` with its
        statistics), but not by an attack. The statistics are not updated during the evaluation.
    :param attacks: ``"auto"`` for a search that needs no budget and says whether it is done
        (:mod:`sb3_barpo.evaluation.auto`), ``"standard"`` or ``"all"`` for the six of the field's tables, names, or
        :class:`Attack` objects, fitted if they are learned. Objects keep their own ε.
    :param epsilon: Strength of the named attacks, in units of what the policy sees; or several, for a
        curve over ε. Defaults to the strength that the agent shall withstand (its ε at the end of training, without the
        margin), and to 0.075 for agents that were not trained to be robust. In the ball of a spec sheet it is a share
        of the sheet, and defaults to 1.
    :param n_eval_episodes: Number of episodes for each attack and ε.
    :param seed: Seed of the first episode.
    :param deterministic: Whether the agent takes its most likely action.
    :param name: Name of the agent in the report, by default that of its class.
    :param progress_bar: Whether to show the progress over all episodes.
    :param warn: Whether to warn about an environment without ``Monitor``, or without the normalisation that the
        model knows.
    :param budget: How many attackers are fitted for each learned attack: ``"quick"``, ``"standard"``, ``"paper"``, or
        a :class:`sb3_barpo.evaluation.budgets.Budget`. ``"auto"`` takes none of these, but an
        :class:`sb3_barpo.evaluation.auto.AutoBudget` for small problems.
    :param n_jobs: Number of processes of that search.
    :param folder: Where fitted attackers are stored and reused; ``None`` stores nothing.
    :param ball: The named attacks' ball, by default the agent's own, and :class:`sb3_barpo.adversary.LinfBall` for
        agents that were not trained to be robust. Observations whose keys are not all of one kind need one with a scale
        by key.
    :param algorithm: What the report says trained the agent, by default the name of its class. The seed of training is
        the model's ``seed``.
    :param sensors: A spec sheet, its YAML file or it as plain data, in place of a ball: the named attacks stay within
        the sensors' bounds. By default the agent's own, if it was trained with one.
    :return: The report, one row an episode.
    :raises ValueError: for a setting out of range, unknown or doubled attacks, spaces that differ from the model's, an
        environment that is under attack already, an attack that is not fitted, or fitted on another victim, or a
        return that is NaN or infinite.
    :raises TypeError: if the model or its observation space cannot be attacked, or something among
        ``attacks`` is no attack.
    """
    require_model(model)
    require_env(env)
    model = uncompiled(model)
    venv = BaseAlgorithm._wrap_env(env)
    within = _within(model, venv, ball, sensors)
    if epsilon is None:
        epsilon = 1.0 if sensors is not None else own_epsilon(model) or USUAL_EPSILON
    check_settings(attacks, epsilon, budget)
    config = EvalConfig(n_eval_episodes, seed, deterministic)
    _check_env(model, venv, warn)
    listed, strengths = attack_names(attacks), _strengths(epsilon)
    if wants_auto(attacks):
        listed = list(dict.fromkeys(listed))
    strongest = max(given.epsilon if isinstance(given, Attack) else max(strengths) for given in listed)
    if warn and (weak := too_weak(model, venv, strongest, within)):
        warnings.warn(weak, UserWarning, stacklevel=2)
    for given in listed:
        if isinstance(given, LearnedAttack):
            given.check_victim(model, venv)
    found, told = dict[str, Attack](), dict[str, Any]()
    victim = Victim(model, venv, None if folder is None else Path(folder), within.ball)
    if wants_auto(attacks):
        given_budget = budget if isinstance(budget, AutoBudget) else None
        ((found, told),) = find_auto([victim], max(strengths), given_budget, n_jobs, seed, deterministic, progress_bar)
        listed = [attack for attack in listed if attack in found or attack not in AUTO]
    elif to_learn := learned_names(listed):
        grid = "quick" if isinstance(budget, AutoBudget) else budget
        (learned,) = find_attacks([victim], to_learn, max(strengths), grid, n_jobs, seed, deterministic, progress_bar)
        found = dict(learned)
    if Push.name in listed and Push.name not in found:
        found[Push.name] = strongest_push(victim, max(strengths), seed, deterministic)
    trials: list[Attack | None] = [None, *_build(model, listed, strengths, found, within.ball)]
    origin = origin_of(model, venv, name, algorithm, within)
    rows: list[tuple[Any, ...]] = []
    with tqdm(total=len(trials) * n_eval_episodes, unit="episode", disable=not progress_bar) as bar:
        for attack in trials:
            what = NATURAL if attack is None else f"{attack.name} at ε = {attack.epsilon:g}"
            bar.set_description(f"{origin.agent}, {what}")
            rows += run_trial(origin, model, venv, attack, config, bar.update)
    judged = {"agents": {origin.agent: {**describe(model, venv, within, None), **({"auto": told} if told else {})}}}
    return RobustnessReport(pd.DataFrame(rows, columns=COLUMNS), judged)


def _within(model: OnPolicyAlgorithm, venv: VecEnv, ball: Ball | None, sensors: SensorsLike | None) -> Within:
    if sensors is None:
        return own(model, venv) if ball is None else Within(ball)
    if ball is not None:
        raise ValueError("Both ball and sensors say how far an observation may move. Leave one of them out.")
    return within_sheet(model, venv, as_sensors(sensors))


def origin_of(
    model: OnPolicyAlgorithm,
    venv: VecEnv,
    name: str | None = None,
    algorithm: str | None = None,
    within: Within = DEFAULT,
) -> Origin:
    """
    :param model: The agent.
    :param venv: Its environments.
    :param name: Its name, by default that of its class.
    :param algorithm: What trained it, by default its class.
    :param within: Where attacks move its observations.
    :return: What its rows say of it; its seed of training is the model's own.
    """
    kind = type(model).__name__
    return Origin(name or kind, algorithm or kind, model.seed, env_of(venv)[0], within.unit(venv))


def run_trial(
    origin: Origin,
    model: OnPolicyAlgorithm,
    venv: VecEnv,
    attack: Attack | None,
    config: EvalConfig,
    tell: Callable[[int], object] = lambda n: None,
) -> list[tuple[Any, ...]]:
    """
    One attack, or none, on one agent; see :func:`evaluate_robustness`.

    :return: Rows of the report.
    """
    label, strength = (NATURAL, 0.0) if attack is None else (attack.name, attack.epsilon)
    with undisturbed(model, venv):
        episodes = run_episodes(model, attack, venv, config.n_eval_episodes, config.seed, config.deterministic, tell)
    return make_rows(origin, label, strength, config.seed, episodes)


def check_settings(
    attacks: str | Attack | Sequence[str | Attack],
    epsilon: float | Sequence[float],
    budget: str | Budget | AutoBudget = "quick",
) -> None:
    """
    Check what can be checked without a model; see :func:`evaluate_robustness`.

    :raises ValueError: for a setting out of range, or an unknown attack or budget.
    :raises TypeError: if something among ``attacks`` is no attack.
    """
    listed, strengths = attack_names(attacks), _strengths(epsilon)
    for strength in strengths:
        if not isinstance(strength, Real) or not 0 <= strength < math.inf:
            raise ValueError(
                f"epsilon must be a finite number, at least 0, or several, but it is {epsilon!r}. It is the largest "
                "change of an observation, in units of what the policy sees; 0.075 is usual for Hopper."
            )
    if not strengths:
        raise ValueError("epsilon is an empty list: name at least one strength.")
    if len(set(strengths)) < len(strengths):
        raise ValueError(f"Each ε is evaluated once, but epsilon is {epsilon!r}: name each strength once.")
    if not isinstance(budget, AutoBudget):
        check_budget(budget)
    elif not wants_auto(attacks):
        raise ValueError(
            "An AutoBudget goes with attacks='auto'. Other attacks take 'quick', 'standard', 'paper' or a Budget."
        )
    if learned_names(listed) and max(strengths) == 0:
        raise ValueError(
            f"{', '.join(learned_names(listed))} cannot be fitted at epsilon = 0. Name a larger one besides."
        )


def wants_auto(attacks: str | Attack | Sequence[str | Attack]) -> bool:
    """:return: Whether ``"auto"`` is asked for, alone or beside other attacks."""
    return attacks == "auto" or (not isinstance(attacks, str | Attack) and "auto" in attacks)


def learned_names(attacks: Sequence[str | Attack]) -> list[str]:
    """:return: Those that are names of attacks that have to be searched for."""
    return [attack for attack in attacks if isinstance(attack, str) and issubclass(ATTACKS[attack], LearnedAttack)]


def _strengths(epsilon: float | Sequence[float]) -> list[float]:
    return list(epsilon) if isinstance(epsilon, Sequence | np.ndarray) else [epsilon]


def _build(
    model: OnPolicyAlgorithm,
    attacks: Sequence[str | Attack],
    strengths: list[float],
    found: Mapping[str, Attack],
    ball: Ball | None,
) -> list[Attack]:
    """The attacks in the order given, each name at each strength."""
    built: list[Attack] = []
    for attack in attacks:
        if isinstance(attack, Attack):
            built.append(attack)
        else:
            kind: Any = ATTACKS[attack]
            one = found[attack] if attack in found else kind(model, strengths[0], ball=ball)
            built += [one.at(strength) for strength in strengths]
    keys = [(attack.name, attack.epsilon) for attack in built]
    doubled = sorted({key for key in keys if keys.count(key) > 1 or key[0] == NATURAL})
    if doubled:
        raise ValueError(
            f"Each attack needs a name of its own at each ε, other than {NATURAL!r}, but these are taken: {doubled}. "
            "Name an attack once; give a second setting of the same one a subclass with another `name`."
        )
    return built


def _check_env(model: OnPolicyAlgorithm, venv: VecEnv, warn: bool) -> None:
    check_clean_env(model, venv)
    if warn and not is_monitored(venv):
        warnings.warn(
            "The environment is not wrapped by SB3's Monitor, so returns and lengths are those that its other wrappers "
            "leave. Wrap it by Monitor first, or make it by make_vec_env.",
            UserWarning,
            stacklevel=3,
        )
    normalised = model.get_vec_normalize_env() is not None or getattr(model, "vec_normalize", False)
    layer = unwrap_vec_normalize(venv)
    if warn and normalised and layer is None:
        warnings.warn(
            "The model was trained with VecNormalize, but the environment is not wrapped by it: the policy will see "
            "raw observations. Wrap it: VecNormalize.load(path, venv).",
            UserWarning,
            stacklevel=3,
        )
    if layer is not None and layer.norm_obs and _is_unfitted(layer):
        raise ValueError(
            "VecNormalize has no statistics yet, so it would change observations in another way than in training. Load "
            "those of the agent: VecNormalize.load(path, venv)."
        )


def _is_unfitted(layer: VecNormalize) -> bool:
    statistics = layer.obs_rms.values() if isinstance(layer.obs_rms, dict) else [layer.obs_rms]
    fresh = RunningMeanStd()
    return all(
        one.count == fresh.count and not np.any(one.mean) and np.all(one.var == 1)  # not even set by hand
        for one in statistics
    )
