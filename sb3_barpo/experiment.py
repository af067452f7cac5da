"""
Experiments: train agents of several algorithms and seeds in parallel processes, each stored in a folder of its own.

A finished agent is found again and not trained twice, so a killed experiment goes on where it was.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_barpo.arpo import ARPO
from sb3_barpo.barpo import BARPO

#: The algorithms that an experiment can compare.
ALGORITHMS: dict[str, type[PPO]] = {"ppo": PPO, "arpo": ARPO, "barpo": BARPO}


@dataclass(frozen=True)
class Agent:
    """
    What is trained, and how.

    :param algo: ``ppo``, ``arpo`` or ``barpo``.
    :param env: Id of the environment.
    :param seed: Seed of the environment and the algorithm.
    :param steps: Number of environment steps.
    :param n_envs: Number of environments that step together.
    :param kwargs: Arguments of the algorithm.
    :param label: Name in tables and pictures, the algorithm's by default.
    """

    algo: str
    env: str
    seed: int
    steps: int
    n_envs: int = 1
    kwargs: dict[str, Any] = field(default_factory=dict)
    label: str = ""

    def folder(self, root: Path) -> Path:
        """:return: The agent's folder below ``root``."""
        return root / f"{self.label or self.algo}-seed{self.seed}"


def make_env(agent: Agent, stats: Path | None = None) -> VecNormalize:
    """
    :param agent: Whose environments to make.
    :param stats: File with the statistics of observations and rewards, for an agent that is trained.
    :return: The environments, observations and rewards normalised.
    """
    venv: VecEnv = make_vec_env(agent.env, agent.n_envs, seed=agent.seed)
    return VecNormalize(venv) if stats is None else VecNormalize.load(str(stats), venv)


def train_agent(agent: Agent, root: Path, callback: BaseCallback | None = None) -> Path:
    """
    Train an agent, unless its folder holds it already, and store ``agent.zip``, ``vecnormalize.pkl``, ``agent.json``
    and ``progress.csv``.

    :param agent: What to train.
    :param root: The experiment's folder.
    :param callback: Passed to ``learn``.
    :return: The agent's folder.
    """
    folder = agent.folder(root)
    record = folder / "agent.json"
    if record.exists() and json.loads(record.read_text()) == asdict(agent):
        return folder
    th.set_num_threads(1)  # more threads slow small networks down
    env = make_env(agent)
    model = ALGORITHMS[agent.algo]("MlpPolicy", env, seed=agent.seed, device="cpu", **agent.kwargs)
    model.set_logger(configure(str(folder), ["csv"]))
    model.learn(agent.steps, callback=callback)
    model.save(folder / "agent")
    env.save(str(folder / "vecnormalize.pkl"))
    env.close()
    # Written last and at once: a folder that holds it is complete.
    partial = record.with_suffix(".tmp")
    partial.write_text(json.dumps(asdict(agent), indent=2) + "\n")
    os.replace(partial, record)
    return folder
