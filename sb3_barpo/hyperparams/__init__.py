"""
Settings for the RL Zoo. It takes the name of a module for a file: ``--conf-file sb3_barpo.hyperparams.barpo``, on any
machine.
"""

from pathlib import Path
from typing import Any


def read(algo: str) -> dict[str, dict[str, Any]]:
    """
    :param algo: ``"arpo"``, ``"barpo"``, ``"arpo_lstm"`` or ``"barpo_lstm"``.
    :return: The entries by environment, a new dict each time: the Zoo takes from it what it has read.
    """
    import yaml  # one of the Zoo's requirements, none of ours

    entries: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_name(f"{algo}.yml").read_text("utf-8"))
    return entries
