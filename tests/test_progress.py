"""Progress: one bar in a terminal, over processes too; plain lines without one."""

import sys

import numpy as np
import pytest
from helpers import make_envs
from joblib import Parallel, delayed
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_barpo.evaluation.progress import Progress, Tell, counted_steps


def work(tell: Tell) -> str:
    for _ in range(3):
        tell(1000)
    tell(0)
    return "it"


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_terminal_shows_one_bar_over_all_steps(
    n_jobs: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress("fits", 2, 6000, "step", True, n_jobs) as progress:
        for label in Parallel(n_jobs, return_as="generator")(delayed(work)(progress.tell) for _ in range(2)):
            progress.finished(label)
    shown = capsys.readouterr().err
    assert "fits 2/2: 100%" in shown
    assert "6.00k/6.00k" in shown
    assert "\n" not in shown.rstrip("\n")


def test_without_a_terminal_each_unit_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("fits", 2, 6000, "step", True) as progress:
        for _ in range(2):
            progress.finished(work(progress.tell))
    assert capsys.readouterr().err == "fits 1/2: it\nfits 2/2: it\n"


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("fits", 1, 3000, "step", False, 2) as progress:
        progress.finished(work(progress.tell))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("normalised", [True, False])
def test_environments_that_count_their_steps_are_the_same_otherwise(normalised: bool) -> None:
    steps: list[int] = []
    plain, counted = (make_envs(n_envs=2, normalized=normalised) for _ in range(2))
    counted = counted_steps(counted, steps.append)
    assert isinstance(counted, VecNormalize) == normalised
    assert isinstance(counted.unwrapped if normalised else counted.venv, DummyVecEnv)
    for venv in (plain, counted):
        venv.seed(3)
    np.testing.assert_array_equal(plain.reset(), counted.reset())
    for _ in range(4):
        one, two = (venv.step(np.ones((2, 1), np.float32)) for venv in (plain, counted))
        np.testing.assert_array_equal(one[0], two[0])
        np.testing.assert_array_equal(one[1], two[1])
    assert steps == [2] * 4
