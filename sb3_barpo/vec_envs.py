"""
What is asked of vectorised environments beyond steps and resets. Batched simulators implement SB3's ``VecEnv`` in part:
whatever raises ``NotImplementedError`` or ``AttributeError`` is taken for "no".
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, is_vecenv_wrapped
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

_LACKING = (NotImplementedError, AttributeError)


class Wrapper(VecEnvWrapper):
    """SB3's wrapper, also around environments that do not say how they are rendered: its constructor asks them."""

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
