"""
All defences on two tasks, three seeds: natural return and the worst of six attacks, with the same budget for all.

    make bench BENCH=defences_table BENCH_ARGS="--jobs 2"

Nobody's settings were tuned for these tasks. PPO's are the same for all; of a defence's own, Hopper-v5 has those of the
published code where there are any, and InvertedDoublePendulum-v5 the algorithm's defaults. Smoothed policies see noise
of four times ε, as the published one of Hopper; RADIAL-PPO has its published schedule, a quarter of training without a
ball. Seed 0 of all comes first.

A run that was killed is resumed by the same command. Writes ``<output>/<task>.csv``, one row an episode, and
``<output>/table.md`` after each agent of a task and seed.
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sb3_barpo.evaluation import RobustnessReport, tables
from sb3_barpo.experiment import Agent, Evaluation, run

#: By label: the algorithm, and the arguments that make it what the label says.
DEFENCES: dict[str, tuple[str, dict[str, Any]]] = {
    "ppo": ("ppo", {}),
    "barpo": ("barpo", {}),
    "barpo-kappa-0": ("barpo", {"kappa": 0.0}),
    "barpo-margin-2": ("barpo", {"margin": 2.0}),
    "arpo": ("arpo", {}),
    "sappo": ("sappo", {}),
    "carppo": ("carppo", {}),
    "radialppo": ("radialppo", {}),
    "wocarppo": ("wocarppo", {}),
    "sappo_convex": ("sappo_convex", {}),
    "atla": ("atla", {}),
    # Published with SA-PPO's penalty.
    "atla-paad": ("atla", {"attacker": "paad", "weight": 0.6}),
    "sppo": ("sppo", {}),
    "barpo-smoothed": ("barpo", {"policy": "SmoothedMlpPolicy"}),
}

#: Of Hopper-v5.
POLICY = {"log_std_init": -1.0}
PPO = {"n_steps": 256, "batch_size": 256, "learning_rate": "lin_0.001"}


@dataclass(frozen=True)
class Task:
    """
    :param steps: Environment steps of the agent.
    :param epsilon: Strength of the attacks, and of training at its end.
    :param ppo: Settings of PPO.
    :param own: Settings of the defences, by label.
    :param noise: Standard deviation of the noise of smoothed policies.
    """

    steps: int
    epsilon: float
    ppo: dict[str, Any]
    noise: float
    own: dict[str, dict[str, Any]] = field(default_factory=dict)

    def settings(self, label: str) -> dict[str, Any]:
        """:return: The algorithm's arguments."""
        algo, what = DEFENCES[label]
        strength = {} if algo == "ppo" else {"epsilon": f"ramp_{self.epsilon:g}"}
        if algo == "radialppo":
            strength = {"epsilon": f"constant_0 > 0.25 > smooth_{self.epsilon:g}_0.6667_0.25"}
        settings = self.ppo | strength | what | self.own.get(label, {})
        if "sppo" in algo or "Smoothed" in settings.get("policy", ""):
            settings["policy_kwargs"] = settings.get("policy_kwargs", {}) | {"noise_std": self.noise}
        return settings


TASKS = {
    "InvertedDoublePendulum-v5": Task(200_000, 0.025, PPO, 0.1),
    "Hopper-v5": Task(
        500_000,
        0.075,
        PPO | {"max_grad_norm": 10.0, "policy_kwargs": POLICY},
        0.3,
        {
            "sappo": {"weight": 2.0},
            "sppo": {"weight": 2.0},
            "sappo_convex": {"weight": 0.2},
            "carppo": {"weight": 1.0, "temperature": 100.0},
            "wocarppo": {"weight": "linear_0_0.8", "penalty": 0.2},
        },
    ),
}


def agents(env: str, seed: int, steps: int | None) -> list[Agent]:
    """:return: All defences on a task."""
    task, found = TASKS[env], []
    for label, (algo, _) in DEFENCES.items():
        name, kwargs = f"{label}-seed{seed}", task.settings(label)
        found.append(Agent(name, algo, env, seed, steps or task.steps, n_envs=8, kwargs=kwargs, label=label))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/defences_table"))
    parser.add_argument("--jobs", type=int, default=1, help="number of processes")
    parser.add_argument("--steps", type=int, help="environment steps of each agent, by default the task's")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=20, help="of each attack")
    parser.add_argument("--attacks", nargs="+", default=["all"])
    parser.add_argument("--budget", default="quick", help="of the attacks that are learned")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    args = parser.parse_args()
    reports: dict[str, list[RobustnessReport]] = {env: [] for env in args.tasks}
    for seed in range(args.seeds):
        for env, found in reports.items():
            evaluation = Evaluation([TASKS[env].epsilon], args.attacks, args.episodes, budget=args.budget)
            waiting = agents(env, seed, args.steps)
            for i in range(0, len(waiting), args.jobs):
                found.append(run(waiting[i : i + args.jobs], evaluation, args.output / "agents" / env, args.jobs))
                RobustnessReport.merge(found).to_csv(args.output / f"{env}.csv")
                (args.output / "table.md").write_text(table(reports, args), encoding="utf-8")
    print(table(reports, args))


def table(reports: dict[str, list[RobustnessReport]], args: argparse.Namespace) -> str:
    """What there is so far: for each task one row a defence, then one an agent."""
    parts = []
    for env, found in reports.items():
        if not found:
            continue
        steps, report = args.steps or TASKS[env].steps, RobustnessReport.merge(found)
        parts.append(f"## {env}, {steps:,} steps\n")
        if seeds := tables.by_algorithm(report):  # two seeds at least
            parts.append(f"{seeds}\n\n{tables.by_algorithm_legend(report)}\n")
        parts.append(
            f"{report.to_markdown()}\nLearned attacks are searched for with the budget `{args.budget}`. ATLA's "
            "environments make twice the steps, those of its attacker's turn.\n"
        )
    return "\n".join(parts)


if __name__ == "__main__":
    main()
