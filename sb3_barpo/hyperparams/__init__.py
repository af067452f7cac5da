"""
Settings for the RL Zoo. It takes the name of a module for a file: ``--conf-file sb3_barpo.hyperparams.barpo``, on any
machine. There is such a module for each of this package's algorithms.

The algorithms that build on one base share its file, ``ppo.yml`` or ``ppo_lstm.yml``. The settings of the outer loss,
such as ``kappa``, are the algorithm's own defaults, and for some environments those of ``losses.yml``.
"""

import copy
import functools
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium

from sb3_barpo.algorithms import OURS

#: The algorithms on which this package's build. They take the same entries, without an adversary's strength.
BASES = {row.base for row in OURS.values()}


def read(algo: str) -> dict[str, dict[str, Any]]:
    """
    :param algo: One of this package's algorithms, such as ``"barpo"``, or one on which they build, ``"ppo"`` or
        ``"ppo_lstm"``.
    :return: The entries by environment, a new dict each time, because the Zoo removes what it has read.
    :raises ValueError: for another algorithm.
    """
    if algo in BASES:
        return {env: _without_strength(entry) for env, entry in _file(algo).items()}
    if algo not in OURS:
        raise ValueError(f"There are no entries for {algo!r}, only for {', '.join([*sorted(BASES), *OURS])}.")
    row = OURS[algo]
    loss = row.load_class().defence.loss.spec()  # type: ignore[attr-defined]  # one of ours
    entries, losses = _file(row.base), _file("losses")
    # The versions of an environment share their settings; null is an environment for which there are none.
    own = {env: losses.get(algo, {}).get(env.partition("-v")[0], {}) for env in entries}
    return {env: {**loss, **entry, **own[env]} for env, entry in entries.items() if own[env] is not None}


def entry(algo: str, env: str) -> dict[str, Any]:
    """
    :param algo: An algorithm that :func:`read` takes.
    :param env: Id of an environment.
    :return: Its entry, chosen as the RL Zoo chooses it: its own, that of Atari, or the default one.
    :raises ValueError: for an algorithm without entries.
    """
    entries = read(algo)
    is_atari = env in gymnasium.registry and "AtariEnv" in str(gymnasium.spec(env).entry_point)
    usual = "atari" if is_atari and "atari" in entries else "default"
    return dict(entries.get(env, entries[usual]))


def _file(name: str) -> dict[str, dict[str, Any]]:
    """A copy: parsing takes long, and a comparison of many agents asks often."""
    return copy.deepcopy(_parsed(name))


@functools.cache
def _parsed(name: str) -> dict[str, dict[str, Any]]:
    try:
        import yaml  # one of the Zoo's requirements, none of ours
    except ImportError as error:
        raise ImportError('The packaged settings need PyYAML: pip install "sb3-barpo[zoo]"') from error
    content: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_name(f"{name}.yml").read_text("utf-8"))
    return content


def _without_strength(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "epsilon"}


class _Settings(ModuleType):
    """A module in the form that the Zoo asks for."""

    @property
    def hyperparams(self) -> dict[str, dict[str, Any]]:
        """The entries, read from the file each time."""
        return read(self.__name__.rpartition(".")[2])


def __getattr__(name: str) -> ModuleType:
    if name in OURS:
        return sys.modules[f"{__name__}.{name}"]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# A file of two lines for each algorithm would do the same.
for _name in OURS:
    _module = _Settings(f"{__name__}.{_name}", f"The entries of {_name}.")
    _module.__spec__ = ModuleSpec(_module.__name__, None)
    sys.modules[_module.__name__] = _module
