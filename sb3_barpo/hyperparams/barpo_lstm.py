"""``barpo_lstm.yml``, as the RL Zoo reads a module: under the name ``hyperparams``."""

from typing import Any

from sb3_barpo.hyperparams import read


def __getattr__(name: str) -> Any:
    if name == "hyperparams":
        return read("barpo_lstm")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
