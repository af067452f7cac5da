"""``sb3-barpo compare``."""

import argparse
import sys
from pathlib import Path
from typing import Any

from sb3_barpo.commands.settings import setting
from sb3_barpo.evaluation.budgets import BUDGETS
from sb3_barpo.seeds import REPORT


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """:param commands: Where to add the command."""
    sub = commands.add_parser(
        "compare",
        help="train and attack several algorithms on several tasks and seeds, report",
        description="Train several algorithms on several tasks with several seeds, attack all agents in the same way, "
        "and write one report: tables in Markdown, CSV and LaTeX, and pictures. Settings come from the packaged "
        "entries. Rerun the same command to resume, with --report-only to see what is finished.",
    )
    sub.add_argument(
        "algorithms",
        nargs="*",
        metavar="ALGORITHM",
        help="algorithms, such as ppo barpo sappo; or a file of settings, .yml or .json, which can also name variants "
        "and trained agents; options of the command line come before those of the file",
    )
    what = sub.add_argument_group("what is trained")
    what.add_argument("--env", nargs="+", help="ids of environments")
    what.add_argument("--seeds", type=int, nargs="+", help="seeds of training (default: 0 1 2)")
    what.add_argument("--steps", type=float, help="environment steps of each agent (default: the entry's)")
    what.add_argument("--n-envs", type=int, help="environments of training (default: the entry's)")
    what.add_argument("--gym-packages", nargs="+", help="modules to import, which register environments")
    what.add_argument(
        "-params",
        "--hyperparams",
        nargs="+",
        type=setting,
        help="settings of all algorithms, name:value each; one that only some of them know goes to those",
    )
    how = sub.add_argument_group("attacks")
    how.add_argument("--attacks", nargs="+", help="names of attacks (default: all)")
    how.add_argument("--budget", help=f"effort for learned attacks: {', '.join(BUDGETS)} (default: standard)")
    how.add_argument(
        "--epsilon",
        type=float,
        nargs="+",
        help="strength to be withstood: of the attacks, and of training at its end; one for all tasks, or one for each "
        "in the order of --env (default: the entry's)",
    )
    how.add_argument(
        "--sensors",
        metavar="FILE",
        help="spec sheet of the sensors: training and all attacks stay within it, and --epsilon is a share of it "
        "(default: 1)",
    )
    how.add_argument("--episodes", type=int, help="episodes for each attack (default: 50)")
    how.add_argument("--eval-seed", type=int, help=f"seed of the first episode (default: {REPORT.start})")
    run = sub.add_argument_group("run and report")
    run.add_argument("--jobs", type=int, default=1, help="number of processes (default: 1)")
    run.add_argument("--output", type=Path, default=Path("comparison"), help="folder to write to (default: comparison)")
    run.add_argument("--report-only", action="store_true", help="train nothing; report on what is finished")
    sub.set_defaults(command=_compare, line="")


def _compare(**args: Any) -> None:
    from sb3_barpo.comparison import compare, from_file, tables
    from sb3_barpo.comparison.run import FailedAgentsError

    settings: dict[str, Any] = {}
    files = [name for name in args["algorithms"] if Path(name).suffix in (".yml", ".yaml", ".json")]
    if files and len(args["algorithms"]) > 1:
        raise ValueError(
            f"Name algorithms or one file of settings, but there are {', '.join(args['algorithms'])}. The file can "
            "name the algorithms."
        )
    if files:
        settings = from_file(files[0])
    elif args["algorithms"]:
        settings["algorithms"] = args["algorithms"]
    names = ("env", "seeds", "n_envs", "gym_packages", "attacks", "budget", "eval_seed", "sensors")
    settings |= {name: args[name] for name in names if args[name] is not None}
    if args["episodes"] is not None:
        settings["n_eval_episodes"] = args["episodes"]
    if args["steps"] is not None:
        settings["steps"] = int(args["steps"])
    if args["hyperparams"] is not None:
        settings["hyperparams"] = {**settings.get("hyperparams", {}), **dict(args["hyperparams"])}
    if args["epsilon"] is not None:
        settings["epsilon"] = _by_env(args["epsilon"], settings.get("env", []))
    try:
        report = compare(
            **settings,
            output=args["output"],
            n_jobs=args["jobs"],
            report_only=args["report_only"],
            progress_bar=True,
            command=args["line"],
        )
    except TypeError as error:
        known = "" if not files else f" Is each key of {files[0]!r} an argument of compare?"
        raise TypeError(f"{error}.{known}") from error
    except FailedAgentsError as error:
        sys.exit(f"sb3-barpo: {error}")
    print(f"\n{tables.by_algorithm(report)}\n\nReport: {args['output'] / 'report.md'}")


def _by_env(epsilon: list[float], envs: list[str]) -> float | dict[str, float]:
    if len(epsilon) == 1:
        return epsilon[0]
    if len(epsilon) != len(envs):
        raise ValueError(
            f"--epsilon needs one strength, or one for each of the {len(envs)} environments, but there are "
            f"{len(epsilon)}."
        )
    return dict(zip(envs, epsilon, strict=True))
