"""
PPO and two variants of BARPO, two seeds each, trained and attacked in two processes, with one report.

Stop it and start it again: what is finished is reused. More seeds and a longer training say more. Needs the extras
``mujoco``, ``zoo`` and ``plots``.
"""

import argparse

from sb3_barpo import compare

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--timesteps", type=int, default=200_000, help="environment steps of training, per agent")
parser.add_argument("--episodes", type=int, default=20, help="episodes per agent and attack")

if __name__ == "__main__":  # where its processes begin, they do not run this
    args = parser.parse_args()
    report = compare(
        ["ppo", "barpo", {"algo": "barpo", "label": "BARPO, margin 2", "margin": 2.0}],
        "InvertedDoublePendulum-v5",
        seeds=[0, 1],
        steps=args.timesteps,
        n_envs=8,
        hyperparams={"n_steps": 128, "batch_size": 256, "learning_rate": "lin_0.001"},
        epsilon=0.05,
        attacks=["random", "critic", "mad"],
        n_eval_episodes=args.episodes,
        output="comparison",
        n_jobs=2,
        progress_bar=True,
    )
    print(report.by_algorithm()[["algorithm", "n_seeds", "natural", "worst_case"]].to_markdown(index=False))
    print("\nProbability that the row's worst case is above the column's:")
    print(report.improvement().to_markdown())
    print("\nThe report and its pictures: comparison/report.md")
