"""
What is asked of vectorised environments beyond steps and resets. Batched simulators implement SB3's ``VecEnv`` in part:
whatever raises ``NotImplementedError`` or ``AttributeError`` is taken for "no".
"""

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecEnvWrapper,
    VecMonitor,
    VecNormalize,
    is_vecenv_wrapped,
)
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

_LACKING = (NotImplementedError, AttributeError)
#: Types whose values cannot change: a copy of one is the value itself.
_CONSTANT = {bool, int, float, str, type(None), np.bool_, np.int32, np.int64, np.float32, np.float64}


class Wrapper(VecEnvWrapper):
    """SB3's wrapper, also around environments that do not say how they are rendered: its constructor asks them."""

    #: Whether observations pass unchanged, so that their limits are known behind it.
    keeps_observations: ClassVar[bool] = False

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        try:
            return super().get_attr(attr_name, indices)
        except _LACKING:
            if attr_name != "render_mode":
                raise
            return [None] * self.num_envs


def attribute(venv: VecEnv, name: str) -> Any:
    """:return: An attribute of the first environment, ``None`` where there is none."""
    try:
        # Asked first: worker processes of SB3's SubprocVecEnv end where an attribute is missing.
        return venv.get_attr(name)[0] if venv.has_attr(name) else None
    except _LACKING:
        return None


def is_wrapped(venv: VecEnv, kind: type[gym.Wrapper[Any, Any, Any, Any]], vec_kind: type[VecEnvWrapper]) -> bool:
    """:return: Whether any of the environments is wrapped by ``kind``, or all of them by ``vec_kind``."""
    if is_vecenv_wrapped(venv, vec_kind):
        return True
    try:
        return any(venv.env_is_wrapped(kind))
    except _LACKING:
        return False


def seed_if_possible(venv: VecEnv, seed: int | None) -> bool:
    """:return: Whether the environments take a seed. Those that do have it now."""
    try:
        venv.seed(seed)
    except _LACKING:
        return False
    return True


def set_if_there(venv: VecEnv, name: str, value: Any) -> None:
    """Set an attribute of the environments, or of their wrappers, that have it."""
    if attribute(venv, name) is not None:
        venv.env_method("set_wrapper_attr", name, value)


class _Infos(list[dict[str, Any]]):
    """Infos whose deep copy is a list's, and takes a tenth of the time: most of what they hold are numbers."""

    def __deepcopy__(self, memo: dict[int, Any]) -> list[dict[str, Any]]:
        return [
            {key: value if type(value) in _CONSTANT else copy.deepcopy(value, memo) for key, value in info.items()}
            if type(info) is dict
            else copy.deepcopy(info, memo)
            for info in self
        ]


@contextmanager
def quick_infos(venv: Any) -> Iterator[None]:
    """
    Within, steps of SB3's ``DummyVecEnv`` copy their infos in less time. It copies them deeply, at every step.

    :param venv: Environments of any kind; all others are left as they are.
    """
    while isinstance(venv, VecEnvWrapper):
        venv = venv.venv
    if type(venv) is not DummyVecEnv or type(venv.buf_infos) is not list:
        yield
        return
    venv.buf_infos = _Infos(venv.buf_infos)
    try:
        yield
    finally:
        venv.buf_infos = list(venv.buf_infos)


@contextmanager
def early_resets(venv: VecEnv) -> Iterator[None]:
    """
    Within, SB3's ``Monitor`` allows resets before the end of an episode: seeded episodes begin with one.

    :param venv: The environments.
    """
    forbidden = attribute(venv, "allow_early_resets") is False
    if forbidden:
        set_if_there(venv, "allow_early_resets", True)
    try:
        yield
    finally:
        if forbidden:
            set_if_there(venv, "allow_early_resets", False)


def copy_for_evaluation(venv: VecEnv) -> VecEnv:
    """
    :param venv: Environments of training, in SB3's ``DummyVecEnv``.
    :return: The same again, layer by layer, for evaluation: they write no ``monitor.csv``, and every ``VecNormalize``
        is frozen and leaves rewards alone.
    :raises ValueError: if they cannot be copied.
    """
    layers = list[VecEnvWrapper]()
    while isinstance(venv, VecEnvWrapper):
        layers.append(venv)
        venv = venv.venv
    if not isinstance(venv, DummyVecEnv):
        raise ValueError(
            f"The evaluation needs environments of its own, and those of a {type(venv).__name__} cannot be copied. "
            "Pass eval_env, wrapped as in training."
        )
    try:
        with _no_files(venv):
            copied: VecEnv = copy.deepcopy(venv)
        for layer in reversed(layers):
            copied = _copy_of_layer(layer, copied)
    except Exception as error:  # copying runs the environments' own code
        raise ValueError(
            f"The evaluation needs environments of its own, and those of the training cannot be copied: {error}. Pass "
            "eval_env, wrapped as in training."
        ) from error
    return copied


def _copy_of_layer(layer: VecEnvWrapper, venv: VecEnv) -> VecEnvWrapper:
    kind = type(layer)
    state = {name: value for name, value in vars(layer).items() if name not in ("venv", "class_attributes")}
    if isinstance(layer, VecMonitor):
        state["results_writer"] = None
    copied = kind.__new__(kind)
    copied.__dict__.update(copy.deepcopy(state), venv=venv, class_attributes=dict(inspect.getmembers(kind)))
    if isinstance(copied, VecNormalize):
        copied.training = copied.norm_reward = False
    return copied


@contextmanager
def _no_files(venv: DummyVecEnv) -> Iterator[None]:
    """Within, no ``Monitor`` has its open file, which cannot be copied."""
    monitors = [layer for env in venv.envs for layer in _layers(env) if isinstance(layer, Monitor)]
    writers = [monitor.results_writer for monitor in monitors]
    for monitor in monitors:
        monitor.results_writer = None
    try:
        yield
    finally:
        for monitor, writer in zip(monitors, writers, strict=True):
            monitor.results_writer = writer


def _layers(env: gym.Env[Any, Any]) -> Iterator[gym.Env[Any, Any]]:
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env
