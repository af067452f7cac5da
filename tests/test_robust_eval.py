"""Evaluation under attack during training, from plain data: the RL Zoo's entries and flags of ``train``."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import TINY, make_envs
from helpers import same as same_numbers
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import (
    SubprocVecEnv,
    VecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    unwrap_vec_normalize,
)

from sb3_barpo import BARPO, RobustEvalCallback
from sb3_barpo.cli import main
from sb3_barpo.vec_envs import copy_for_evaluation

pytest.importorskip("rl_zoo3")
from zoo_commands import ENV, inside, train

from sb3_barpo.agents.load import load_agent

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries that the Zoo brings together

SMALL = ["n_envs:2", "n_steps:64", "n_epochs:1", "use_sde:False"]
ENTRY = """
Pendulum-v1:
  n_timesteps: 256
  policy: MlpPolicy
  normalize: true
  n_envs: 2
  n_steps: 64
  n_epochs: 1
  epsilon: 0.1
  callback:
    - sb3_barpo.RobustEvalCallback:
        eval_freq: 64
        n_eval_episodes: 1
        attacks: [random, mad]
        epsilon: 0.2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained with our flag; the Zoo's own evaluation runs beside it."""
    folder = tmp_path_factory.mktemp("flag")
    flags = ["--robust-eval-freq", "128", "--robust-epsilon", "0.2", "--robust-attacks", "mad"]
    with inside(folder):
        train("-params", *SMALL, "--seed", "1", "--eval-freq", "128", "--tensorboard-log", "tb", *flags)
    return folder / "logs" / "barpo" / f"{ENV}_1"


def test_the_flag_keeps_the_best_model_beside_the_zoo_s(folder: Path) -> None:
    names = ["best_model.zip", "best_robust_model.zip", "best_robust_model_vecnormalize.pkl", f"{ENV}.zip"]
    assert all((folder / name).is_file() for name in names)
    kept = np.load(folder / "robust_evaluations.npz")
    assert kept["timesteps"].tolist() == [128, 256]
    assert set(kept.files) == {"timesteps", "results", "ep_lengths", "results_mad"}


def test_which_best_is_the_best_in_the_worst_case_with_its_statistics(folder: Path) -> None:
    kept = np.load(folder / "robust_evaluations.npz")
    worst = np.minimum(kept["results"].mean(1), kept["results_mad"].mean(1))
    best, last = (load_agent(folder, which=which) for which in ("best", "last"))
    assert best.file.name == "best_robust_model.zip"
    assert best.statistics == folder / "best_robust_model_vecnormalize.pkl"
    assert best.model.num_timesteps == kept["timesteps"][worst.argmax()]
    assert last.file.name == f"{ENV}.zip"
    assert last.statistics == folder / ENV / "vecnormalize.pkl"
    steps = [unwrap_vec_normalize(one.venv).obs_rms.count for one in (best, last)]  # type: ignore[union-attr]
    assert steps[0] <= steps[1]
    assert load_agent(folder / "best_model.zip").file.name == "best_model.zip"


def test_it_logs_what_the_callback_logs(folder: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = (folder.parents[2] / "tb").rglob("events*")
    logged = EventAccumulator(str(events))
    logged.Reload()
    assert {"eval/robust_mad", "eval/worst_case", "eval/mean_reward"} <= set(logged.Tags()["scalars"])
    assert [event.step for event in logged.Scalars("eval/robust_mad")] == [128, 256]


def test_evaluate_judges_it(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "report"
    quick = ["--attacks", "random", "--episodes", "1", "--n-envs", "1", "--epsilon", "0.1"]
    main(["evaluate", str(folder), "--which", "best", *quick, "--output", str(output)])
    assert "best_robust_model.zip" in (output / "report.md").read_text(encoding="utf-8")


def test_an_entry_of_the_zoo(tmp_path: Path) -> None:
    (tmp_path / "own.yml").write_text(ENTRY)
    with inside(tmp_path):
        train("-conf", "own.yml", "--seed", "1", "--eval-freq", "-1")
    run = tmp_path / "logs" / "barpo" / f"{ENV}_1"
    assert (run / "best_robust_model.zip").is_file()
    assert load_agent(run, which="best").statistics == run / "best_robust_model_vecnormalize.pkl"
    kept = np.load(run / "robust_evaluations.npz")
    assert kept["timesteps"].tolist() == [128, 256]
    assert "results_random" in kept.files


@pytest.mark.parametrize(
    ("argv", "match"),
    [
        (["--robust-eval-freq", "0"], "--robust-eval-freq is 0, but it is a number of steps"),
        (["--robust-epsilon", "0.1"], "--robust-epsilon needs --robust-eval-freq"),
        (["--robust-attacks", "mad"], "--robust-attacks needs --robust-eval-freq"),
        (["--robust-eval-freq", "64", "--robust-epsilon", "-1"], "--robust-epsilon is -1.0, but a strength"),
        (["--robust-eval-freq", "64", "--robust-attacks", "mda"], "mda"),
        (["--robust-eval-freq", "64", "-optimize"], "scores trials without an attack.*sb3-barpo tune"),
    ],
)
def test_flags_that_do_not_fit(argv: list[str], match: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with inside(tmp_path), pytest.raises(SystemExit, match="2"):
        main(["train", "--env", ENV, *argv])
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert re.search(match, printed)


def test_help_names_the_flags(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
    assert "--robust-eval-freq" in capsys.readouterr().out


# Copies of the training's environments


def layered(folder: Path | None = None) -> VecEnv:
    venv = make_vec_env(ENV, 2, seed=0, monitor_dir=None if folder is None else str(folder))
    return VecFrameStack(VecNormalize(VecMonitor(venv, None if folder is None else str(folder / "all"))), 2)


def test_a_copy_is_independent_and_gives_the_same_episodes(tmp_path: Path) -> None:
    venv = layered(tmp_path)
    model = PPO("MlpPolicy", venv, **TINY).learn(64)
    copied = copy_for_evaluation(venv)
    layer = unwrap_vec_normalize(copied)
    assert layer is not None
    assert not layer.training
    assert not layer.norm_reward
    ours, theirs = (unwrap_vec_normalize(one).obs_rms for one in (copied, venv))  # type: ignore[union-attr]
    assert ours is not theirs
    assert np.array_equal(ours.mean, theirs.mean)
    written = (tmp_path / "0.monitor.csv").read_text()
    before = model.env.get_attr("state")[0]  # type: ignore[union-attr]
    fresh = layered()
    statistics = unwrap_vec_normalize(fresh)
    assert statistics is not None
    statistics.obs_rms, statistics.training, statistics.norm_reward = theirs, False, False
    for one in (copied, fresh):
        one.seed(5)
    assert np.array_equal(copied.reset(), fresh.reset())
    for _ in range(250):  # beyond the episode's end
        actions = np.full((2, 1), 0.5, np.float32)
        for mine, its in zip(copied.step(actions)[:3], fresh.step(actions)[:3], strict=True):
            assert np.array_equal(mine, its)
    assert np.array_equal(model.env.get_attr("state")[0], before)  # type: ignore[union-attr]
    assert (tmp_path / "0.monitor.csv").read_text() == written
    venv.close()


def test_the_callback_makes_its_own_environments(tmp_path: Path) -> None:
    """And finds the same as with environments that were given."""
    found = []
    for given in (None, VecNormalize(make_envs(n_envs=2), training=False, norm_reward=False)):
        model = BARPO("MlpPolicy", VecNormalize(make_envs(n_envs=2)), epsilon=0.1, **TINY)
        settings: dict[str, Any] = {"attacks": ["mad"], "eval_freq": 32, "n_eval_episodes": 2, "verbose": 0}
        callback = RobustEvalCallback(given, best_model_save_path=str(tmp_path), **settings)
        model.learn(128, callback=callback)
        assert callback.report is not None
        found.append((callback.report.to_frame(), model.policy.state_dict()))
        assert (tmp_path / "best_model_vecnormalize.pkl").is_file()
    assert found[0][0].equals(found[1][0])
    assert same_numbers(found[0][1], found[1][1])


def test_what_cannot_be_copied() -> None:
    venv = SubprocVecEnv([lambda: make_vec_env(ENV, 1).envs[0]])  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"those of a SubprocVecEnv cannot be copied\. Pass eval_env, wrapped as in"):
        copy_for_evaluation(venv)
    venv.close()
    own = make_vec_env(ENV, 1)
    own.envs[0].lock = open(__file__)  # type: ignore[attr-defined]  # noqa: SIM115  # what nobody can copy
    with pytest.raises(ValueError, match=r"cannot be copied: .*Pass eval_env"):
        copy_for_evaluation(own)
    own.envs[0].lock.close()  # type: ignore[attr-defined]
