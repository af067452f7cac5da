"""
All defences on two tasks, each tuned with the same small budget: natural return and the worst of six attacks.

    python benchmarks/defences_table.py --jobs 2

1. Tuning: for each defence and task a few short trials, of which the first has the published setting, judged by MAD and
   by a PA-AD that adapts to each trial. PPO has nothing to tune. ``tuned.csv`` has every trial.
2. The best settings of each, trained for longer on three seeds and attacked, by ``sb3_barpo.comparison.compare``:
   ``report.md``, its tables and pictures. PPO's own settings are the same for all.

The convex form of SA-PPO is left out for time: its update costs seven times PPO's.

A killed run is resumed by the same command: trials that are in ``tuned.csv`` and agents that are in the rows are not
run again. ``--report-only`` runs nothing.
"""

import argparse
import json
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from sb3_barpo.comparison import compare, tables
from sb3_barpo.experiment import Evaluation
from sb3_barpo.tuning import Confirmation, StrengthSpace, Tuning, tune_strength
from sb3_barpo.tuning.confirm import candidate
from sb3_barpo.tuning.spaces import changed
from sb3_barpo.tuning.strength import merged
from sb3_barpo.tuning.study import finished
from sb3_barpo.tuning.tune import task

HERE = Path(__file__).parent / "defences_table"
#: By label: the algorithm, and which choices of its search are made beforehand.
DEFENCES: dict[str, tuple[str, dict[str, tuple[Any, ...]]]] = {
    "BARPO": ("barpo", {}),
    "ARPO": ("arpo", {}),
    "SA-PPO": ("sappo", {}),
    "CAR-PPO": ("carppo", {}),
    "RADIAL-PPO": ("radialppo", {}),
    "WocaR-PPO": ("wocarppo", {}),
    "ATLA": ("atla", {}),  # SA-RL or PA-AD as the attacker: tuned too
    "S-PPO": ("sppo", {"policy_kwargs.n_draws": (10,)}),  # for time; the pendulum's had the published 20
}
#: PPO's settings, of all alike.
PPO = {
    "n_steps": 256,
    "batch_size": 256,
    "learning_rate": "lin_0.001",
    "max_grad_norm": 10.0,
    "policy_kwargs": {"log_std_init": -1.0},
}
N_ENVS = 8
#: Seed of the first trial; the agents of the table have 0, 1, ...
FIRST_TRIAL = 100


@dataclass(frozen=True)
class Task:
    """
    :param epsilon: What is to be withstood.
    :param trial: Environment steps of a trial.
    :param steps: Of an agent of the table.
    """

    epsilon: float
    trial: int
    steps: int


TASKS = {
    "InvertedDoublePendulum-v5": Task(0.035, 100_000, 200_000),
    "Hopper-v5": Task(0.075, 300_000, 300_000),  # after 100,000 steps no trial walks: nothing to choose by
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=HERE)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS, metavar="ENV")
    parser.add_argument("--trials", type=int, default=5, help="for each defence and task")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=20, help="of each attack")
    parser.add_argument("--jobs", type=int, default=1, help="number of processes")
    parser.add_argument("--report-only", action="store_true", help="tune, train and attack nothing")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    found = [tuned(label, env, args) for env in args.tasks for label in DEFENCES]
    report = compare(
        [{"algo": "ppo", "label": "PPO"}, *(variant(label, found) for label in DEFENCES)],
        args.tasks,
        seeds=range(args.seeds),
        steps={env: TASKS[env].steps for env in args.tasks},
        n_envs=N_ENVS,
        hyperparams=PPO | {"normalize": True},
        epsilon={env: TASKS[env].epsilon for env in args.tasks},
        budget="quick",
        n_eval_episodes=args.episodes,
        output=args.output,
        n_jobs=args.jobs,
        report_only=args.report_only,
        progress_bar=True,
        command=shlex.join(["python", "benchmarks/defences_table.py", *sys.argv[1:]]),
    )
    print(tables.by_algorithm(report))


def tuned(label: str, env: str, args: argparse.Namespace) -> dict[str, Any]:
    """The best trial of a defence on a task, as a row of ``tuned.csv``; run now, if it is not there."""
    file = args.output / "tuned.csv"
    rows = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=["env", "defence"])
    mine = rows[(rows["env"] == env) & (rows["defence"] == label)]
    if len(mine) < args.trials:
        if args.report_only:
            raise SystemExit(f"error: {file} has {len(mine)} trials of {label} on {env}; run it without --report-only")
        mine = search(label, env, args)
        others = rows[(rows["env"] != env) | (rows["defence"] != label)]
        pd.concat([others, mine]).to_csv(file, index=False)
    return dict(mine[mine["best"]].iloc[0])


def search(label: str, env: str, args: argparse.Namespace) -> pd.DataFrame:
    """Tune a defence on a task. :return: One row a trial."""
    algo, choices = DEFENCES[label]
    here = TASKS[env]
    agent, _ = task(algo, env, seed=FIRST_TRIAL, steps=here.trial, n_envs=N_ENVS, normalize=True,
                    kwargs=dict(PPO))  # fmt: skip
    space = StrengthSpace.around(here.epsilon, algo)
    space = replace(space, settings=changed(space.settings, {}, choices, {}))
    evaluation = Evaluation([here.epsilon], ["mad", "paad"], n_eval_episodes=10)
    tuning = Tuning(agent, space, evaluation, adapt_steps=10_000)
    folder = args.output / "studies" / env / label.lower()
    result = tune_strength(tuning, folder, args.trials, args.jobs, confirmation=Confirmation(top=0), seed=0)
    return pd.DataFrame(
        {
            "env": env,
            "defence": label,
            "trial": candidate(trial),
            "natural": trial.user_attrs["natural"],
            "worst_case": trial.user_attrs["worst_case"],
            "attack": trial.user_attrs["worst_attack"],
            "best": candidate(trial) == result.best,
            "settings": json.dumps(tuning.suggest(trial)),
        }
        for trial in finished(result.study)
        if "natural" in trial.user_attrs
    )


def variant(label: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    """A defence for ``compare``, with the settings of each task."""
    settings: dict[str, dict[str, Any]] = {}
    for row in found:
        if row["defence"] == label:
            # Of what all share, policy_kwargs may get a setting of the defence.
            mine = merged({"policy_kwargs": PPO["policy_kwargs"]}, json.loads(row["settings"]))
            for name, value in mine.items():
                settings.setdefault(name, {})[row["env"]] = value
    return {"algo": DEFENCES[label][0], "label": label, **settings}


if __name__ == "__main__":
    main()
