"""What ``sb3-barpo evaluate`` does: search for the attacks on each agent, attack, and write the report."""

import warnings
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import torch as th
from joblib import Parallel, delayed

from sb3_barpo.adversary import Ball, L2Ball, LinfBall, SpaceWarning, space_warning, warn_of_space
from sb3_barpo.agents.load import LoadedAgent
from sb3_barpo.agents.pack import pack, unpack
from sb3_barpo.attacks import ATTACKS, Attack, LearnedAttack, attack_names
from sb3_barpo.attacks.victim import victim_digest
from sb3_barpo.checks import require_model
from sb3_barpo.evaluation import RobustnessReport
from sb3_barpo.evaluation.judged import circumstances, describe, own_ball, own_epsilon, too_weak
from sb3_barpo.evaluation.pages import file_name, write_pages
from sb3_barpo.evaluation.progress import Progress, Tell
from sb3_barpo.evaluation.robustness import check_settings, learned_names, origin_of, run_trial
from sb3_barpo.evaluation.rows import COLUMNS, NATURAL, Origin
from sb3_barpo.evaluation.search import Victim, find_attacks, members_tried
from sb3_barpo.evaluation.settings import EvalConfig
from sb3_barpo.evaluation.video import check_video
from sb3_barpo.resume import read_record, write_record
from sb3_barpo.seeds import REPORT

#: The plain balls, by name.
BALLS = {"linf": LinfBall, "l2": L2Ball}


def evaluate(
    agents: Sequence[LoadedAgent],
    attacks: Sequence[str] = ("all",),
    epsilon: Sequence[float] | None = None,
    budget: str = "standard",
    output: str | Path | None = None,
    n_jobs: int = 1,
    n_eval_episodes: int = 50,
    seed: int = REPORT.start,
    deterministic: bool = True,
    progress_bar: bool = True,
    ball: str | None = None,
    mixed_units: bool = False,
    html: bool = False,
    video: bool = False,
    command: str = "",
) -> RobustnessReport:
    """
    Search for the strongest attacks on each agent, attack, and write ``report.md``, ``report.csv``, ``report.json``,
    ``returns.png``, ``epsilon.png`` for several ε, ``episode-<agent>.png``, every attacker into ``attacks/<agent>/``,
    and how they compare into ``attackers.csv``. Attackers that are stored there are reused.

    :param agents: The agents; their names must differ.
    :param attacks: Names of attacks, or ``"all"``.
    :param epsilon: Strengths, one or several. Learned attacks are fitted at the largest and used at all. By default the
        strength that the agents shall withstand, ε at the end of their training without the margin.
    :param budget: How many attackers are fitted for each learned attack.
    :param output: Folder to write to, by default :func:`default_output`.
    :param n_jobs: Number of processes.
    :param n_eval_episodes: Episodes for each attack and strength.
    :param seed: Seed of the first episode and of the fits.
    :param deterministic: Whether the agents take their most likely action.
    :param progress_bar: Whether to show the progress.
    :param ball: ``"linf"`` or ``"l2"``, by default the ball that the agents were trained with.
    :param mixed_units: Whether to draw agents whose ε are in different units on one axis.
    :param html: Whether to write ``report.html`` too, one page with all pictures in it.
    :param video: Whether to write ``episode-<agent>.mp4`` too: the natural and the most damaging attacked episode.
    :param command: The command line, to be written down.
    :return: The report on all agents.
    :raises ValueError: for a setting out of range, an unknown attack or budget, two agents of one name, agents whose
        training says nothing or different things of ε or the ball where that is not given, a folder that holds
        another evaluation, or environments that cannot be rendered for a video.
    :raises OSError: if the folder cannot be written.
    """
    if not agents:
        raise ValueError("There is no agent to evaluate: name at least one.")
    for agent in agents:
        require_model(agent)
    names = [agent.name for agent in agents]
    if len(set(names)) < len(names):
        raise ValueError(f"Each agent needs a name of its own, but they are called {', '.join(names)}. Give names.")
    strengths = _strengths(agents, epsilon)
    within = _ball(agents, ball)
    check_settings(attacks, strengths, budget)
    config = EvalConfig(n_eval_episodes, seed, deterministic)
    listed = [str(name) for name in dict.fromkeys(attack_names(attacks))]
    for agent in agents if video else []:
        check_video(agent.venv)
    output = default_output(names) if output is None else Path(output)
    judged = {
        "agents": {agent.name: _described(agent, within, strengths[-1]) for agent in agents},
        **circumstances(command),
    }
    _claim(
        output,
        {
            "agents": {agent.name: victim_digest(agent.model) for agent in agents},
            "attacks": listed,
            "epsilon": strengths,
            "ball": repr(within or LinfBall()),
            "budget": budget,
            "episodes": n_eval_episodes,
            "seed": seed,
            "deterministic": deterministic,
        },
    )
    folders = [output / "attacks" / file_name(agent.name) for agent in agents]
    victims = [Victim(agent.model, agent.venv, folder, within) for agent, folder in zip(agents, folders, strict=True)]
    learned = find_attacks(
        victims, learned_names(listed), strengths[-1], budget, n_jobs, seed, deterministic, progress_bar
    )
    tasks: list[tuple[bytes, Origin, str | None, Path | None, float, Ball | None]] = []
    for agent, folder, found in zip(agents, folders, learned, strict=True):
        content, origin = pack(agent.model, agent.venv), origin_of(agent.model, agent.venv, agent.name)
        tasks.append((content, origin, None, None, 0.0, None))
        for name in listed:
            path = None
            if name in found:
                path = folder / f"{name}.zip"  # the strongest, under a plain name
                found[name].save(path)
            tasks += [(content, origin, name, path, strength, within) for strength in strengths]
    rows: list[tuple[Any, ...]] = []
    warned: dict[str, str] = {}
    n_episodes = len(tasks) * n_eval_episodes
    with Progress("attacks", len(tasks), n_episodes, "episode", progress_bar, n_jobs) as progress:
        waiting = (delayed(_trial)(*task, config, progress.tell) for task in tasks)
        for task, (some, warning) in zip(tasks, Parallel(n_jobs, return_as="generator")(waiting), strict=True):
            rows += some
            _, origin, attack, _, strength, _ = task
            if warning:
                warned.setdefault(origin.agent, warning)
            progress.finished(f"{attack or NATURAL} on {origin.agent}{f' at ε = {strength:g}' if attack else ''}")
    for agent in agents:
        if agent.name in warned:
            warn_of_space(agent.model, f"{agent.name}: {warned[agent.name]}")
            _add_warning(judged["agents"][agent.name], warned[agent.name])
    report = RobustnessReport(pd.DataFrame(rows, columns=COLUMNS), judged)
    if any(learned):
        tried = {agent.name: members_tried(folder) for agent, folder in zip(agents, folders, strict=True)}
        pd.concat(tried, names=["agent", None]).reset_index("agent").to_csv(output / "attackers.csv", index=False)
    worst = [_worst(report, agent, found, within) for agent, found in zip(agents, learned, strict=True)]
    write_pages(report, agents, learned, worst, output, config, mixed_units, html, video)
    return report


def default_output(names: Sequence[str]) -> Path:
    """
    :param names: The agents' names.
    :return: ``evaluation-<first agent>-<date>``, with the number of further agents.
    """
    others = f"-and-{len(names) - 1}-more" if len(names) > 1 else ""
    return Path(f"evaluation-{file_name(names[0])}{others}-{date.today():%Y-%m-%d}")


def _strengths(agents: Sequence[LoadedAgent], epsilon: Sequence[float] | None) -> list[float]:
    """Each strength once, ascending, without the 0 that natural episodes stand for."""
    if epsilon is not None:
        return sorted({one for one in epsilon if one != 0}) or [0.0][: len(epsilon)]
    own = {agent.name: one for agent in agents if (one := own_epsilon(agent.model))}
    if len(set(own.values())) == 1:
        return [next(iter(own.values()))]
    found = ", ".join(f"{name}: {one:g}" for name, one in own.items()) or "none was trained to be robust"
    raise ValueError(
        f"At which epsilon are the agents to be attacked? Their training does not tell ({found}). Name it by epsilon; "
        "0.075 is usual for Hopper under VecNormalize."
    )


def _ball(agents: Sequence[LoadedAgent], ball: str | None) -> Ball | None:
    """The ball of all attacks, ``None`` for the default one."""
    if ball is not None:
        if ball not in BALLS:
            raise ValueError(f"Unknown ball {ball!r}. Choose from {', '.join(BALLS)}.")
        return None if ball == "linf" else BALLS[ball]()
    trained = [own_ball(agent.model) for agent in agents if own_epsilon(agent.model) is not None]
    own = {repr(one or LinfBall()): one for one in trained}
    if len(own) > 1:
        raise ValueError(
            f"The agents were trained in different balls ({', '.join(own)}), so one attack does not suit all. Evaluate "
            f"them one by one, or name a ball: {', '.join(BALLS)}."
        )
    return next(iter(own.values()), None)


def _described(agent: LoadedAgent, ball: Ball | None, epsilon: float) -> dict[str, Any]:
    told = describe(agent.model, agent.venv, ball, agent)
    if weak := too_weak(agent.model, agent.venv, epsilon, ball):
        _add_warning(told, weak)
    return told


def _add_warning(told: dict[str, Any], warning: str) -> None:
    told["warning"] = f"{told.get('warning', '')} {warning}".strip()


def _claim(output: Path, settings: dict[str, Any]) -> None:
    """Write down what a folder holds, before work begins; refuse it for anything else."""
    record = output / "evaluation.json"
    held = read_record(record) if record.exists() else {} if (output / "report.json").exists() else settings
    if held != settings:
        differs = [key for key in settings if held.get(key) != settings[key]]
        raise ValueError(
            f"The folder {str(output)!r} holds another evaluation, which differs in {', '.join(differs)}. Choose "
            "another output folder, or remove this one."
        )
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_record(record, settings)
    except OSError as error:
        raise OSError(
            f"Cannot write to the folder {str(output)!r}: {error.strerror or error}. Choose another output folder."
        ) from error


def _trial(
    content: bytes,
    origin: Origin,
    name: str | None,
    path: Path | None,
    epsilon: float,
    ball: Ball | None,
    config: EvalConfig,
    tell: Tell,
) -> tuple[list[tuple[Any, ...]], str]:
    """:return: Rows of the report, and what is to be warned of, which processes would say again and again."""
    th.set_num_threads(1)  # processes share the cores; more threads slow small networks down
    model, venv = unpack(content)
    attack: Attack | None = None
    if path is not None:
        attack = LearnedAttack.load(path, model).at(epsilon)
    elif name is not None:
        kind: Any = ATTACKS[name]
        attack = kind(model, epsilon, ball=ball)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SpaceWarning)
        rows = run_trial(origin, model, venv, attack, config, tell)
    tell(0)
    return rows, space_warning(model)


def _worst(
    report: RobustnessReport, agent: LoadedAgent, learned: Mapping[str, LearnedAttack], ball: Ball | None
) -> Attack:
    """The most damaging attack on an agent at the largest ε."""
    name = str(report.summary()["worst_attack"][agent.name])
    kind: Any = ATTACKS[name]
    attack: Attack = learned[name] if name in learned else kind(agent.model, report.epsilons[-1], ball=ball)
    return attack
