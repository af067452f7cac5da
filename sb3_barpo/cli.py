"""The command line: ``sb3-barpo`` or ``python -m sb3_barpo``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import gymnasium

from sb3_barpo import __version__
from sb3_barpo.demo import ENV, EPSILON, STEPS, demo


def main(argv: Sequence[str] | None = None) -> None:
    """
    :param argv: The arguments, by default those of the process.
    :raises SystemExit: with status 2 and one line, for arguments that do not fit.
    """
    parser = _parser()
    args = vars(parser.parse_args(argv))
    command = args.pop("command")
    try:
        command(**args)
    except (ValueError, TypeError, OSError, gymnasium.error.Error) as error:
        parser.exit(2, f"sb3-barpo: {error}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sb3-barpo", description="Adversarially robust PPO for Stable-Baselines3.")
    parser.add_argument("--version", action="version", version=f"sb3-barpo {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    sub = commands.add_parser(
        "demo",
        help="train PPO, ARPO and BARPO, attack all three, report",
        description="Train PPO, ARPO and BARPO side by side, attack all three and write a report with pictures.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    sub.add_argument("--env", default=ENV, help="id of a Gymnasium environment with Box observations")
    sub.add_argument("--steps", type=int, default=STEPS, help="environment steps of training for each agent")
    sub.add_argument("--epsilon", type=float, default=EPSILON, help="strength, in units of normalised observations")
    sub.add_argument("--seed", type=int, default=0, help="seed of training")
    sub.add_argument("--output", type=Path, default=Path("demo"), help="folder to write to")
    sub.add_argument("--jobs", type=int, default=2, help="number of processes")
    sub.add_argument("--episodes", type=int, default=20, help="episodes for each attack and strength")
    sub.set_defaults(command=_demo)
    return parser


def _demo(env: str, steps: int, epsilon: float, seed: int, output: Path, jobs: int, episodes: int) -> None:
    report = demo(env, steps, epsilon, seed, output, jobs, episodes)
    print(f"\n{report.to_markdown()}\n{report.verdict()}\n\nThe report and its pictures: {output / 'report.md'}")
