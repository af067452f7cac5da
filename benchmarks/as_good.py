"""
Does a faster update train agents as good? BARPO on two tasks, five seeds, to be run by two versions of the package.

    make bench BENCH=as_good BENCH_ARGS="--output benchmarks/as_good/after"

Rows are ``<output>/<task>.csv``, one an episode. A run that was killed is resumed by the same command.
"""

import argparse
from pathlib import Path

from sb3_barpo.experiment import Agent, Evaluation, run

#: Settings of PPO with which both tasks learn, and the strength of training and evaluation.
TASKS = {
    "InvertedDoublePendulum-v5": (
        200_000,
        0.05,
        {
            "n_steps": 256,
            "batch_size": 256,
            "learning_rate": "lin_0.001",
            "epsilon": "ramp_0.045_0.21_0.12",
            "kappa": 3.0,
        },
    ),
    "Hopper-v5": (
        500_000,
        0.075,
        {
            "n_steps": 256,
            "batch_size": 256,
            "learning_rate": "lin_0.001",
            "max_grad_norm": 10.0,
            "policy_kwargs": {"log_std_init": -1.0},
            "epsilon": "ramp_0.075",
        },
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/as_good/after"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    for env, (steps, epsilon, kwargs) in TASKS.items():
        agents = [
            Agent(f"barpo-seed{seed}", "barpo", env, seed, steps, n_envs=8, kwargs=kwargs) for seed in range(args.seeds)
        ]
        evaluation = Evaluation([epsilon], ["random", "critic", "mad", "paad"], n_eval_episodes=20)
        report = run(agents, evaluation, args.output / "agents" / env, args.jobs)
        report.to_csv(args.output / f"{env}.csv")
        print(f"{env}\n{report.to_markdown()}\n{report.verdict()}\n", flush=True)


if __name__ == "__main__":
    main()
