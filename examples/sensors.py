"""
Which sensor must be good? An agent of Hopper, a spec sheet, and the worst case of one sensor at a time; then that of
all together, and the same sheet's random faults. Needs the extras ``mujoco``, ``plots`` and ``zoo`` (for YAML).
"""

import argparse

from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_barpo.agents import load_agent
from sb3_barpo.evaluation import rank_sensors
from sb3_barpo.sensors import Sensor, Sensors

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--agent", help="an agent of Hopper-v5, file or folder; by default a PPO is trained here")
parser.add_argument("--timesteps", type=int, default=200_000, help="environment steps of training")
parser.add_argument("--strengths", type=float, nargs="+", default=[1.0, 4.0], help="shares of the sheet")
parser.add_argument("--episodes", type=int, default=16, help="episodes for each sensor and strength")
parser.add_argument("--seed", type=int, default=10_000, help="seed of the first episode")
args = parser.parse_args()

DEGREE = 0.01745  # rad
encoder = Sensor(bound=0.5 * DEGREE, bias=0.2 * DEGREE, quantum=0.1 * DEGREE, unit="rad")
rate = Sensor(bound=0.1, noise=0.05, unit="rad/s")
sheet = Sensors(
    {
        "z": Sensor(bound=0.01, noise=0.003, delay=1, unit="m"),
        "torso_angle": Sensor(bound=0.5 * DEGREE, drift=0.2 * DEGREE, drift_time=200, unit="rad"),
        "thigh_angle": encoder,
        "leg_angle": encoder,
        "foot_angle": encoder,
        "x_velocity": Sensor(bound=0.1, noise=0.03, unit="m/s"),
        "z_velocity": Sensor(bound=0.1, noise=0.03, unit="m/s"),
        "torso_angle_velocity": Sensor(bound=0.05, noise=0.02, hold=0.01, unit="rad/s"),
        "thigh_angle_velocity": rate,
        "leg_angle_velocity": rate,
        "foot_angle_velocity": rate,
    },
    features="Hopper-v5",
)
sheet.save("sensors.yml")

if args.agent is None:
    env = VecNormalize(make_vec_env("Hopper-v5", n_envs=8, seed=0))
    PPO("MlpPolicy", env, n_steps=128, seed=0, device="cpu").learn(args.timesteps).save("ppo.zip")
    env.save("ppo-vecnormalize.pkl")
name, model, venv = load_agent(args.agent or "ppo.zip", "Hopper-v5", n_envs=min(args.episodes, 16))

# The worst case of one sensor at a time, and of all; random faults.
ranking = rank_sensors(model, venv, sheet, args.strengths, args.episodes, args.seed)
print(ranking.to_markdown())
print(ranking.tolerated(0.1).to_markdown(index=False))
ranking.frame.to_csv(f"sensors-{name}.csv", index=False)
ranking.plot().savefig(f"sensors-{name}.png")
