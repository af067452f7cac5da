"""``sb3-barpo evaluate``."""

import argparse
from pathlib import Path

from sb3_barpo.adversary import Timing
from sb3_barpo.attacks import ATTACKS
from sb3_barpo.commands.agents import add_agents, load_agents
from sb3_barpo.commands.limits import add_limits, index_of
from sb3_barpo.evaluation.backends import BACKENDS
from sb3_barpo.evaluation.budgets import BUDGETS
from sb3_barpo.evaluation.campaign import default_output, evaluate
from sb3_barpo.evaluation.judged import lines
from sb3_barpo.evaluation.within import BALLS
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
    add_agents(sub.add_argument_group("agents"))
    how = sub.add_argument_group("attacks")
    how.add_argument(
        "--attacks",
        nargs="+",
        default=["auto"],
        help="auto, which searches until a larger budget no longer pays and says whether it does; standard or all, the "
        f"six of the field's tables; or some of {', '.join(ATTACKS)}; random, critic, mad, max_kl and push need no "
        "search, and seconds (default: auto)",
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
        "--budget",
        help=f"effort for learned attacks that are named: {', '.join(BUDGETS)} (default: standard)",
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
    budget: str | None,
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
    loaded = load_agents(
        agents, pretrained, pretrained_folder, hub, env, which, names, algo, vec_normalize, gym_packages, n_envs
    )
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
