"""What ``sb3-barpo evaluate`` does: search for the attacks on each agent, attack, and write the report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch as th
from joblib import Parallel, delayed
from tqdm import tqdm

from sb3_barpo.agents.load import LoadedAgent
from sb3_barpo.agents.pack import pack, unpack
from sb3_barpo.attacks import ATTACKS, Attack, LearnedAttack, attack_names
from sb3_barpo.evaluation import RobustnessReport
from sb3_barpo.evaluation.plots import plot_trace
from sb3_barpo.evaluation.robustness import check_settings, learned_names, origin_of, run_trial
from sb3_barpo.evaluation.rows import COLUMNS, Origin
from sb3_barpo.evaluation.search import Victim, find_attacks, members_tried
from sb3_barpo.evaluation.settings import EvalConfig
from sb3_barpo.evaluation.trace import trace_episode


def evaluate(
    agents: Sequence[LoadedAgent],
    attacks: Sequence[str] = ("all",),
    epsilon: Sequence[float] = (0.075,),
    budget: str = "standard",
    output: str | Path = "report",
    n_jobs: int = 1,
    n_eval_episodes: int = 50,
    seed: int = 10_000,
    deterministic: bool = True,
    progress_bar: bool = True,
) -> RobustnessReport:
    """
    Search for the strongest attacks on each agent, attack, and write ``report.md``, ``report.csv``, ``report.json``,
    ``returns.png``, ``epsilon.png``, ``episode-<agent>.png``, every attacker into ``attacks/<agent>/``, and how they
    compare into ``attackers.csv``. Attackers that lie there already are found again.

    :param agents: The agents; their names must differ.
    :param attacks: Names of attacks, or ``"all"``.
    :param epsilon: Strengths. For a single one, a third and two thirds of it are added, for the curve. Learned attacks
        are fitted at the largest and used at all.
    :param budget: How hard to search for learned attacks.
    :param output: Folder to write to.
    :param n_jobs: Number of processes.
    :param n_eval_episodes: Episodes for each attack and strength.
    :param seed: Seed of the first episode and of the fits.
    :param deterministic: Whether the agents take their most likely action.
    :param progress_bar: Whether to show the progress.
    :return: The report on all agents.
    :raises ValueError: for a setting out of range, an unknown attack or budget, or two agents of one name.
    :raises OSError: if the folder cannot be written.
    """
    if not agents:
        raise ValueError("There is no agent to evaluate: name at least one.")
    check_settings(attacks, epsilon, budget)
    config = EvalConfig(n_eval_episodes, seed, deterministic)
    listed = [str(name) for name in attack_names(attacks)]
    names = [agent.name for agent in agents]
    if len(set(names)) < len(names):
        raise ValueError(f"Each agent needs a name of its own, but they are called {', '.join(names)}. Give names.")
    output = Path(output)
    strengths = _strengths(epsilon)
    folders = [output / "attacks" / agent.name for agent in agents]
    victims = [Victim(agent.model, agent.venv, folder) for agent, folder in zip(agents, folders, strict=True)]
    learned = find_attacks(
        victims, learned_names(listed), strengths[-1], budget, n_jobs, seed, deterministic, progress_bar
    )
    tasks: list[tuple[bytes, Origin, str | None, Path | None, float]] = []
    for agent, folder, found in zip(agents, folders, learned, strict=True):
        content, origin = pack(agent.model, agent.venv), origin_of(agent.model, agent.name)
        tasks.append((content, origin, None, None, 0.0))
        for name in listed:
            path = None
            if name in found:
                path = folder / f"{name}.zip"  # the strongest, under a plain name
                found[name].save(path)
            tasks += [(content, origin, name, path, strength) for strength in strengths]
    waiting = (delayed(_trial)(*task, config) for task in tasks)
    results = Parallel(n_jobs, return_as="generator")(waiting)
    rows = [row for some in tqdm(results, "attacks", len(tasks), disable=not progress_bar) for row in some]
    report = RobustnessReport(pd.DataFrame(rows, columns=COLUMNS))
    if any(learned):
        tried = {agent.name: members_tried(folder) for agent, folder in zip(agents, folders, strict=True)}
        pd.concat(tried, names=["agent", None]).reset_index("agent").to_csv(output / "attackers.csv", index=False)
    _write(report, agents, learned, output, config)
    return report


def _strengths(epsilon: Sequence[float]) -> list[float]:
    if len(epsilon) > 1:
        return sorted(epsilon)
    return [*(float(f"{epsilon[0] * share:.3g}") for share in (1 / 3, 2 / 3)), epsilon[0]]


def _trial(
    content: bytes,
    origin: Origin,
    name: str | None,
    path: Path | None,
    epsilon: float,
    config: EvalConfig,
) -> list[tuple[Any, ...]]:
    th.set_num_threads(1)  # processes share the cores; more threads slow small networks down
    model, venv = unpack(content)
    attack: Attack | None = None
    if path is not None:
        attack = LearnedAttack.load(path, model).at(epsilon)
    elif name is not None:
        attack = ATTACKS[name](model, epsilon)
    return run_trial(origin, model, venv, attack, config)


def _write(
    report: RobustnessReport,
    agents: Sequence[LoadedAgent],
    learned: Sequence[Mapping[str, LearnedAttack]],
    output: Path,
    config: EvalConfig,
) -> None:
    report.to_csv(output / "report.csv")
    report.to_json(output / "report.json")
    report.plot(output / "returns.png")
    report.plot_epsilon(output / "epsilon.png")
    worst = report.summary()["worst_attack"]
    pictures = ["returns.png", "epsilon.png"]
    for agent, found in zip(agents, learned, strict=True):
        name = str(worst[agent.name])
        attack = found[name] if name in found else ATTACKS[name](agent.model, report.epsilons[-1])
        natural, attacked = (
            trace_episode(agent.model, agent.venv, one, config.seed, config.deterministic) for one in (None, attack)
        )
        title = f"{agent.name} under {name} at ε = {report.epsilons[-1]:g}, seed {config.seed}"
        pictures.append(f"episode-{agent.name}.png")
        plot_trace(natural, attacked, title).savefig(output / pictures[-1])
    shown = "\n\n".join(f"![{Path(picture).stem}]({picture})" for picture in pictures)
    (output / "report.md").write_text(
        f"# Under attack\n\n{report.verdict()}\n\n{shown}\n\n{report.to_markdown()}\n{_attackers(agents, learned)}",
        encoding="utf-8",
    )


def _attackers(agents: Sequence[LoadedAgent], learned: Sequence[Mapping[str, LearnedAttack]]) -> str:
    """What was learned, where it lies, and what its figures at smaller strengths mean."""
    lines = [
        f"- `attacks/{agent.name}/{name}.zip`: {attack.origin.total_timesteps} steps at ε = {attack.origin.epsilon:g}"
        for agent, found in zip(agents, learned, strict=True)
        for name, attack in found.items()
        if attack.origin is not None
    ]
    if not lines:
        return ""
    return (
        "Learned attacks were fitted at the largest ε, each the strongest of its grid on other episodes than these; at "
        "a smaller ε the same attackers were scaled down. How the members compare is in `attackers.csv`. The strongest "
        "can be loaded again:\n\n" + "\n".join(lines) + "\n"
    )
