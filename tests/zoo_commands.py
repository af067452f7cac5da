"""The RL Zoo's commands in a folder, on short episodes of training."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rl_zoo3.exp_manager import ExperimentManager

from sb3_barpo.cli import main

ENV = "Pendulum-v1"
TINY = ["n_envs:1", "n_steps:64", "n_epochs:1", "use_sde:False"]


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield


def train(*arguments: str) -> None:
    main(["train", "--env", ENV, "-n", "256", "--num-threads", "1", "--eval-episodes", "1", *arguments])


def manager(algo: str = "barpo", env: str = ENV, **kwargs: Any) -> ExperimentManager:
    kwargs.setdefault("config", f"sb3_barpo.hyperparams.{algo}")
    return ExperimentManager(SimpleNamespace(), algo, env, kwargs.pop("log_folder", "logs"), verbose=0, **kwargs)
