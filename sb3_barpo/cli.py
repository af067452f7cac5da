"""The command line: ``sb3-barpo`` or ``python -m sb3_barpo``."""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import gymnasium

from sb3_barpo import __version__, zoo
from sb3_barpo.commands import certify, compare, evaluate, pack, tune
from sb3_barpo.demo import ENV, EPSILON, STEPS, demo
from sb3_barpo.lab import command as lab


def main(argv: Sequence[str] | None = None) -> None:
    """
    :param argv: The arguments, by default those of the process.
    :raises SystemExit: with one line, and status 2 for arguments that do not fit, 1 if a study's trials keep failing,
        130 for an interruption.
    """
    parser = _parser()
    given = sys.argv[1:] if argv is None else list(argv)
    if not given:
        parser.print_help()
        return
    args = vars(parser.parse_args(given))
    if "line" in args:
        args["line"] = shlex.join(["sb3-barpo", *given])  # to be written down
    command = args.pop("command")
    try:
        program = command(**args)
    except (ValueError, TypeError, OSError, ImportError, gymnasium.error.Error) as error:
        parser.exit(2, f"sb3-barpo: {error}\n")
    except KeyboardInterrupt as interruption:
        stored = f": {interruption}" if str(interruption) else ""  # what is lost is not promised
        parser.exit(130, f"\nsb3-barpo: interrupted{stored}; rerun the same command to resume\n")
    if program is not None:
        program()  # out here, its own errors keep their tracebacks: it may have trained for hours


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sb3-barpo", description="Adversarially robust PPO for Stable-Baselines3.")
    parser.add_argument("--version", action="version", version=f"sb3-barpo {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_demo(commands)
    evaluate.add(commands)
    certify.add(commands)
    compare.add(commands)
    pack.add(commands)
    tune.add(commands)
    lab.add_to(commands)
    _add_zoo(commands)
    return parser


def _add_demo(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
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
    sub.add_argument("--attacks", nargs="+", default=["all"], help="attacks; random, critic and mad need no training")
    sub.set_defaults(command=_demo)


def _demo(
    env: str, steps: int, epsilon: float, seed: int, output: Path, jobs: int, episodes: int, attacks: list[str]
) -> None:
    report = demo(env, steps, epsilon, seed, output, jobs, episodes, attacks)
    print(f"\n{report.to_markdown()}\n{report.verdict()}\n\nThe report and its pictures: {output / 'report.md'}")


def _add_zoo(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    for name, does in zoo.COMMANDS.items():
        # Without a prefix there are no options, so that the Zoo gets them all, --help included.
        sub = commands.add_parser(name, help=does, add_help=False, prefix_chars="\0")
        sub.add_argument("argv", nargs="*")
        sub.set_defaults(command=_zoo, name=name)


def _zoo(name: str, argv: list[str]) -> Callable[[], None]:
    argv = zoo.prepare(name, argv)
    zoo.check_agent(name, argv)
    return partial(zoo.launch, name, argv)
