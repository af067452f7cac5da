"""What ``sb3-barpo evaluate`` does: search for the attacks on each agent, attack, and write the report."""

import json
import warnings
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import torch as th
from joblib import delayed

from sb3_barpo.adversary import Ball, SpaceWarning, Timing, space_warning, warn_of_space
from sb3_barpo.agents.load import LoadedAgent
from sb3_barpo.agents.pack import pack, unpack
from sb3_barpo.attacks import ATTACKS, Attack, LearnedAttack, Push, attack_names
from sb3_barpo.attacks.victim import victim_digest
from sb3_barpo.checks import require_model
from sb3_barpo.evaluation import RobustnessReport
from sb3_barpo.evaluation.auto import find_auto
from sb3_barpo.evaluation.backends import in_parallel, use_backend
from sb3_barpo.evaluation.judged import add_warning, circumstances, describe, too_weak
from sb3_barpo.evaluation.members import Victim
from sb3_barpo.evaluation.pages import file_name, write_pages
from sb3_barpo.evaluation.progress import Progress, Tell
from sb3_barpo.evaluation.robustness import check_settings, learned_names, origin_of, run_trial, wants_auto
from sb3_barpo.evaluation.rows import COLUMNS, NATURAL, Origin
from sb3_barpo.evaluation.search import find_attacks, members_tried, strongest_push
from sb3_barpo.evaluation.sections import channel_blocks, sensor_blocks
from sb3_barpo.evaluation.settings import EvalConfig
from sb3_barpo.evaluation.video import check_video
from sb3_barpo.evaluation.within import Within, restricted, strengths_of, within_of
from sb3_barpo.resume import read_record, write_record
from sb3_barpo.seeds import REPORT
from sb3_barpo.sensors import SensorsLike


def evaluate(
    agents: Sequence[LoadedAgent],
    attacks: Sequence[str] = ("auto",),
    epsilon: Sequence[float] | None = None,
    budget: str | None = None,
    output: str | Path | None = None,
    n_jobs: int = 1,
    n_eval_episodes: int = 50,
    seed: int = REPORT.start,
    deterministic: bool = True,
    progress_bar: bool = True,
    ball: str | None = None,
    features: Sequence[int] = (),
    timing: Timing | None = None,
    backend: str = "loky",
    mixed_units: bool = False,
    html: bool = False,
    video: bool = False,
    command: str = "",
    sensors: SensorsLike | None = None,
    channels: bool = False,
) -> RobustnessReport:
    """
    Search for the strongest attacks on each agent, attack, and write ``report.md``, ``report.csv``, ``report.json``,
    ``returns.png``, ``epsilon.png`` for several ε, ``episode-<agent>.png``, every attacker into ``attacks/<agent>/``,
    and how they compare into ``attackers.csv``. Attackers that are stored there are reused.

    :param agents: The agents; their names must differ.
    :param attacks: ``"auto"``, ``"standard"`` (or ``"all"``), or names of attacks.
    :param epsilon: Strengths, one or several. Learned attacks are fitted at the largest and used at all. By default the
        strength that the agents shall withstand, ε at the end of their training without the margin.
    :param budget: How many attackers are fitted for each learned attack, ``"standard"`` by default; ``"auto"`` takes
        none.
    :param output: Folder to write to, by default :func:`default_output`.
    :param n_jobs: Number of processes.
    :param n_eval_episodes: Episodes for each attack and strength.
    :param seed: Seed of the first episode and of the fits.
    :param deterministic: Whether the agents take their most likely action.
    :param progress_bar: Whether to show the progress.
    :param ball: ``"linf"`` or ``"l2"``, by default the ball that the agents were trained with.
    :param features: Indices of the features that attacks may move; all by default.
    :param timing: Limits of the attacks over the steps of an episode; none by default.
    :param backend: Where the processes run, see :func:`sb3_barpo.evaluation.backends.use_backend`.
    :param mixed_units: Whether to draw agents whose ε are in different units on one axis.
    :param html: Whether to write ``report.html`` too, one page with all pictures in it.
    :param video: Whether to write ``episode-<agent>.mp4`` too: the natural and the most damaging attacked episode.
    :param command: The command line, to be written down.
    :param sensors: A spec sheet in place of a ball, see :func:`sb3_barpo.evaluation.evaluate_robustness`; by default
        the agents' own. With one, the sensors are ranked too: ``sensors-<agent>.csv`` and ``.png``.
    :param channels: Whether to evaluate across channels too, see :func:`sb3_barpo.evaluation.evaluate_channels`:
        ``channels.csv`` and ``channels.png``.
    :return: The report on all agents.
    :raises ValueError: for a setting out of range, an unknown attack or budget, a budget for ``"auto"``, two agents of
        one name, agents whose training says nothing or different things of ε or the ball where that is not given, a
        folder that holds another evaluation, or environments that cannot be rendered for a video.
    :raises OSError: if the folder cannot be written.
    """
    if not agents:
        raise ValueError("There is no agent to evaluate: name at least one.")
    for agent in agents:
        require_model(agent)
    names = [agent.name for agent in agents]
    if len(set(names)) < len(names):
        raise ValueError(f"Each agent needs a name of its own, but they are called {', '.join(names)}. Give names.")
    within = restricted(within_of(agents, ball, sensors), agents, features, timing)
    sheet = within[0].sheet
    strengths = strengths_of(agents, [1.0] if sensors is not None and epsilon is None else epsilon)
    if budget is not None and wants_auto(attacks):
        raise ValueError(
            f"The search of 'auto', the default, ends by itself and takes no budget, but budget is {budget!r}. Leave "
            "it out, or name the attacks that it is for: 'standard' for the six of the field's tables."
        )
    budget = "standard" if budget is None else budget
    check_settings(attacks, strengths, budget)
    config = EvalConfig(n_eval_episodes, seed, deterministic)
    listed = [str(name) for name in dict.fromkeys(attack_names(attacks))]
    for agent in agents if video else []:
        check_video(agent.venv)
    output = default_output(names) if output is None else Path(output)
    judged = {
        "agents": {
            agent.name: _described(agent, place, strengths[-1]) for agent, place in zip(agents, within, strict=True)
        },
        **circumstances(command),
    }
    _claim(
        output,
        {
            "agents": {agent.name: victim_digest(agent.model) for agent in agents},
            "attacks": listed,
            "epsilon": strengths,
            "ball": str(within[0]),
            "budget": budget,
            "episodes": n_eval_episodes,
            "seed": seed,
            "deterministic": deterministic,
            **({} if sheet is None else {"sensors": json.loads(json.dumps(sheet.spec()))}),
        },
    )
    folders = [output / "attacks" / file_name(agent.name) for agent in agents]
    victims = [
        Victim(agent.model, agent.venv, folder, place.ball)
        for agent, folder, place in zip(agents, folders, within, strict=True)
    ]
    with use_backend(backend):
        found = _search(
            victims, attacks, listed, strengths[-1], budget, n_jobs, seed, deterministic, progress_bar, judged
        )
    listed = [name for name in listed if name in found[0] or not wants_auto(attacks)]
    tasks: list[tuple[bytes, Origin, str | None, Path | None, Mapping[str, Any], float, Ball | None]] = []
    for agent, folder, strongest, place in zip(agents, folders, found, within, strict=True):
        content = pack(agent.model, agent.venv)
        origin = origin_of(agent.model, agent.venv, agent.name, within=place)
        tasks.append((content, origin, None, None, {}, 0.0, None))
        for name in listed:
            path, attack = None, strongest.get(name)
            if isinstance(attack, LearnedAttack):
                path = folder / f"{name}.zip"  # the strongest, under a plain name
                attack.save(path)
            settings = {} if attack is None else attack.settings
            tasks += [(content, origin, name, path, settings, strength, place.ball) for strength in strengths]
    rows: list[tuple[Any, ...]] = []
    warned: dict[str, str] = {}
    n_episodes = len(tasks) * n_eval_episodes
    with use_backend(backend), Progress("attacks", len(tasks), n_episodes, "episode", progress_bar, n_jobs) as progress:
        waiting = (delayed(_trial)(*task, config, progress.tell) for task in tasks)
        for task, (some, warning) in zip(tasks, in_parallel(waiting, n_jobs), strict=True):
            rows += some
            _, origin, label, _, _, strength, _ = task
            if warning:
                warned.setdefault(origin.agent, warning)
            progress.finished(f"{label or NATURAL} on {origin.agent}{f' at ε = {strength:g}' if label else ''}")
    for agent in agents:
        if agent.name in warned:
            warn_of_space(agent.model, f"{agent.name}: {warned[agent.name]}")
            add_warning(judged["agents"][agent.name], warned[agent.name])
    report = RobustnessReport(pd.DataFrame(rows, columns=COLUMNS), judged)
    tried = {agent.name: members_tried(folder) for agent, folder in zip(agents, folders, strict=True)}
    if any(len(members) for members in tried.values()):
        pd.concat(tried, names=["agent", None]).reset_index("agent").to_csv(output / "attackers.csv", index=False)
    worst = [
        _worst(report, agent, strongest, place.ball)
        for agent, strongest, place in zip(agents, found, within, strict=True)
    ]
    sections = [] if sheet is None else sensor_blocks(agents, sheet, strengths, config, output, n_jobs, progress_bar)
    if channels:
        sections += channel_blocks(agents, config, output, n_jobs, progress_bar)
    write_pages(report, agents, found, worst, output, config, mixed_units, html, video, sections, progress_bar)
    return report


def _search(
    victims: Sequence[Victim],
    attacks: Sequence[str],
    listed: Sequence[str],
    epsilon: float,
    budget: str,
    n_jobs: int,
    seed: int,
    deterministic: bool,
    progress_bar: bool,
    judged: dict[str, Any],
) -> list[dict[str, Attack]]:
    """The strongest attacks on each victim, by name; what ``"auto"`` says of its search is added to what is judged."""
    if not wants_auto(attacks):
        names = learned_names(listed)
        learned = find_attacks(victims, names, epsilon, budget, n_jobs, seed, deterministic, progress_bar)
        strongest: list[dict[str, Attack]] = [dict(one) for one in learned]
        if Push.name in listed:
            for victim, one in zip(victims, strongest, strict=True):
                one[Push.name] = strongest_push(victim, epsilon, seed, deterministic)
        return strongest
    found = find_auto(victims, epsilon, None, n_jobs, seed, deterministic, progress_bar)
    for agent, searched in zip(judged["agents"].values(), found, strict=True):
        agent["auto"] = searched.told
    return [searched.attacks for searched in found]


def default_output(names: Sequence[str], what: str = "evaluation") -> Path:
    """
    :param names: The agents' names.
    :param what: What is written there.
    :return: ``evaluation-<first agent>-<date>``, with the number of further agents.
    """
    others = f"-and-{len(names) - 1}-more" if len(names) > 1 else ""
    return Path(f"{what}-{file_name(names[0])}{others}-{date.today():%Y-%m-%d}")


def _described(agent: LoadedAgent, within: Within, epsilon: float) -> dict[str, Any]:
    told = describe(agent.model, agent.venv, within, agent)
    if weak := too_weak(agent.model, agent.venv, epsilon, within):
        add_warning(told, weak)
    return told


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
    settings: Mapping[str, Any],
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
        attack = kind(model, epsilon, ball=ball, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SpaceWarning)
        rows = run_trial(origin, model, venv, attack, config, tell)
    tell(0)
    return rows, space_warning(model)


def _worst(report: RobustnessReport, agent: LoadedAgent, found: Mapping[str, Attack], ball: Ball | None) -> Attack:
    """The most damaging attack on an agent at the largest ε."""
    name = str(report.summary()["worst_attack"][agent.name])
    kind: Any = ATTACKS[name]
    attack: Attack = found[name] if name in found else kind(agent.model, report.epsilons[-1], ball=ball)
    return attack
