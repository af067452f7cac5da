"""``sb3-barpo evaluate``."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sb3_barpo.adversary import Timing
from sb3_barpo.agents.find import WHICH, stem_of
from sb3_barpo.agents.load import LoadedAgent, load_agent
from sb3_barpo.agents.pretrained import load_pretrained
from sb3_barpo.algorithms import ALGORITHMS
from sb3_barpo.attacks import ATTACKS
from sb3_barpo.commands.limits import add_limits, index_of
from sb3_barpo.evaluation.backends import BACKENDS
from sb3_barpo.evaluation.budgets import BUDGETS
from sb3_barpo.evaluation.campaign import BALLS, default_output, evaluate
from sb3_barpo.evaluation.judged import lines
from sb3_barpo.seeds import REPORT


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """:param commands: Where to add the command."""
    sub = commands.add_parser(
        "evaluate",
        help="attack trained agents and write a report",
        description="Attack trained agents of SB3's on-policy algorithms, search for the strongest learned attacks, "
        "and write a report with pictures. Attackers are stored in the output folder; rerun the same command to "
        "resume. Agents are pickled files: load only files that you trust.",
    )
    what = sub.add_argument_group("agents")
    what.add_argument("agents", nargs="*", type=Path, help="files of agents, or their folders")
    what.add_argument(
        "--pretrained",
        nargs="+",
        default=[],
        metavar="NAME",
        help="pretrained agents of this package, such as barpo, on the environment --env",
    )
    what.add_argument("--pretrained-folder", type=Path, help="load pretrained agents from this folder instead")
    what.add_argument("--hub", help="load them from this organisation on the Hugging Face Hub instead")
    what.add_argument("--env", help="environment id (default: read from the records beside the agents)")
    what.add_argument(
        "--which",
        choices=WHICH,
        help="of a folder: the agent at the end of training, or best_robust_model.zip, kept by its worst case, or else "
        "best_model.zip, kept by its return without an attack (default: last)",
    )
    what.add_argument("--names", nargs="+", help="names of the agents in the report (default: from their paths)")
    what.add_argument("--algo", help=f"algorithm, if it cannot be inferred from the files: {', '.join(ALGORITHMS)}")
    what.add_argument(
        "--vec-normalize",
        help="file with the statistics of VecNormalize, or 'none' (default: found beside the agent)",
    )
    what.add_argument("--gym-packages", nargs="+", default=[], help="modules to import, which register environments")
    how = sub.add_argument_group("attacks")
    how.add_argument(
        "--attacks", nargs="+", default=["all"], help=f"all, or some of {', '.join(ATTACKS)} (default: all)"
    )
    how.add_argument(
        "--epsilon",
        type=float,
        nargs="+",
        help="strength, in units of what the policy sees (after VecNormalize: standard deviations); several make a "
        "curve (default: the epsilon that the agents were trained to withstand, without their margin)",
    )
    how.add_argument(
        "--ball", choices=BALLS, help="ball of the attacks (default: the one the agents were trained with)"
    )
    add_limits(how)
    how.add_argument(
        "--sensors",
        metavar="FILE",
        help="spec sheet of the sensors, in place of a ball: attacks stay within their bounds, ε is a share of the "
        "sheet (default: 1), and the report ranks the sensors (default: the sheet that the agents were trained with)",
    )
    how.add_argument(
        "--channels",
        action="store_true",
        help="evaluate under noise, drift, delay, held and lost readings, noise of the actions, other masses and "
        "friction too",
    )
    how.add_argument(
        "--budget", default="standard", help=f"effort for learned attacks: {', '.join(BUDGETS)} (default: standard)"
    )
    how.add_argument("--episodes", type=int, default=50, help="episodes for each attack and strength (default: 50)")
    how.add_argument("--seed", type=int, default=REPORT.start, help="seed of the first episode and of the fits")
    how.add_argument("--n-envs", type=int, default=8, help="number of parallel environments (default: 8)")
    how.add_argument("--stochastic", action="store_true", help="sample the agents' actions")
    how.add_argument("--jobs", type=int, default=1, help="number of processes (default: 1)")
    how.add_argument(
        "--backend",
        choices=BACKENDS,
        default="loky",
        help="where processes run: loky, this machine (default); dask or ray, the cluster that "
        "DASK_SCHEDULER_ADDRESS or RAY_ADDRESS names, whose machines see the output folder",
    )
    written = sub.add_argument_group("report")
    written.add_argument("--output", type=Path, help="folder to write to (default: evaluation-<agent>-<date>)")
    written.add_argument("--html", action="store_true", help="write report.html too, one page with all pictures")
    written.add_argument(
        "--video",
        action="store_true",
        help="write a video of each agent's natural and most damaging attacked episode, side by side; MuJoCo without a "
        "display needs MUJOCO_GL=egl or MUJOCO_GL=osmesa",
    )
    written.add_argument(
        "--mixed-units", action="store_true", help="draw agents with and without VecNormalize on one axis of ε"
    )
    sub.set_defaults(command=_evaluate, line="")


def _evaluate(
    agents: list[Path],
    pretrained: list[str],
    pretrained_folder: Path | None,
    hub: str | None,
    env: str | None,
    which: str | None,
    names: list[str] | None,
    algo: str | None,
    vec_normalize: str | None,
    gym_packages: list[str],
    attacks: list[str],
    epsilon: list[float] | None,
    ball: str | None,
    features: list[str],
    rate_limit: float | None,
    every: int,
    moments: int | None,
    trigger: float,
    sensors: str | None,
    channels: bool,
    budget: str,
    episodes: int,
    seed: int,
    n_envs: int,
    stochastic: bool,
    jobs: int,
    backend: str,
    output: Path | None,
    html: bool,
    video: bool,
    mixed_units: bool,
    line: str,
) -> None:
    n_agents = len(agents) + len(pretrained)
    if not n_agents:
        raise ValueError("There is no agent to evaluate: name files, or pretrained agents by --pretrained.")
    if pretrained and env is None:
        raise ValueError("On which environment are the pretrained agents? Name it by --env, such as Hopper-v5.")
    if names is not None and len(names) != n_agents:
        raise ValueError(f"--names needs one name for each of the {n_agents} agents, but there are {len(names)}.")
    loaded = [load_agent(path, env, n_envs, algo, vec_normalize, which, gym_packages) for path in agents]
    loaded += [load_pretrained(name, str(env), pretrained_folder, hub, n_envs=n_envs) for name in pretrained]
    loaded = [replace(one, name=name) for one, name in zip(loaded, names or distinct_names(loaded), strict=True)]
    output = default_output([agent.name for agent in loaded]) if output is None else output
    report = evaluate(
        loaded,
        attacks,
        epsilon,
        budget,
        output,
        jobs,
        episodes,
        seed,
        not stochastic,
        ball=ball,
        features=[index_of(name, loaded[0]) for name in features],
        timing=Timing(rate_limit, every, moments, trigger),
        backend=backend,
        mixed_units=mixed_units,
        html=html,
        video=video,
        command=line,
        sensors=sensors,
        channels=channels,
    )
    judged = "\n".join(lines(report.judged))
    print(f"\n{judged}\n\n{report.to_markdown()}\n{report.verdict()}\n\nReport: {output / 'report.md'}")


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
