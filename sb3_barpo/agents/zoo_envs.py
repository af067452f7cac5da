"""The RL Zoo's records of the environments that its agents were trained on."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

#: What the Zoo's records say of environments that ``make_vec_env`` alone does not make: a key and its value, in YAML's
#: two ways, ``key: value`` and the list of pairs that an OrderedDict becomes.
_CHANGED = re.compile(
    r"""^[\s-]*['"]?(env_wrapper|vec_env_wrapper|frame_stack|env_kwargs|gym_packages)['"]?(?::|\s*\n)[\s-]*(\S+)""",
    re.MULTILINE,
)
_NOTHING = {"null", "~", "None", "[]", "{}"}
_NAMES = ("config.yml", "args.yml")


def records(folders: Sequence[Path]) -> list[Path]:
    """
    :param folders: Where they may be. A model from the Hugging Face Hub has them beside it.
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
    return list(dict.fromkeys(key for key, value in found if value.rstrip(",") not in _NOTHING))


def read(files: Sequence[Path]) -> dict[str, Any]:
    """
    :param files: The Zoo's records of an agent. They are YAML with Python objects, which can run any code: like the
        agent itself, load them only if you trust them.
    :return: The settings of the environment, as :func:`sb3_barpo.environments.build` takes them, and ``gym_packages``.
    :raises ImportError: if PyYAML, which the Zoo brings, is not installed.
    """
    import yaml

    read = {file.name: dict(yaml.load(file.read_text(encoding="utf-8"), yaml.UnsafeLoader)) for file in files}
    settings, given = read.get("config.yml", {}), read.get("args.yml", {})
    # The command line's come before the file's.
    own = {key: given[key] for key in ("env_kwargs", "gym_packages") if given.get(key)}
    return {key: value for key, value in (settings | own).items() if value}
