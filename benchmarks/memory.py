"""
Delay and lost readings need a memory: PPO on CartPole-v1 whose readings are two steps old, and half of them lost, with
a feed-forward policy, with one that sees the last frames, and with a recurrent one.

Run: ``python benchmarks/memory.py``.
"""

import argparse
import time
from pathlib import Path

import pandas as pd
import torch as th
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack

from sb3_barpo.sensors import Sensor, Sensors, VecSensorFaults

SHEET = Sensors({":": Sensor(delay=2, dropout=0.5)})
SETTINGS = {"n_steps": 128, "batch_size": 256, "gae_lambda": 0.9, "gamma": 0.98, "learning_rate": 1e-3, "device": "cpu"}
N_FRAMES = 8
REPORT = 10_000  # seed of the first episode of the evaluation


def make_env(n_envs: int, seed: int, strength: float, n_frames: int) -> VecEnv:
    venv = VecSensorFaults(make_vec_env("CartPole-v1", n_envs), SHEET, strength)
    venv.seed(seed)
    return VecFrameStack(venv, n_frames) if n_frames > 1 else venv


def make_model(policy: str, env: VecEnv, seed: int) -> OnPolicyAlgorithm:
    if policy == "recurrent":
        kwargs = {"lstm_hidden_size": 64, "shared_lstm": True, "enable_critic_lstm": False}
        return RecurrentPPO("MlpLstmPolicy", env, seed=seed, policy_kwargs=kwargs, **SETTINGS)
    return PPO("MlpPolicy", env, seed=seed, **SETTINGS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timesteps", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--output", type=Path, default=Path("memory.csv"))
    args = parser.parse_args()
    th.set_num_threads(1)
    rows = []
    for sensors, policy in (
        ("faulty", "recurrent"),
        ("faulty", "feed-forward"),
        ("faulty", f"{N_FRAMES} frames"),
        ("perfect", "feed-forward"),
    ):
        strength, n_frames = float(sensors == "faulty"), N_FRAMES if "frames" in policy else 1
        for seed in args.seeds:
            start = time.process_time()
            model = make_model(policy, make_env(8, seed, strength, n_frames), seed).learn(args.timesteps)
            seconds = time.process_time() - start
            returns, _ = evaluate_policy(
                model, make_env(10, REPORT, strength, n_frames), args.episodes, return_episode_rewards=True
            )
            rows.append((sensors, policy, seed, sum(returns) / len(returns), seconds))
            print(*rows[-1], flush=True)
            frame = pd.DataFrame(rows, columns=["sensors", "policy", "seed", "return", "cpu_seconds"])
            frame.to_csv(args.output, index=False)
    table = frame.pivot_table("return", ["sensors", "policy"], "seed", sort=False)
    print(table.to_markdown(floatfmt=".0f"))


if __name__ == "__main__":
    main()
