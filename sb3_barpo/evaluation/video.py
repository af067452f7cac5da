"""Video of an episode without and under attack, side by side, by Gymnasium's own recording tools."""

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from gymnasium.utils.save_video import save_video
from stable_baselines3.common.vec_env import VecEnv

from sb3_barpo.evaluation.trace import Trace, render_first
from sb3_barpo.vec_envs import attribute

#: A longer episode leaves frames out: all are held in memory, and software renderers are slow.
MAX_FRAMES = 300
_REMEDY = (
    "Evaluate without video, or: Gymnasium's own environments need pygame (pip install pygame); MuJoCo without a "
    "display needs the environment variable MUJOCO_GL=egl or MUJOCO_GL=osmesa; own environments need "
    "render_mode='rgb_array'."
)


def check_video(venv: VecEnv) -> None:
    """
    :param venv: Environments to be recorded. They are reset, and the first one's camera follows the robot if it can.
    :raises ImportError: if moviepy is not installed, which writes the file.
    :raises ValueError: if they cannot be rendered.
    """
    if importlib.util.find_spec("moviepy") is None:
        raise ImportError('Video needs moviepy: pip install "sb3-barpo[video]"')
    _follow(venv)
    try:
        venv.reset()
        frame = render_first(venv)
    except Exception as error:  # of the environment's own renderer
        raise ValueError(f"The environment cannot be rendered: {error}. {_REMEDY}") from error
    if frame is None:
        raise ValueError(f"The environment cannot be rendered: it gives no image. {_REMEDY}")


def _follow(venv: VecEnv) -> None:
    """Gymnasium's MuJoCo environments are seen by a fixed camera, though most have another, which moves along."""
    renderer, model = attribute(venv, "mujoco_renderer"), getattr(attribute(venv, "unwrapped"), "model", None)
    if renderer is None or model is None:
        return
    if renderer.camera_id == -1 and "track" in [model.cam(i).name for i in range(model.ncam)]:
        renderer.camera_id = model.cam("track").id


def frames_between(n_steps: int) -> int:
    """:return: Every how many steps an episode of this length is recorded, see :data:`MAX_FRAMES`."""
    return max(math.ceil(n_steps / MAX_FRAMES), 1)


def write_video(clean: Trace, attacked: Trace, path: Path, fps: float) -> None:
    """
    :param clean: An episode without an attack, with frames.
    :param attacked: The episode of the same seed under attack, with frames.
    :param path: File to write, an ``.mp4``.
    :param fps: Frames a second.
    :raises OSError: if it cannot be written.
    """
    length = max(len(clean.frames), len(attacked.frames))
    sides = [_lasting(trace.frames, length) for trace in (clean, attacked)]
    frames = [np.concatenate(pair, axis=1) for pair in zip(*sides, strict=True)]
    save_video(frames, str(path.parent), episode_trigger=lambda _: True, name_prefix=path.stem, fps=fps)
    path.with_name(f"{path.stem}-episode-0.mp4").replace(path)


def _lasting(frames: Sequence[np.ndarray], length: int) -> list[np.ndarray]:
    """The frames, their last one darkened until the end: the episode is over."""
    return [*frames, *[frames[-1] // 3] * (length - len(frames))]
