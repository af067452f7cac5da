"""
The lab's picture for a deep agent: Hopper's returns on the plane through the start of a training and where ARPO and
BARPO, which began there, ended. The ends are agents of ``hopper.py``, found in ``hopper/agents``.

    python benchmarks/landscape.py --jobs 2

Each point is stored when it is finished and found again. Writes ``landscape/hopper.csv`` and
``docs/_static/lab-hopper.png``.
"""

import argparse
from pathlib import Path

from sb3_barpo.agents.load import LoadedAgent, load_agent
from sb3_barpo.experiment import Agent, make_model
from sb3_barpo.lab.landscape import landscape

HERE = Path(__file__).parent
ENV = "Hopper-v5"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=2, help="seed of the agents' training")
    parser.add_argument("--points", type=int, default=21, help="along each side")
    parser.add_argument("--episodes", type=int, default=8, help="for each attack, at each point")
    parser.add_argument("--jobs", type=int, default=1, help="number of processes")
    parser.add_argument("--output", type=Path, default=HERE / "landscape")
    args = parser.parse_args()

    # All algorithms draw the same first weights from the same seed.
    model = make_model(Agent("start", "ppo", ENV, args.seed, steps=1, n_envs=args.episodes))
    assert model.env is not None
    ends = [
        load_agent(HERE / "hopper" / "agents" / f"{algo}-seed{args.seed}", ENV, args.episodes)
        for algo in ("arpo", "barpo")
    ]
    found = landscape(
        LoadedAgent("start", model, model.env),
        *(agent._replace(name=name) for agent, name in zip(ends, ("ARPO's end", "BARPO's end"), strict=True)),
        points=args.points,
        n_eval_episodes=args.episodes,
        folder=args.output / "points",
        n_jobs=args.jobs,
        progress_bar=True,
    )
    found.frame.to_csv(args.output / "hopper.csv", index=False, float_format="%.6g")
    found.plot(HERE.parent / "docs" / "_static" / "lab-hopper.png")


if __name__ == "__main__":
    main()
