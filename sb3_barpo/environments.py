"""Environments by their id, with what the RL Zoo's settings put around them."""

import difflib
import importlib
import importlib.util
from collections.abc import Iterable, Mapping
from typing import Any

import gymnasium
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecNormalize

from sb3_barpo.expressions import read_kwargs

#: The Zoo's settings that change an environment, apart from ``normalize`` and ``frame_stack``, which come around them.
INNER = ("env_kwargs", "env_wrapper", "vec_env_wrapper", "monitor_kwargs")


def find_env(env_id: str, packages: Iterable[str] = ()) -> str:
    """
    Import what registers an environment.

    :param env_id: Id of a Gymnasium environment, with or without the module that registers it: ``mymod:My-v0``.
    :param packages: Modules to import before, as the Zoo's ``--gym-packages``.
    :return: The id alone, ``My-v0``, by which files, folders and YAML entries are named.
    :raises ValueError: if a module cannot be imported, or registers no such environment.
    """
    module, _, name = env_id.rpartition(":")
    for package in [*packages, *([module] if module else [])]:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ValueError(
                f"The module {package!r} of the environment {env_id!r} cannot be imported: {error}. Install it, or run "
                "the command where Python finds it."
            ) from error
    if name not in gymnasium.registry and importlib.util.find_spec("rl_zoo3") is not None:
        importlib.import_module("rl_zoo3.import_envs")  # the Zoo's own environments
    if name not in gymnasium.registry and not any(known.rpartition("-v")[0] == name for known in gymnasium.registry):
        close = difflib.get_close_matches(name, gymnasium.registry, n=1, cutoff=0.8)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"There is no environment {name!r}.{hint} Name a registered Gymnasium environment; name your own with the "
            "module that registers it: 'mymod:My-v0', or --gym-packages mymod."
        )
    return name


def build(
    env_id: str,
    n_envs: int = 1,
    settings: Mapping[str, Any] | None = None,
    seed: int | None = None,
    packages: Iterable[str] = (),
) -> VecEnv:
    """
    Build environments as the Zoo builds them, without the two outer layers: statistics and stacks of frames.

    :param env_id: Id of the environment, see :func:`find_env`.
    :param n_envs: Number of environments that step together.
    :param settings: The Zoo's settings, of which :data:`INNER` are read.
    :param seed: Seed of the first environment.
    :param packages: Modules to import before.
    :return: The environments.
    :raises ImportError: if there are wrappers, which the Zoo reads, and the Zoo is not installed.
    :raises ValueError: for an unknown environment, or settings that cannot be read.
    """
    settings = {key: value for key, value in (settings or {}).items() if value}
    name = find_env(env_id, packages)
    kwargs, monitor = (_arguments(settings.get(key, {})) for key in ("env_kwargs", "monitor_kwargs"))
    wrapper, outer = (_wrapper(settings, key) for key in ("env_wrapper", "vec_env_wrapper"))
    venv = make_vec_env(name, n_envs, seed=seed, wrapper_class=wrapper, env_kwargs=kwargs, monitor_kwargs=monitor)
    return venv if outer is None else outer(venv)


def _arguments(given: str | Mapping[str, Any]) -> dict[str, Any]:
    """As text an expression, as data taken as they are."""
    return read_kwargs(given) if isinstance(given, str) else dict(given)


def _wrapper(settings: Mapping[str, Any], key: str) -> Any:
    if key not in settings:
        return None
    from rl_zoo3.utils import get_wrapper_class

    return get_wrapper_class(dict(settings), key)


def around(venv: VecEnv, normalize: bool | str | Mapping[str, Any], frame_stack: int | None, **changes: Any) -> VecEnv:
    """
    :param venv: What :func:`build` returned.
    :param normalize: The Zoo's setting of this name: whether to normalise, or the arguments of ``VecNormalize``.
    :param frame_stack: Number of frames to stack, ``None`` for no stack.
    :param changes: Further arguments of ``VecNormalize``.
    :return: The environments with the two outer layers. Images are never normalised.
    """
    if normalize:
        given = {} if normalize is True else _arguments(normalize)
        venv = VecNormalize(venv, **{**_without_images(venv.observation_space), **given, **changes})
    if frame_stack:
        venv = VecFrameStack(venv, frame_stack)
    return BaseAlgorithm._wrap_env(venv, verbose=0)  # channels first, as SB3 does it


def _without_images(space: spaces.Space[Any]) -> dict[str, Any]:
    """Arguments of ``VecNormalize`` that leave images alone."""
    if not isinstance(space, spaces.Dict):
        return {"norm_obs": False} if is_image_space(space) else {}
    if not any(is_image_space(one) for one in space.values()):
        return {}
    keys = [key for key, one in space.items() if isinstance(one, spaces.Box) and not is_image_space(one)]
    return {"norm_obs_keys": keys} if keys else {"norm_obs": False}
