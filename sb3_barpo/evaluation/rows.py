"""`Rows`: one row an episode, from which reports, tables, pictures and statistics are made."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

#: What the rows of an evaluation without an attack say under ``attack``.
NATURAL = "natural"

_TYPES: dict[str, Any] = {
    "agent": str,
    "algorithm": str,
    "train_seed": "Int64",  # NA where it is unknown
    "env": str,
    "unit": str,
    "attack": str,
    "epsilon": float,
    "episode": int,
    "seed": int,
    "return": float,
    "length": int,
}
#: The columns, in their order.
COLUMNS = list(_TYPES)


class Origin(NamedTuple):
    """
    Where an agent comes from.

    :param agent: Its name, unique in a report.
    :param algorithm: What trained it, or a label of how it was trained. Agents that share it differ in
        ``train_seed`` only, and are summarised together.
    :param train_seed: The seed that it was trained with, ``None`` if it is unknown.
    :param env: Id of its environment, empty if it is unknown.
    :param unit: What ε is measured in: ``"std"`` for standard deviations, under ``VecNormalize``, ``"raw"`` for the
        environment's own units, ``"sheet"`` for shares of a spec sheet, empty if it is unknown.
    """

    agent: str
    algorithm: str
    train_seed: int | None
    env: str = ""
    unit: str = ""


def make_rows(
    origin: Origin, attack: str, epsilon: float, seed: int, episodes: Iterable[tuple[float, int]]
) -> list[tuple[Any, ...]]:
    """
    :param origin: Who acted.
    :param attack: Name of the attack, :data:`NATURAL` for none.
    :param epsilon: Its strength, 0 for none.
    :param seed: Seed of the first episode; the k-th has ``seed + k``.
    :param episodes: Return and length of each.
    :return: A tuple for each episode, in the order of :data:`COLUMNS`.
    """
    return [(*origin, attack, epsilon, k, seed + k, *episode) for k, episode in enumerate(episodes)]


class Rows:
    """
    Episodes without an attack and under attacks, of one agent or several on the same episodes.

    :param frame: One row an episode, with the columns ``agent``, ``algorithm``, ``train_seed``, ``env`` and ``unit``
        (see :class:`Origin`), ``attack`` (``"natural"`` for no attack), ``epsilon`` (0 for natural rows), ``episode``,
        ``seed``, ``return`` and ``length``. Files of version 0.1 say less of an agent's origin: algorithm and seed are
        then read from its name, if that is of the form ``<algorithm>-seed<seed>``.
    :raises ValueError: if columns or rows are missing, a return is NaN or infinite, an episode occurs twice, an agent
        has two origins, or the agents did not go through the same attacks and seeds.
    """

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame = _checked(frame)

    @property
    def agents(self) -> list[str]:
        """The agents, in the order of the rows."""
        return list(self._frame["agent"].unique())

    @property
    def attacks(self) -> list[str]:
        """The attacks, in the order of the rows, without natural."""
        return [attack for attack in self._frame["attack"].unique() if attack != NATURAL]

    @property
    def epsilons(self) -> list[float]:
        """The strengths of the attacks, ascending."""
        attacked = self._frame[self._frame["attack"] != NATURAL]
        return sorted(float(epsilon) for epsilon in attacked["epsilon"].unique())

    @property
    def seeds(self) -> list[int]:
        """The seeds of the episodes, ascending. They are the same for every agent and attack."""
        return sorted(int(seed) for seed in self._frame["seed"].unique())

    @property
    def origins(self) -> pd.DataFrame:
        """What is known of each agent: ``algorithm``, ``train_seed``, ``env`` and ``unit``."""
        return self._frame.drop_duplicates("agent").set_index("agent")[list(Origin._fields[1:])]

    @property
    def env(self) -> str:
        """The agents' environments, joined by commas; empty if they are unknown."""
        return ", ".join(env for env in self.origins["env"].unique() if env)

    @property
    def units(self) -> list[str]:
        """The units of ε, in the order of the rows; one where all agents' observations are measured alike."""
        return list(self.origins["unit"].unique())

    def at(self, epsilon: float | None = None) -> pd.DataFrame:
        """
        :param epsilon: A strength, the largest by default.
        :return: The natural rows and those of the attacks at this ε.
        :raises ValueError: if there are no episodes at this ε.
        """
        chosen = self.epsilons[-1] if epsilon is None else epsilon
        if chosen not in self.epsilons:
            raise ValueError(f"There are no episodes at ε = {chosen}. Choose from {self.epsilons}.")
        natural = self._frame["attack"] == NATURAL
        return self._frame[natural | (self._frame["epsilon"] == chosen)].reset_index(drop=True)

    def summary(self, epsilon: float | None = None) -> pd.DataFrame:
        """
        :param epsilon: The strength, the largest by default.
        :return: One row an agent: mean and population standard deviation of the returns over the episodes, natural and
            under each attack at this ε (``mad``, ``mad_std``); ``worst_attack``, ``worst_case``, ``robustness``; and
            ``best_response``, the mean over the episodes of the lowest return under any attack: what an adversary takes
            who may choose the attack for each start.
        :raises ValueError: if there are no episodes at this ε.
        """
        rows = self.at(epsilon)
        attacks = [attack for attack in rows["attack"].unique() if attack != NATURAL]
        groups = rows.groupby(["agent", "attack"], sort=False)["return"]
        means = groups.mean().unstack("attack").loc[self.agents, [NATURAL, *attacks]]
        stds = groups.std(ddof=0).unstack("attack").loc[means.index, means.columns].add_suffix("_std")
        columns = [column for attack in means.columns for column in (attack, f"{attack}_std")]
        table = pd.concat([means, stds], axis="columns")[columns]
        table.columns.name = None
        table["worst_attack"] = means[attacks].idxmin(axis="columns")
        table["worst_case"] = means[attacks].min(axis="columns")
        natural = table[NATURAL]
        lowest = rows[rows["attack"] != NATURAL].groupby(["agent", "seed"], sort=False)["return"].min()
        table["best_response"] = lowest.groupby("agent").mean()
        table["robustness"] = (table["worst_case"] - natural) / natural.abs().where(natural != 0)
        return table

    def to_frame(self) -> pd.DataFrame:
        """:return: A copy of the rows, one an episode."""
        return self._frame.copy()


def _checked(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with its columns in order and of the right types, or an error that says what is wrong with it."""
    frame = _with_origins(frame)
    missing = [column for column in COLUMNS if column not in frame.columns]
    if missing or frame.empty:
        raise ValueError(f"A report needs rows with the columns {COLUMNS}: there are {len(frame)}, without {missing}.")
    frame = frame.assign(train_seed=pd.to_numeric(frame["train_seed"]))[COLUMNS].astype(_TYPES).reset_index(drop=True)
    broken = frame[~np.isfinite(frame["return"])]
    if len(broken):
        first = broken.iloc[0]
        raise ValueError(
            f"A return must be finite, but {first['agent']}'s is {first['return']} under {first['attack']} in the "
            f"episode of seed {first['seed']}. Find the environment's fault, with VecCheckNan for example."
        )
    doubled = frame[frame.duplicated(["agent", "attack", "epsilon", "seed"])]
    if len(doubled):
        first = doubled.iloc[0]
        raise ValueError(
            f"An episode must occur once, but that of {first['agent']} under {first['attack']} at ε = "
            f"{first['epsilon']:g} with seed {first['seed']} occurs twice. Are there two agents of one name? Give each "
            "its own: evaluate_robustness(..., name=...)."
        )
    _check_origins(frame)
    _check_comparable(frame)
    return frame


def _with_origins(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of version 0.1, whose agents' names were their only origin."""
    absent = [column for column in Origin._fields if column not in frame.columns]
    if not absent or "agent" in absent:
        return frame
    parts = frame["agent"].astype(str).str.extract(r"^(?P<algorithm>.*?)(?:-seed(?P<train_seed>\d+))?$")
    return frame.assign(**{column: parts.get(column, "") for column in absent})


def _check_origins(frame: pd.DataFrame) -> None:
    origins = frame[list(Origin._fields)].drop_duplicates()
    doubled: Sequence[str] = sorted(origins.loc[origins.duplicated("agent"), "agent"])
    if doubled:
        raise ValueError(
            f"An agent has one algorithm, train_seed, env and unit, but {', '.join(doubled)} has several. Give each "
            "agent a name of its own."
        )


def _check_comparable(frame: pd.DataFrame) -> None:
    seeds = frame.groupby(["attack", "epsilon", "agent"], sort=False)["seed"].agg(frozenset).unstack("agent")
    if NATURAL not in seeds.index.get_level_values("attack") or len(seeds) < 2:
        raise ValueError(f"A report needs {NATURAL!r} rows and those of an attack, but it has {list(seeds.index)}.")
    if len(set(seeds.to_numpy().ravel())) > 1:
        counts = seeds.apply(lambda some: some.map(lambda one: len(one) if isinstance(one, frozenset) else 0))
        raise ValueError(
            "All agents must go through the same attacks at the same ε with the same seeds, but they did not. Evaluate "
            f"them with the same settings. Episodes of each (their seeds may differ too):\n{counts.to_string()}"
        )
