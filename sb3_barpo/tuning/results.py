"""The results of a study: tables, pictures, and the best strength as an entry of the RL Zoo and as a script."""

import json
import math
import re
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import pandas as pd
import yaml
from optuna.trial import TrialState

from sb3_barpo.adversary import as_adversary
from sb3_barpo.algorithms import OURS, algorithm, find
from sb3_barpo.environments import INNER
from sb3_barpo.experiment import ENVIRONMENT, Agent, make_env
from sb3_barpo.expressions import write_kwargs
from sb3_barpo.figures import COLOURS, NONE, canvas, number
from sb3_barpo.schedules import as_schedule
from sb3_barpo.tuning.strength import merged
from sb3_barpo.tuning.study import finished, state_name
from sb3_barpo.tuning.trials import Tuning

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plain(strength: dict[str, Any], algo: str) -> dict[str, Any]:
    """
    :param strength: Arguments of the algorithm, as :func:`sb3_barpo.tuning.suggest_strength` gives them.
    :param algo: Name of the algorithm.
    :return: The same, short: schedules as strings, constants as numbers, the solver only if it is not the algorithm's
        default.
    """
    short = {name: _short(value) for name, value in strength.items() if name != "adversary"}
    if short.get("margin") == 1:
        del short["margin"]
    if algo not in OURS:
        return short
    default = algorithm(algo).defence.adversary()  # type: ignore[attr-defined]  # one of ours
    if as_adversary(strength.get("adversary"), default).solver != default.solver:
        short["adversary"] = strength["adversary"]
    return short


def _is_schedule(value: Any) -> bool:
    return isinstance(value, Mapping) and "kind" in value


def _short(value: Any) -> Any:
    if not _is_schedule(value):
        return value
    return value["value"] if value["kind"] == "constant" else str(as_schedule(value))


def zoo_entry(agent: Agent, strength: dict[str, Any]) -> str:
    """
    :param agent: What was trained.
    :param strength: What was found, as :func:`plain` gives it.
    :return: An entry for RL Zoo's ``--conf-file``.
    """
    settings = {
        "normalize": agent.normalize,
        "n_envs": agent.n_envs,
        "n_timesteps": agent.steps,
        "policy": _policy(agent),
        **merged(agent.kwargs, strength),
    }
    if settings.get("policy_kwargs"):
        settings["policy_kwargs"] = write_kwargs(settings["policy_kwargs"])
    return str(yaml.safe_dump({agent.env.rpartition(":")[2]: settings}, sort_keys=False))


def _policy(agent: Agent) -> str:
    if agent.kwargs.get("policy"):
        return str(agent.kwargs["policy"])
    env = make_env(agent, 1)
    env.close()
    return find(agent.algo).policy(env.observation_space)


def script(agent: Agent, strength: dict[str, Any]) -> str:
    """
    :param agent: What was trained.
    :param strength: What was found, as :func:`plain` gives it.
    :return: A Python script that trains it.
    """
    settings = {
        key: value for key, value in merged(agent.kwargs, strength).items() if key not in (*ENVIRONMENT, "policy")
    }
    arguments = "".join(f"    {name}={_written(name, value)},\n" for name, value in settings.items())
    kind = find(agent.algo).class_name
    imports, env = _environments(agent)
    schedules = any(_is_linear(value) for value in settings.values())
    callback = bool(agent.kwargs.get("callback"))
    lines = [*imports.splitlines(), f"from {find(agent.algo).module} import {kind}"]
    if callback:
        lines.append("from rl_zoo3.utils import get_callback_list")
    if schedules:
        lines.append("from stable_baselines3.common.utils import LinearSchedule")
    if re.search(r"\bth\.", arguments):
        lines.append("import torch as th")
    if re.search(r"(?<!\.)\bnn\.", arguments):
        lines.append("from torch import nn")
    ours = sorted(line for line in lines if line.startswith("from sb3_barpo"))
    others = [line for line in lines if line and line not in ours]
    others.sort(key=lambda line: (line.startswith("from"), line))
    return (
        "\n\n".join("\n".join(block) for block in (others, ours) if block)
        + "\n\n"
        + f"env = {env}\n"
        + f'model = {kind}(\n    "{_policy(agent)}",\n    env,\n{arguments})\n'
        + (f"callback = get_callback_list({ ({'callback': agent.kwargs.get('callback')})!r})\n" if callback else "")
        + f'model.learn({agent.steps}{", callback=callback" if callback else ""})\nmodel.save("agent")\n'
        + ('model.get_vec_normalize_env().save("vecnormalize.pkl")\n' if agent.normalize else "")
    )


def _environments(agent: Agent) -> tuple[str, str]:
    """:return: Imports, and the expression that makes the agent's environments."""
    own = {key: agent.kwargs[key] for key in INNER if agent.kwargs.get(key)}
    frame_stack = agent.kwargs.get("frame_stack")
    gamma = f", gamma={agent.kwargs['gamma']!r}" if "gamma" in agent.kwargs else ""
    vectors = _policy(agent) in ("MlpPolicy", "MlpLstmPolicy")
    if vectors and not own and not frame_stack and not agent.gym_packages and isinstance(agent.normalize, bool):
        imports = "from stable_baselines3.common.env_util import make_vec_env\n"
        env = f'make_vec_env("{agent.env}", n_envs={agent.n_envs})'
        if agent.normalize:
            imports += "from stable_baselines3.common.vec_env import VecNormalize\n"
            env = f"VecNormalize({env}{gamma})"
        return imports, env
    packages = f", packages={agent.gym_packages!r}" if agent.gym_packages else ""
    inner = f'build("{agent.env}", {agent.n_envs}, {own!r}{packages})'
    outer = f"around({inner}, {agent.normalize!r}, {frame_stack!r}{gamma if agent.normalize else ''})"
    return "\nfrom sb3_barpo.environments import around, build\n", outer


def _is_linear(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("lin_")


def _written(name: str, value: Any) -> str:
    if _is_linear(value):
        return f"LinearSchedule({value.removeprefix('lin_')}, 0.0, 1.0)"
    if name == "policy_kwargs" and value:
        return write_kwargs(value)
    return json.dumps(value) if isinstance(value, str) else repr(value)


def plot_returns(study: optuna.Study, tuning: Tuning) -> "Figure":
    """
    :param study: The study.
    :param tuning: What its trials did.
    :return: Each finished trial by its natural return and its worst case, with the Pareto front of the complete ones.
    :raises ImportError: if matplotlib is not installed.
    """
    figure, axes = canvas(7.6, 4.8)
    trials = [trial for trial in finished(study) if "natural" in trial.user_attrs]
    for state, marker, label in ((TrialState.COMPLETE, "o", "complete"), (TrialState.PRUNED, "x", "pruned")):
        points = _points([trial for trial in trials if trial.state == state])
        if len(points):
            axes.plot(*points.T, marker, color=COLOURS[0], alpha=0.6, ms=6, label=f"{len(points)} {label}")
    complete = _points([trial for trial in trials if trial.state == TrialState.COMPLETE])
    front = np.array([p for p in complete if not any((complete >= p).all(1) & (complete > p).any(1))])
    if len(front) > 1:
        front = front[front[:, 0].argsort()]
        axes.plot(*front.T, color="0.4", lw=1.2, zorder=0, label="front")
    paper = _points([trial for trial in trials if trial.user_attrs.get("setting") == "paper"])
    if len(paper):
        axes.plot(*paper.T, "*", color=COLOURS[1], ms=15, label="the paper's setting")
    axes.set_title(f"Trials on {tuning.agent.env}, attacks at ε = {tuning.epsilon:g}, {tuning.judges} each", loc="left")
    axes.set_xlabel("natural return")
    axes.set_ylabel("return under the worst attack")
    axes.grid(alpha=0.25)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def _points(trials: list[optuna.trial.FrozenTrial]) -> np.ndarray:
    return np.array([(t.user_attrs["natural"], t.user_attrs["worst_case"]) for t in trials]).reshape(-1, 2)


def _about(tuning: Tuning) -> str:
    return f"{find(tuning.agent.algo).class_name} on {tuning.agent.env}"


def plot_history(study: optuna.Study, tuning: Tuning) -> "Figure":
    """
    :param study: The study.
    :param tuning: What its trials did.
    :return: What the study prefers, trial by trial, and the best so far.
    :raises ImportError: if matplotlib is not installed.
    """
    figure, axes = canvas(7.6)
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    numbers = [trial.number for trial in trials]
    values = [tuning.criterion.preference(*point) for point in _points(trials).tolist()]
    axes.plot(numbers, values, "o", color=COLOURS[0], alpha=0.6, ms=6, label="complete trials")
    axes.step(numbers, np.maximum.accumulate(values), where="post", color=COLOURS[1], lw=2.2, label="best so far")
    axes.set_title(f"{_about(tuning)}: {tuning.criterion.kind} by trial", loc="left")
    axes.set_xlabel("trial")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylabel(tuning.criterion.kind)
    axes.grid(axis="y", alpha=0.25)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def plot_importance(study: optuna.Study, tuning: Tuning) -> "Figure":
    """
    :param study: The study.
    :param tuning: What its trials did.
    :return: How much each parameter decides whether a trial is among the best (PED-ANOVA, Watanabe et al., 2023).
    :raises ImportError: if matplotlib is not installed.
    :raises UserWarning: if there are too few trials.
    """

    def loss(trial: optuna.trial.FrozenTrial) -> float:  # the evaluator takes low for good
        return -tuning.criterion.preference(trial.user_attrs["natural"], trial.user_attrs["worst_case"])

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "PedAnovaImportanceEvaluator computes")  # it says that low is good
        warnings.filterwarnings("error", "The number of trials is too small")  # they would all be equal
        importances = optuna.importance.get_param_importances(study, target=loss)
    figure, axes = canvas(7.6, 1.2 + 0.4 * len(importances))
    names = list(importances)[::-1]
    axes.barh(names, [importances[name] for name in names], color=COLOURS[0], height=0.6)
    axes.set_title(f"{_about(tuning)}: importance of the parameters for {tuning.criterion.kind}", loc="left")
    axes.set_xlabel("share")
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    return figure


def plot_schedules(candidates: dict[str, dict[str, Any]]) -> "Figure":
    """
    :param candidates: Strengths by name.
    :return: Above, the ε of training, margin included; below, what else of the defence may be a schedule, κ for BARPO.
        A controller is drawn at its full strength.
    :raises ImportError: if matplotlib is not installed.
    """
    names = [name for name, value in next(iter(candidates.values())).items() if _is_schedule(value)]
    figure, panels = canvas(7.6, 1.0 + 2.0 * len(names), nrows=len(names), sharex=True, squeeze=False)
    times = np.linspace(0, 1, 401)
    for axes, name in zip(panels[:, 0], names, strict=True):
        for i, (candidate, strength) in enumerate(candidates.items()):
            schedule = as_schedule(strength[name])
            margin = strength.get("margin", 1.0) if name == "epsilon" else 1.0
            values = [margin * schedule(1 - time) for time in times]
            axes.plot(100 * times, values, color=COLOURS[i % 7], lw=2.2, ls="--" if i == 0 else "-", label=candidate)
        axes.set_ylabel({"epsilon": "ε of training", "kappa": "κ"}.get(name, name))
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
    top = panels[0, 0]
    top.set_title("The best strengths over training", loc="left")
    panels[-1, 0].set_xlabel("training done, %")
    top.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def write_study(study: optuna.Study, tuning: Tuning, candidates: dict[str, dict[str, Any]], output: Path) -> list[str]:
    """
    Write ``trials.csv`` and the study's pictures.

    :param study: The study.
    :param tuning: What its trials did.
    :param candidates: The strengths to draw.
    :param output: Folder to write to.
    :return: Names of the pictures.
    """
    output.mkdir(parents=True, exist_ok=True)
    trials = study.trials_dataframe(multi_index=False)
    if len(trials):
        trials["state"] = [state_name(trial).upper() for trial in study.get_trials(deepcopy=False)]
    # The workers' names contain those of machines, which do not belong in shared results.
    trials.drop(columns="user_attrs_worker", errors="ignore").to_csv(output / "trials.csv", index=False)
    pictures = {"returns": plot_returns(study, tuning)}
    if tuning.space:
        pictures["schedules"] = plot_schedules(candidates)
    if study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        pictures["history"] = plot_history(study, tuning)
    with suppress(ValueError, RuntimeError, UserWarning):  # too few trials, or all alike
        pictures["importance"] = plot_importance(study, tuning)
    for name, picture in pictures.items():
        picture.savefig(output / f"{name}.png")
    return [f"{name}.png" for name in pictures]


def confirmed_markdown(rows: pd.DataFrame) -> str:
    """:return: The table of confirmed candidates."""
    tested = rows[["improvement", "p"]].map(lambda value: NONE if math.isnan(value) else f"{value:.2g}")
    shown = rows.drop(columns=["preference", *tested]).map(number).join(tested).reset_index()
    names = {
        "worst_case": "worst case",
        "lowest": "lowest worst case of a seed",
        "improvement": "better with probability",
    }
    shown = shown.rename(columns=names)
    align = ["left", *["right"] * (len(shown.columns) - 1)]
    return str(shown.to_markdown(index=False, colalign=align, disable_numparse=True))
