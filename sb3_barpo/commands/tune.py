"""``sb3-barpo tune``."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sb3_barpo.adversary import DEFAULT_SOLVER, solver_spec
from sb3_barpo.algorithms import OURS
from sb3_barpo.commands.settings import parsed, setting
from sb3_barpo.evaluation.budgets import BUDGETS
from sb3_barpo.experiment import Evaluation

if TYPE_CHECKING:
    from sb3_barpo.tuning import StrengthSpace

SOLVER = solver_spec(DEFAULT_SOLVER)


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults, except those that the help text explains."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """:param commands: Where to add the command."""
    sub = commands.add_parser(
        "tune",
        help="search for the settings of a defence",
        description="Search with Optuna for the settings of a defence that suit a task, its strength above all, "
        "confirm the best on fresh seeds under stronger attacks, and write them as an RL Zoo entry and as a script, "
        "with tables and pictures. Rerun the same command to resume. Several machines can work on one study, with the "
        "same --storage and --study-name.",
        formatter_class=_Help,
    )
    what = sub.add_argument_group("what is trained")
    what.add_argument("--algo", default="barpo", help="an algorithm of this package, or ppo: its own settings")
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
        "--trial-seeds", type=int, default=1, help="seeds of training of each trial, which is judged by their means"
    )
    what.add_argument(
        "-params",
        "--hyperparams",
        nargs="+",
        type=setting,
        default=[],
        help="settings of a Zoo entry, name:value each; where PPO's are searched, those of the first trial",
    )
    space = sub.add_argument_group("what is searched")
    space.add_argument("--space", choices=["strength", "ppo+strength"], default="strength", help="PPO's settings too?")
    space.add_argument("--margin-range", type=float, nargs=2, help="times --epsilon; default: 0.5 to 4")
    space.add_argument("--epsilon-range", type=float, nargs=2, help="searched instead of a margin; default: --epsilon")
    space.add_argument("--epsilon-kinds", nargs="+", default=["ramp"], help="kinds of epsilon's schedule")
    for flag, values, more in (
        ("--range", ("LOW", "HIGH"), "a range of one of the defence's own settings: --range kappa 0.1 10"),
        ("--choices", ("VALUE", "..."), "what one of the others may be: --choices attacker sarl"),
        ("--kinds", ("KIND", "..."), "kinds of a setting's schedule: --kinds kappa constant ramp dualkappa"),
    ):
        space.add_argument(flag, action="append", nargs="+", default=[], metavar=("NAME", " ".join(values)), help=more)
    space.add_argument("--returns", type=float, nargs=2, help="of an untrained and of a good agent, for competence")
    space.add_argument("--solvers", nargs="+", help="sgld, pgd; default: the defence's own")
    steps = [SOLVER["n_steps"]] * 2
    space.add_argument("--inner-steps", type=int, nargs=2, default=steps, help="range of the solver's steps")
    judged = sub.add_argument_group("how trials are judged")
    judged.add_argument("--criterion", default="blend", help="blend, floor or pareto")
    judged.add_argument("--weight", type=float, default=0.5, help="weight of the worst case, for blend")
    judged.add_argument("--natural-floor", type=float, help="least natural return, for floor")
    judged.add_argument(
        "--attacks", nargs="+", default=["critic", "mad", "push"], help="learned ones need --adapt-steps"
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
    space = _space(epsilon, args)
    settings = tuning.Tuning(
        agent,
        space,
        Evaluation([epsilon], args["attacks"], args["episodes"]),
        tuning.as_criterion(criterion),
        adapt_steps=args["adapt_steps"],
        ppo=args["space"] == "ppo+strength" or space is None,
        n_seeds=args["trial_seeds"],
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


def _space(epsilon: float, args: Mapping[str, Any]) -> "StrengthSpace | None":
    """What is searched of a defence; ``None`` for PPO, which has none."""
    from sb3_barpo import tuning

    if args["algo"] not in OURS:
        own = ("margin_range", "epsilon_range", "range", "choices", "kinds", "returns", "solvers")
        if useless := [f"--{name.replace('_', '-')}" for name in own if args[name]]:
            raise ValueError(f"{args['algo']} has no defence to search: leave out {', '.join(useless)}.")
        return None
    around = tuning.StrengthSpace.around(epsilon, args["algo"])
    return tuning.StrengthSpace(
        tuple(args["epsilon_range"] or around.epsilon),
        _searched(around.settings, args),
        args["epsilon_kinds"],
        solvers=args["solvers"] or around.solvers,
        returns=args["returns"],
        n_steps=tuple(args["inner_steps"]),
        margin=tuple(args["margin_range"] or ((1.0, 1.0) if args["epsilon_range"] else around.margin)),
    )


def _searched(settings: Mapping[str, Any], args: Mapping[str, Any]) -> dict[str, Any]:
    """The defence's own settings, with what the command line says of them."""
    from sb3_barpo.tuning.spaces import changed

    if wrong := [given for given in args["range"] if len(given) != 3]:
        raise ValueError(f"--range takes a name and two numbers, but got {' '.join(wrong[0])}.")
    ranges = {name: (float(low), float(high)) for name, low, high in args["range"]}
    choices = {name: tuple(map(parsed, values)) for name, *values in args["choices"]}
    return changed(settings, ranges, choices, {name: tuple(kinds) for name, *kinds in args["kinds"]})
