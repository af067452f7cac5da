"""Video: the natural and the attacked episode side by side; what cannot be recorded is said before work begins."""

import importlib.util
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.mujoco import MujocoEnv
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv
from victims import linear_victim

from sb3_barpo.attacks import MAD
from sb3_barpo.evaluation import video
from sb3_barpo.evaluation.trace import Trace, trace_episode


class Clock(gym.Env[np.ndarray, np.ndarray]):
    """Shows the time, in the observation and in the brightness of its images; ends after seven steps."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = spaces.Box(-1, 1, (1,))
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012  # Gymnasium's own form

    def __init__(self, render_mode: str | None = "rgb_array") -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(1), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        return np.array([self.time], float), 0.0, self.time == 7, False, {}

    def render(self) -> Any:
        return None if self.render_mode is None else np.full((65, 400, 3), 10 * self.time, np.uint8)


def clocks(**settings: Any) -> DummyVecEnv:
    return DummyVecEnv([lambda: Monitor(Clock(**settings))])


@pytest.mark.parametrize(("every", "times"), [(1, [0, 1, 2, 3, 4, 5, 6]), (3, [0, 3, 6])])
def test_frames_are_those_of_the_steps_of_the_episode(every: int, times: list[int]) -> None:
    model = linear_victim([1.0])
    frames = trace_episode(model, clocks(), MAD(model, 0.1), 0, record_every=every).frames
    assert [int(frame[0, 0, 0]) for frame in frames] == [10 * time for time in times]
    assert {frame.shape for frame in frames} == {(32, 200, 3)}  # half as wide, and even
    assert trace_episode(model, clocks(), None, 0).frames == ()


@pytest.mark.parametrize(("steps", "every"), [(1, 1), (300, 1), (301, 2), (1000, 4), (6000, 20)])
def test_long_episodes_leave_frames_out(steps: int, every: int) -> None:
    assert video.frames_between(steps) == every


def test_the_episode_that_ends_first_is_darkened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[np.ndarray] = []

    def save(frames: list[np.ndarray], folder: str, name_prefix: str, **settings: Any) -> None:
        written.extend(frames)
        (Path(folder) / f"{name_prefix}-episode-0.mp4").touch()

    monkeypatch.setattr(video, "save_video", save)
    empty = np.zeros((1, 1))
    clean, attacked = (
        Trace("mad", 0.1, 0, empty, empty, empty[0], frames=[np.full((2, 2, 3), 90 + time) for time in range(length)])
        for length in (3, 1)
    )
    video.write_video(clean, attacked, tmp_path / "it.mp4", 10)
    assert [frame[0, :, 0].tolist() for frame in written] == [[90, 90, 90, 90], [91, 91, 30, 30], [92, 92, 30, 30]]
    assert (tmp_path / "it.mp4").exists()


def test_a_video_is_written(tmp_path: Path) -> None:
    pytest.importorskip("moviepy")
    video.check_video(clocks())
    model = linear_victim([1.0])
    traces = [trace_episode(model, clocks(), attack, 0, record_every=1) for attack in (None, MAD(model, 0.1))]
    video.write_video(*traces, tmp_path / "it.mp4", 10)
    assert (tmp_path / "it.mp4").read_bytes()[4:8] == b"ftyp"


def test_the_camera_follows_a_robot(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("moviepy")
    monkeypatch.setattr(MujocoEnv, "render", lambda env: np.zeros((2, 2, 3), np.uint8))
    hopper = make_vec_env("Hopper-v5")
    renderer = hopper.get_attr("mujoco_renderer")[0]
    assert renderer.camera_id == -1
    video.check_video(hopper)
    assert hopper.get_attr("unwrapped")[0].model.cam(renderer.camera_id).name == "track"


def test_what_cannot_be_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("moviepy")
    with pytest.raises(ValueError, match=r"cannot be rendered: .*MUJOCO_GL"):
        video.check_video(clocks(render_mode=None))
    broken = clocks()
    monkeypatch.setattr(Clock, "render", _without_pygame)
    with pytest.raises(ValueError, match=r"No module named 'pygame'.*pip install pygame"):
        video.check_video(broken)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "moviepy" else find_spec(name))
    with pytest.raises(ImportError, match=r"sb3-barpo\[video\]"):
        video.check_video(clocks())


def _without_pygame(clock: Clock) -> None:
    raise ImportError("No module named 'pygame'")
