"""`RobustnessReport`: what the episodes say about one agent or several."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sb3_barpo.evaluation import plots, tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The columns of a report's rows.
COLUMNS = ["agent", "attack", "epsilon", "episode", "seed", "return", "length"]
#: The attack that is none.
NATURAL = "natural"

_TYPES = {"agent": str, "attack": str, "epsilon": float, "episode": int, "seed": int, "return": float, "length": int}


class RobustnessReport:
    """
    Episodes without an attack and under attacks, of one agent or several on the same episodes.

    :param frame: One row an episode, with the columns ``agent``, ``attack`` (``"natural"``: none), ``epsilon`` (0 for
        natural rows), ``episode``, ``seed``, ``return`` and ``length``.
    :raises ValueError: if columns or rows are missing, a return is NaN or infinite, an episode occurs twice, or the
        agents did not go through the same attacks and seeds.
    """

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame = _checked(frame)

    @property
    def agents(self) -> list[str]:
        """The agents, in the order of the rows."""
        return list(self._frame["agent"].unique())

    @property
    def attacks(self) -> list[str]:
        """The attacks, in the order of the rows; natural is none."""
        return [attack for attack in self._frame["attack"].unique() if attack != NATURAL]

    @property
    def epsilons(self) -> list[float]:
        """The strengths of the attacks, rising."""
        attacked = self._frame[self._frame["attack"] != NATURAL]
        return sorted(float(epsilon) for epsilon in attacked["epsilon"].unique())

    @property
    def seeds(self) -> list[int]:
        """The seeds of the episodes, which are the same for every agent and attack; rising."""
        return sorted(int(seed) for seed in self._frame["seed"].unique())

    @property
    def natural(self) -> float:
        """Mean return without an attack. For a single agent, like the two that follow."""
        return self._single("natural")

    @property
    def worst_case(self) -> float:
        """The lowest mean return over the attacks at the largest ε."""
        return self._single("worst_case")

    @property
    def robustness(self) -> float:
        """
        ``(worst_case − natural) / |natural|``: −0.2 says that the worst attack takes a fifth of the return. For a
        positive natural return this is the paper's measure; the absolute value keeps a loss negative for the others.
        NaN for a natural return of 0.
        """
        return self._single("robustness")

    def _single(self, column: str) -> float:
        if len(self.agents) > 1:
            raise ValueError(
                f"There is one {column} per agent, and this report holds {', '.join(self.agents)}: use summary()."
            )
        return float(self.summary()[column].iloc[0])

    def summary(self, epsilon: float | None = None) -> pd.DataFrame:
        """
        :param epsilon: Which strength to look at, the largest by default.
        :return: One row an agent: mean and population standard deviation of the returns over the episodes, natural and
            under each attack at this ε (``mad``, ``mad_std``); ``worst_attack``, ``worst_case``, ``robustness``.
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
        table["robustness"] = (table["worst_case"] - natural) / natural.abs().where(natural != 0)
        return table

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

    def to_frame(self) -> pd.DataFrame:
        """:return: The rows, one an episode; a copy."""
        return self._frame.copy()

    def to_markdown(self) -> str:
        """:return: A table, one row for each agent and ε, and a line that says what its figures are."""
        return tables.markdown(self)

    def verdict(self) -> str:
        """:return: One sentence: what each agent keeps under the worst attack, and who has the highest worst case."""
        return tables.verdict(self)

    def plot(self, path: str | Path | None = None, epsilon: float | None = None) -> "Figure":
        """
        Draw the returns by attack, the agents side by side: every episode a dot, the mean a line.

        :param path: File to write, its ending says in what format; ``None`` for none.
        :param epsilon: Which strength to look at, the largest by default.
        :return: The figure.
        :raises ImportError: if matplotlib is not installed.
        :raises ValueError: if there are no episodes at this ε.
        :raises OSError: if the file cannot be written.
        """
        return self._written(plots.returns_by_attack(self, epsilon), path)

    def plot_epsilon(self, path: str | Path | None = None) -> "Figure":
        """
        Draw the return under the worst attack against ε, a line for each agent: mean and standard deviation.

        :param path: File to write, its ending says in what format; ``None`` for none.
        :return: The figure.
        :raises ImportError: if matplotlib is not installed.
        :raises ValueError: if there is only one ε besides 0.
        :raises OSError: if the file cannot be written.
        """
        return self._written(plots.worst_case_by_epsilon(self), path)

    def _written(self, figure: "Figure", path: str | Path | None) -> "Figure":
        if path is not None:
            with _writing(path) as target:
                figure.savefig(target)
        return figure

    def to_csv(self, path: str | Path) -> None:
        """
        :param path: File to write. :meth:`from_csv` reads it.
        :raises OSError: if it cannot be written.
        """
        with _writing(path) as target:
            target.write_text(self._frame.to_csv(index=False), encoding="utf-8")

    def to_json(self, path: str | Path) -> None:
        """
        :param path: File to write: a list of rows. :meth:`from_json` reads it.
        :raises OSError: if it cannot be written.
        """
        # Not pandas' own writer, which rounds to 15 digits at most.
        rows = ",\n".join(json.dumps(row) for row in self._frame.to_dict("records"))
        with _writing(path) as target:
            target.write_text(f"[\n{rows}\n]\n", encoding="utf-8")

    @classmethod
    def from_csv(cls, path: str | Path) -> "RobustnessReport":
        """:return: The report that :meth:`to_csv` wrote."""
        # All as text, turned into exact numbers later: an agent may well be called "None" or "007".
        return cls(pd.read_csv(path, dtype=str, keep_default_na=False))

    @classmethod
    def from_json(cls, path: str | Path) -> "RobustnessReport":
        """:return: The report that :meth:`to_json` wrote."""
        return cls(pd.DataFrame(json.loads(Path(path).read_text(encoding="utf-8"))))

    @classmethod
    def merge(cls, reports: "Iterable[RobustnessReport]") -> "RobustnessReport":
        """
        :param reports: Reports on different agents, evaluated with the same attacks, ε and seeds.
        :return: One report on all of them.
        :raises ValueError: if there are none, if an agent occurs twice, or the episodes differ.
        """
        frames = [report.to_frame() for report in reports]
        if not frames:
            raise ValueError("merge needs at least one report, but it got none.")
        return cls(pd.concat(frames, ignore_index=True))

    def __repr__(self) -> str:
        return (
            f"RobustnessReport(agents={self.agents}, attacks={self.attacks}, epsilons={self.epsilons}, "
            f"n_episodes={len(self.seeds)})"
        )

    def __str__(self) -> str:
        return self.to_markdown()


def _checked(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with its columns in order and of the right types, or an error that says what is wrong with it."""
    missing = [column for column in COLUMNS if column not in frame.columns]
    if missing or frame.empty:
        raise ValueError(f"A report needs rows with the columns {COLUMNS}: there are {len(frame)}, without {missing}.")
    frame = frame[COLUMNS].astype(_TYPES).reset_index(drop=True)
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
    _check_comparable(frame)
    return frame


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


@contextmanager
def _writing(path: str | Path) -> Iterator[Path]:
    """Makes the folders above; an error names the path."""
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield target
    except OSError as error:
        raise OSError(
            f"Cannot write {str(path)!r}: {error.strerror or error}. Nothing is lost: write the report somewhere else."
        ) from error
