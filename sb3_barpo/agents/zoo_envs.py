"""The environments of RL Zoo's agents, as its records describe them."""

import importlib
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

#: What RL Zoo's records say of environments that ``make_vec_env`` alone does not make: a key and its value, in YAML's
#: two ways, ``key: value`` and the list of pairs that an OrderedDict becomes.
_CHANGED = re.compile(
    r"""^[\s-]*['"]?(env_wrapper|vec_env_wrapper|frame_stack|env_kwargs)['"]?(?::|\s*\n)[\s-]*(\S+)""", re.MULTILINE
)
_NOTHING = {"null", "~", "None", "[]", "{}"}
_NAMES = ("config.yml", "args.yml")


def records(folders: Sequence[Path]) -> list[Path]:
    """
    :param folders: Where they may lie. A model from the Hugging Face Hub has them beside it.
    :return: The Zoo's records in the first folder that has any.
    """
    found = ([folder / name for name in _NAMES if (folder / name).is_file()] for folder in folders)
    return next((files for files in found if files), [])


def env_id(folder: Path) -> str | None:
    """:return: Id of the environment that the Zoo's ``args.yml`` in this folder names, if there is one."""
    return _value([folder / "args.yml"], "env")


def normalised(files: Sequence[Path]) -> bool | None:
    """
    :param files: The Zoo's records of an agent.
    :return: Whether it was trained under ``VecNormalize``, ``None`` if they do not say.
    """
    config = [file for file in files if file.name == "config.yml"]
    if not config:
        return None
    value = _value(config, "normalize")
    return value is not None and value.lower() not in {"false", *_NOTHING}


def _value(files: Sequence[Path], key: str) -> str | None:
    """A key's value in the Zoo's records, read as text: loading them can run code."""
    pattern = re.compile(rf"""^[\s-]*['"]?{key}['"]?(?::[^\S\n]*|[^\S\n]*\n[\s-]*)['"]?([^\s'"]+)""", re.MULTILINE)
    texts = [file.read_text(encoding="utf-8") for file in files if file.is_file()]
    return next((match[1] for text in texts if (match := pattern.search(text))), None)


def changes(files: Sequence[Path]) -> list[str]:
    """
    :param files: The Zoo's records of an agent.
    :return: What makes its environment another than the plain one: ``env_wrapper`` and the like.
    """
    found = [pair for file in files for pair in _CHANGED.findall(file.read_text(encoding="utf-8"))]
    return list(dict.fromkeys(key for key, value in found if value not in _NOTHING))


def register(env_id: str) -> None:
    """
    Import what registers the Zoo's own environments, if the one that is wanted is not known without.

    :param env_id: Id of the environment.
    """
    if env_id not in gymnasium.registry and ":" not in env_id and importlib.util.find_spec("rl_zoo3") is not None:
        importlib.import_module("rl_zoo3.import_envs")


def rebuild(files: Sequence[Path], env_id: str, n_envs: int) -> tuple[VecEnv, int]:
    """
    The environments with what the Zoo has wrapped around them, but for its last two layers: the statistics and the
    stack of frames, which comes around these.

    :param files: The Zoo's records of the agent. They are YAML with Python objects, which can run any code: like the
        agent itself, to be trusted.
    :param env_id: Id of the environment.
    :param n_envs: Number of environments that step together.
    :return: The environments, and the number of frames to be stacked, 0 for none.
    :raises ImportError: if the Zoo is not installed.
    """
    import yaml
    from rl_zoo3.utils import create_test_env

    read = {file.name: dict(yaml.load(file.read_text(encoding="utf-8"), yaml.UnsafeLoader)) for file in files}
    # The Zoo itself takes a key without a value for a mistake.
    settings: dict[str, Any] = {key: value for key, value in read.get("config.yml", {}).items() if value}
    kwargs = settings.pop("env_kwargs", None)
    kwargs = read.get("args.yml", {}).get("env_kwargs") or kwargs  # the command line's, where it had any
    n_frames = settings.pop("frame_stack", None) or 0
    venv = create_test_env(
        env_id,
        n_envs,
        should_render=False,
        hyperparams=settings,
        env_kwargs=kwargs,
        vec_env_cls=DummyVecEnv,
    )
    return venv, n_frames
