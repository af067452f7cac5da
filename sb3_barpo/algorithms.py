"""
The one table of algorithms. Loading, the RL Zoo, experiments, tuning and the command line read their algorithms here.

A new algorithm is one row, two with its recurrent form.
"""

import importlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_barpo.policies.spaces import usual_policy


@dataclass(frozen=True)
class Algorithm:
    """
    One row of the table.

    :param name: Name in the RL Zoo and on the command line.
    :param module: Module of the class. It is imported only when it is needed: sb3-contrib is an extra.
    :param class_name: Name of the class.
    :param base: For the algorithms of this package, the algorithm of the RL Zoo that it builds on; ``""`` for others.
    :param memory: Whether the policy is recurrent.
    :param settings: For the algorithms of this package, the settings of its outer loss, such as ``kappa``.
    :param signs: Settings that tell a file which does not name its algorithm, see :func:`recognize`.
    :param without: Settings that such a file does not have.
    """

    name: str
    module: str
    class_name: str
    base: str = ""
    memory: bool = False
    settings: tuple[str, ...] = ()
    signs: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    def load_class(self) -> type[OnPolicyAlgorithm]:
        """
        :return: The class.
        :raises ValueError: if its package is not installed.
        """
        try:
            found: type[OnPolicyAlgorithm] = getattr(importlib.import_module(self.module), self.class_name)
        except ImportError as error:
            raise ValueError(f"An agent of {self.class_name} needs sb3_contrib: pip install sb3-contrib") from error
        return found

    def policy(self, space: spaces.Space[Any]) -> str:
        """
        :param space: The observations.
        :return: The name of the policy that the algorithm is trained with.
        """
        name = usual_policy(space)
        return name.replace("Policy", "LstmPolicy") if self.memory else name


def _ours(name: str, class_name: str, *settings: str, memory: bool = False) -> Algorithm:
    base = "ppo_lstm" if memory else "ppo"
    return Algorithm(
        name, "sb3_barpo", class_name, base, memory, settings, signs=("clip_range", "epsilon", "adversary")
    )


_ROWS = (
    Algorithm("ppo", "stable_baselines3", "PPO", signs=("clip_range",)),
    Algorithm("a2c", "stable_baselines3", "A2C", signs=("normalize_advantage",), without=("batch_size",)),
    Algorithm("trpo", "sb3_contrib", "TRPO", signs=("cg_max_steps",)),
    # Before ARPO: a file that does not say which of the two it is, is loaded as BARPO.
    _ours("barpo", "BARPO", "kappa"),
    _ours("arpo", "ARPO", "kappa"),
    _ours("sappo", "SAPPO", "weight"),
    _ours("sappo_convex", "ConvexSAPPO", "weight", "intervals"),
    _ours("sppo", "SPPO", "weight"),
    _ours("carppo", "CARPPO", "weight", "temperature"),
    _ours("radialppo", "RADIALPPO", "weight", "intervals"),
    _ours("wocarppo", "WocaRPPO", "weight", "penalty"),
    _ours("atla", "ATLA", "weight"),
    Algorithm("ppo_lstm", "sb3_contrib", "RecurrentPPO", memory=True, signs=("clip_range",)),
    _ours("barpo_lstm", "RecurrentBARPO", "kappa", memory=True),
    _ours("arpo_lstm", "RecurrentARPO", "kappa", memory=True),
    _ours("sappo_lstm", "RecurrentSAPPO", "weight", memory=True),
    _ours("carppo_lstm", "RecurrentCARPPO", "weight", "temperature", memory=True),
    _ours("atla_lstm", "RecurrentATLA", "weight", memory=True),
)
#: The table, by name.
ALGORITHMS: dict[str, Algorithm] = {row.name: row for row in _ROWS}
#: The rows of this package's algorithms, by name.
OURS: dict[str, Algorithm] = {name: row for name, row in ALGORITHMS.items() if row.base}


def find(name: str) -> Algorithm:
    """
    :param name: Name of an algorithm.
    :return: Its row.
    :raises ValueError: for an unknown name.
    """
    if name not in ALGORITHMS:
        raise ValueError(f"Unknown algorithm {name!r}. Choose from {', '.join(ALGORITHMS)}.")
    return ALGORITHMS[name]


def algorithm(name: str) -> type[OnPolicyAlgorithm]:
    """
    :param name: Name of an algorithm.
    :return: Its class.
    :raises ValueError: for an unknown name, or if the class's package is not installed.
    """
    return find(name).load_class()


def recognize(class_name: str | None, settings: Collection[str], memory: bool) -> Algorithm | None:
    """
    Tell the algorithm of a saved file. This package's files name their class. Others are told by the settings that they
    hold, and so are files of your own subclasses: they are loaded as the most similar class of this package.

    :param class_name: The class that the file names, ``None`` if it names none.
    :param settings: Names of all settings that it holds.
    :param memory: Whether its policy is recurrent.
    :return: The algorithm's row, ``None`` if no row fits.
    """
    for row in OURS.values():
        if row.class_name == class_name:
            return row
    names = set(settings)
    fitting = [
        row
        for row in ALGORITHMS.values()
        if row.memory == memory and names.issuperset(row.signs) and names.isdisjoint(row.without)
    ]
    # The row with the most signs, then with the most settings of a loss; of equals, the first.
    return max(fitting, key=lambda row: (len(row.signs), len(names.intersection(row.settings))), default=None)
