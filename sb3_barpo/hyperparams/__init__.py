"""
Settings for the RL Zoo. It takes the name of a module for a file: ``--conf-file sb3_barpo.hyperparams.barpo``, on any
machine. There is such a module for each of this package's algorithms.

The algorithms that build on one base share its file, ``ppo.yml`` or ``ppo_lstm.yml``. The settings of the outer loss,
such as ``kappa``, are the algorithm's own defaults, and for some environments those of ``losses.yml``.
"""

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from sb3_barpo.algorithms import OURS


def read(algo: str) -> dict[str, dict[str, Any]]:
    """
    :param algo: One of this package's algorithms, such as ``"barpo"``.
    :return: The entries by environment, a new dict each time, because the Zoo removes what it has read.
    """
    import yaml  # one of the Zoo's requirements, none of ours

    row = OURS[algo]
    loss = row.load_class().defence.loss.spec()  # type: ignore[attr-defined]  # one of ours
    entries, losses = (
        yaml.safe_load(Path(__file__).with_name(f"{name}.yml").read_text("utf-8")) for name in (row.base, "losses")
    )
    # The versions of an environment share their settings; null is an environment for which there are none.
    own = {env: losses.get(algo, {}).get(env.partition("-v")[0], {}) for env in entries}
    return {env: {**loss, **entry, **own[env]} for env, entry in entries.items() if own[env] is not None}


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
