"""Options that name trained agents, for all commands that take some."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sb3_barpo.agents.find import WHICH, stem_of
from sb3_barpo.agents.load import LoadedAgent, load_agent
from sb3_barpo.algorithms import ALGORITHMS


def add_agents(group: "argparse._ArgumentGroup") -> None:
    """:param group: Where to add the options."""
    group.add_argument("agents", nargs="+", type=Path, help="files of agents, or their folders")
    group.add_argument("--env", help="environment id (default: read from the records beside the agents)")
    group.add_argument(
        "--which",
        choices=WHICH,
        help="of a folder: the agent at the end of training or best_model.zip, which is kept by its return without an "
        "attack (default: last)",
    )
    group.add_argument("--names", nargs="+", help="names of the agents in the report (default: from their paths)")
    group.add_argument("--algo", help=f"algorithm, if it cannot be inferred from the files: {', '.join(ALGORITHMS)}")
    group.add_argument(
        "--vec-normalize",
        help="file with the statistics of VecNormalize, or 'none' (default: found beside the agent)",
    )
    group.add_argument("--gym-packages", nargs="+", default=[], help="modules to import, which register environments")


def load_agents(
    paths: Sequence[Path],
    env: str | None,
    which: str | None,
    names: Sequence[str] | None,
    algo: str | None,
    vec_normalize: str | None,
    gym_packages: Sequence[str],
    n_envs: int,
) -> list[LoadedAgent]:
    """
    :param paths: Files of agents, or their folders.
    :param names: Their names, by default from their paths.
    :return: The agents. The other arguments are those of :func:`sb3_barpo.agents.load.load_agent`.
    :raises ValueError: if there is not one name for each, and what that function raises.
    """
    if names is not None and len(names) != len(paths):
        raise ValueError(f"--names needs one name for each of the {len(paths)} agents, but there are {len(names)}.")
    loaded = [load_agent(path, env, n_envs, algo, vec_normalize, which, gym_packages) for path in paths]
    return [replace(one, name=name) for one, name in zip(loaded, names or distinct_names(loaded), strict=True)]


def distinct_names(agents: Sequence[LoadedAgent]) -> list[str]:
    """
    :param agents: Agents from files.
    :return: Their names, those that several share lengthened by as many folders as tell them apart.
    """
    names = [agent.name for agent in agents]
    return [
        name if names.count(name) == 1 else _longer(agent, [one for one in agents if one.name == name])
        for agent, name in zip(agents, names, strict=True)
    ]


def _longer(agent: LoadedAgent, alike: Sequence[LoadedAgent]) -> str:
    def parts(one: LoadedAgent, with_stem: bool) -> list[str]:
        folder = list(one.file.resolve().parent.parts[1:])
        return [*folder, stem_of(one.file)] if with_stem else folder

    folders = {tuple(parts(one, False)) for one in alike}
    with_stem = len(folders) < len(alike) or agent.name == stem_of(agent.file)
    others = [parts(one, with_stem) for one in alike if one is not agent]
    own = parts(agent, with_stem)
    length = next((n for n in range(1, len(own) + 1) if all(other[-n:] != own[-n:] for other in others)), len(own))
    return "/".join(own[-max(length, 2) :])
