"""Options that name trained agents, for all commands that take some."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sb3_barpo.agents.find import WHICH, stem_of
from sb3_barpo.agents.load import LoadedAgent, load_agent
from sb3_barpo.agents.pretrained import load_pretrained
from sb3_barpo.algorithms import ALGORITHMS


def add_agents(group: "argparse._ArgumentGroup") -> None:
    """:param group: Where to add the options."""
    group.add_argument("agents", nargs="*", type=Path, help="files of agents, or their folders")
    group.add_argument(
        "--pretrained",
        nargs="+",
        default=[],
        metavar="NAME",
        help="pretrained agents of this package, such as barpo, on the environment --env",
    )
    group.add_argument("--pretrained-folder", type=Path, help="load pretrained agents from this folder instead")
    group.add_argument("--hub", help="load them from this organisation on the Hugging Face Hub instead")
    group.add_argument("--env", help="environment id (default: read from the records beside the agents)")
    group.add_argument(
        "--which",
        choices=WHICH,
        help="of a folder: the agent at the end of training, or best_robust_model.zip, kept by its worst case, or else "
        "best_model.zip, kept by its return without an attack (default: last)",
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
    pretrained: Sequence[str],
    pretrained_folder: Path | None,
    hub: str | None,
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
    :param pretrained: Names of pretrained agents.
    :param pretrained_folder: Where they are, by default in this package.
    :param hub: The organisation on the Hugging Face Hub that has them.
    :param names: Names of all of them, by default from their paths.
    :return: The agents. The other arguments are those of :func:`sb3_barpo.agents.load.load_agent`.
    :raises ValueError: if there is no agent, not one name for each, or pretrained ones without an environment, and what
        that function raises.
    """
    n_agents = len(paths) + len(pretrained)
    if not n_agents:
        raise ValueError("There is no agent to evaluate: name files, or pretrained agents by --pretrained.")
    if pretrained and env is None:
        raise ValueError("On which environment are the pretrained agents? Name it by --env, such as Hopper-v5.")
    if names is not None and len(names) != n_agents:
        raise ValueError(f"--names needs one name for each of the {n_agents} agents, but there are {len(names)}.")
    loaded = [load_agent(path, env, n_envs, algo, vec_normalize, which, gym_packages) for path in paths]
    loaded += [load_pretrained(name, str(env), pretrained_folder, hub, n_envs=n_envs) for name in pretrained]
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
