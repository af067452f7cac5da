"""
How much of a spec sheet's worst case a search finds: the mean divergence that MAD's SGLD and PGD reach within the sheet
of ``examples/sensors.py`` at ε = 1, and within the plain ball. Run: ``python benchmarks/searches.py``.
"""

import argparse
from pathlib import Path

import numpy as np
import torch as th

from sb3_barpo.adversary import KL, PGD, SGLD, Adversary, LinfBall
from sb3_barpo.agents import load_agent
from sb3_barpo.sensors import Sensor, Sensors, ball

AGENTS = [Path(__file__).parent / "hopper" / "agents" / name for name in ("ppo-seed0", "barpo-seed2")]
BOUNDS = {
    "z": 0.01,
    "1:5": 0.5 * 0.01745,
    "5:7": 0.1,
    "torso_angle_velocity": 0.05,
    "8:11": 0.1,
}
SHEET = Sensors({name: Sensor(bound=bound) for name, bound in BOUNDS.items()}, "Hopper-v5")
SEARCHES = {
    "MAD": SGLD(10, beta=1.0),
    "SGLD of training": SGLD(10),
    "PGD": PGD(10),
    "PGD, best of 2": PGD(10, restarts=2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("agents", nargs="*", type=Path, default=AGENTS)
    parser.add_argument("--epsilon", type=float, default=0.075, help="radius of the plain ball")
    args = parser.parse_args()
    th.set_num_threads(1)
    for agent in args.agents:
        name, model, venv = load_agent(agent, "Hopper-v5", n_envs=8)
        venv.seed(3)
        seen = [venv.reset()]
        for _ in range(100):
            seen.append(venv.step(model.predict(seen[-1], deterministic=True)[0])[0])
        observations = th.as_tensor(np.concatenate(seen[1:])[::2])
        for where, around, epsilon in (
            ("sheet", ball(SHEET, venv.observation_space, venv), 1.0),
            (f"plain, ε = {args.epsilon:g}", LinfBall(), args.epsilon),
        ):
            for label, search in SEARCHES.items():
                adversary = Adversary(KL(), search, around)
                adversary.seed(0)
                found = adversary.perturb(model.policy, observations, epsilon)
                print(f"{name}, {where}, {label}: {adversary.gain(model.policy, observations, found).mean():.3g}")


if __name__ == "__main__":
    main()
