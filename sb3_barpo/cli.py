"""The command line: ``sb3-barpo`` or ``python -m sb3_barpo``."""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium

from sb3_barpo import __version__, zoo
from sb3_barpo.adversary import DEFAULT_SOLVER, solver_spec
from sb3_barpo.commands import certify, compare, evaluate, pack
from sb3_barpo.commands.settings import setting
from sb3_barpo.demo import ENV, EPSILON, STEPS, demo
from sb3_barpo.evaluation.budgets import BUDGETS
from sb3_barpo.experiment import Evaluation
from sb3_barpo.lab import command as lab

SOLVER = solver_spec(DEFAULT_SOLVER)


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
    _add_tune(commands)
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


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults, except those that the help text explains."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def _add_tune(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    sub = commands.add_parser(
        "tune",
        help="search for the schedule of the adversary's strength",
        description="Search with Optuna for the schedules of epsilon and kappa that suit a task, confirm the best on "
        "fresh seeds under stronger attacks, and write them as an RL Zoo entry and as a script, with tables and "
        "pictures. Rerun the same command to resume. Several machines can work on one study, with the same --storage "
        "and --study-name.",
        formatter_class=_Help,
    )
    what = sub.add_argument_group("what is trained")
    what.add_argument("--algo", default="barpo", help="an algorithm with epsilon and kappa")
    what.add_argument("--env", required=True, help="id of a Gymnasium environment")
    what.add_argument("--gym-packages", nargs="+", help="modules to import, which register environments")
    what.add_argument("--epsilon", type=float, help="strength to be robust against; default: the entry's")
    what.add_argument(
        "--sensors", metavar="FILE", help="spec sheet of the sensors; the strength is then a share of it, 1 by default"
    )
    what.add_argument("--steps", type=int, help="environment steps of a trial; default: the entry's")
    what.add_argument("--n-envs", type=int, help="environments of a trial; default: the entry's")
    what.add_argument("--seed", type=int, default=0, help="trial n is trained with this seed + n")
    what.add_argument(
        "-params",
        "--hyperparams",
        nargs="+",
        type=setting,
        default=[],
        help="settings of a Zoo entry, name:value each",
    )
    space = sub.add_argument_group("what is searched")
    space.add_argument("--space", choices=["strength", "ppo+strength"], default="strength", help="PPO's settings too?")
    space.add_argument("--margin-range", type=float, nargs=2, help="times --epsilon; default: 0.5 to 4")
    space.add_argument("--epsilon-range", type=float, nargs=2, help="searched instead of a margin; default: --epsilon")
    space.add_argument("--kappa-range", type=float, nargs=2, default=[0.1, 10.0], help="range of kappa")
    space.add_argument("--epsilon-kinds", nargs="+", default=["ramp"], help="kinds of epsilon's schedule")
    space.add_argument("--kappa-kinds", nargs="+", default=["constant"], help="kinds of kappa's schedule")
    space.add_argument("--solvers", nargs="+", default=[SOLVER["solver"]], help="sgld, pgd")
    steps = [SOLVER["n_steps"]] * 2
    space.add_argument("--inner-steps", type=int, nargs=2, default=steps, help="range of the solver's steps")
    judged = sub.add_argument_group("how trials are judged")
    judged.add_argument("--criterion", default="blend", help="blend, floor or pareto")
    judged.add_argument("--weight", type=float, default=0.5, help="weight of the worst case, for blend")
    judged.add_argument("--natural-floor", type=float, help="least natural return, for floor")
    judged.add_argument(
        "--attacks", nargs="+", default=["random", "critic", "mad"], help="learned ones need --adapt-steps"
    )
    judged.add_argument(
        "--adapt-steps",
        type=int,
        help="steps for which learned attackers, which start from those of the trial before, adapt to a trial at its "
        "end; 10000 is usual",
    )
    judged.add_argument("--pruner", choices=["median", "hyperband"], default="median", help="what stops trials early")
    judged.add_argument("--episodes", type=int, default=20, help="episodes for each attack")
    confirmed = sub.add_argument_group("how the best are confirmed")
    confirmed.add_argument("--confirm", type=int, default=3, help="how many of the best trials to confirm")
    confirmed.add_argument("--confirm-seeds", type=int, default=3, help="number of fresh training seeds for each")
    confirmed.add_argument("--confirm-attacks", nargs="+", default=["all"], help="attacks of the confirmation")
    confirmed.add_argument("--confirm-budget", default="quick", help=f"budget of learned attacks: {', '.join(BUDGETS)}")
    study = sub.add_argument_group("the study")
    study.add_argument("--trials", type=int, default=40, help="number of finished trials; 0: only report on the study")
    study.add_argument("--jobs", type=int, default=1, help="number of processes")
    study.add_argument("--storage", help="journal file, database URL or grpc://host:port; default: in --output")
    study.add_argument("--study-name", default="strength", help="name of the study in the storage")
    study.add_argument("--sampler-seed", type=int, help="makes a study with one process reproducible")
    study.add_argument("--output", type=Path, default=Path("tuning"), help="folder to write to")
    sub.set_defaults(command=_tune)


def _tune(**args: Any) -> None:
    from sb3_barpo import tuning

    kwargs = dict(args["hyperparams"]) | ({} if args["sensors"] is None else {"sensors": args["sensors"]})
    given = {"steps": args["steps"], "n_envs": args["n_envs"], "seed": args["seed"], "kwargs": kwargs}
    given["gym_packages"] = args["gym_packages"]
    agent, usual = tuning.task(args["algo"], args["env"], **given)
    epsilon = usual if args["epsilon"] is None else args["epsilon"]
    if args["criterion"] == "floor" and args["natural_floor"] is None:
        raise ValueError("The criterion floor needs --natural-floor, the least natural return that is allowed.")
    criterion = {"kind": args["criterion"]}
    criterion |= {"blend": {"weight": args["weight"]}, "floor": {"natural": args["natural_floor"]}}.get(
        args["criterion"], {}
    )
    around = tuning.StrengthSpace.around(epsilon)
    settings = tuning.Tuning(
        agent,
        tuning.StrengthSpace(
            tuple(args["epsilon_range"] or around.epsilon),
            tuple(args["kappa_range"]),
            args["epsilon_kinds"],
            args["kappa_kinds"],
            solvers=args["solvers"],
            n_steps=tuple(args["inner_steps"]),
            margin=tuple(args["margin_range"] or ((1.0, 1.0) if args["epsilon_range"] else around.margin)),
        ),
        Evaluation([epsilon], args["attacks"], args["episodes"]),
        tuning.as_criterion(criterion),
        adapt_steps=args["adapt_steps"],
        ppo=args["space"] == "ppo+strength",
        pruner=args["pruner"],
    )
    confirmation = tuning.Confirmation(
        args["confirm"], args["confirm_seeds"], attacks=args["confirm_attacks"], budget=args["confirm_budget"]
    )
    try:
        result = tuning.tune_strength(
            settings,
            args["output"],
            args["trials"],
            args["jobs"],
            args["storage"],
            args["study_name"],
            confirmation,
            args["sampler_seed"],
            progress_bar=True,
        )
    except tuning.TuningError as error:
        sys.exit(f"sb3-barpo: {error}")
    print(f"\n{(args['output'] / 'report.md').read_text(encoding='utf-8').split('![')[0].strip()}\n")
    print(f"Best: {result.best}. Its entry for the RL Zoo: {args['output'] / 'best.yml'}")


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
