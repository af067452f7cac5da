"""``sb3-barpo certify``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from sb3_barpo.attacks import ATTACKS, LearnedAttack
from sb3_barpo.commands.agents import add_agents, load_agents
from sb3_barpo.evaluation.campaign import default_output
from sb3_barpo.evaluation.certification import Smoothing, certify
from sb3_barpo.evaluation.certified_pages import actions_table, returns_table
from sb3_barpo.evaluation.judged import lines
from sb3_barpo.seeds import REPORT


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """:param commands: Where to add the command."""
    sub = commands.add_parser(
        "certify",
        help="certify what trained agents do and earn under every attack",
        description="Bound what agents do in the states that they visit, whatever an attack makes of them, and with "
        "--return what they earn when they smooth their observations; each beside what attacks achieve. Agents are "
        "pickled files: load only files that you trust.",
    )
    add_agents(sub.add_argument_group("agents"))
    how = sub.add_argument_group("certificates")
    how.add_argument(
        "--epsilon",
        type=float,
        nargs="+",
        help="strength, in units of what the policy sees (after VecNormalize: standard deviations); several make a "
        "curve (default: the epsilon that the agents were trained to withstand, without their margin)",
    )
    how.add_argument("--states", type=int, default=1_000, help="number of visited states (default: 1000)")
    how.add_argument("--seed", type=int, default=REPORT.start, help="seed of the first episode")
    how.add_argument("--n-envs", type=int, default=8, help="number of parallel environments (default: 8)")
    smoothed = sub.add_argument_group("returns")
    smoothed.add_argument("--return", action="store_true", dest="returns", help="certify returns too; needs --sigma")
    smoothed.add_argument(
        "--sigma", type=float, help="standard deviation of the noise on observations, in the units of epsilon"
    )
    smoothed.add_argument(
        "--radius",
        type=float,
        nargs="+",
        help="L2 norm of all perturbations of an episode together (default: several, up to what the number of episodes "
        "allows)",
    )
    smoothed.add_argument("--quantiles", type=float, nargs="+", default=[0.5, 0.1], help="default: 0.5 0.1")
    smoothed.add_argument("--episodes", type=int, default=1_000, help="episodes of the certificate (default: 1000)")
    smoothed.add_argument("--confidence", type=float, default=0.95, help="confidence of a bound (default: 0.95)")
    plain = [name for name, kind in ATTACKS.items() if not issubclass(kind, LearnedAttack)]
    smoothed.add_argument(
        "--attacks",
        nargs="+",
        default=["random", "critic", "mad"],
        help=f"attacks on the smoothed agent, some of {', '.join(plain)} (default: random critic mad)",
    )
    smoothed.add_argument("--attacked-episodes", type=int, default=100, help="episodes for each (default: 100)")
    sub.add_argument_group("report").add_argument(
        "--output", type=Path, help="folder to write to (default: certificates-<agent>-<date>)"
    )
    sub.set_defaults(command=_certify, line="")


def _certify(
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
    epsilon: Sequence[float] | None,
    states: int,
    seed: int,
    n_envs: int,
    returns: bool,
    sigma: float | None,
    radius: list[float] | None,
    quantiles: list[float],
    episodes: int,
    confidence: float,
    attacks: list[str],
    attacked_episodes: int,
    output: Path | None,
    line: str,
) -> None:
    smoothing = None
    if returns != (sigma is not None):
        raise ValueError(
            "--return and --sigma go together: returns are certified for an agent that adds noise to its observations. "
            "0.1 is usual after VecNormalize."
        )
    if sigma is not None:
        smoothing = Smoothing(sigma, radius, quantiles, episodes, confidence, attacks, attacked_episodes)
    loaded = load_agents(
        agents, pretrained, pretrained_folder, hub, env, which, names, algo, vec_normalize, gym_packages, n_envs
    )
    output = default_output([agent.name for agent in loaded], "certificates") if output is None else output
    found = certify(loaded, epsilon, smoothing, output, states, seed, line)
    tables = [actions_table(found), *([returns_table(found)] if found.returns else [])]
    print("\n".join(lines(found.judged)), *tables, f"Report: {output / 'report.md'}", sep="\n\n")
