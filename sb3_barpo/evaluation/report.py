"""`RobustnessReport`: the rows of an evaluation with its numbers, tables, pictures and files."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from sb3_barpo.evaluation import plots, statistics, tables
from sb3_barpo.evaluation.measures import measures, measures_by_algorithm, told
from sb3_barpo.evaluation.rows import Rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class RobustnessReport(Rows):
    """
    Episodes without an attack and under attacks, of one agent or several on the same episodes: their numbers, tables,
    pictures and files.

    :param frame: One row an episode, see :class:`sb3_barpo.evaluation.rows.Rows`.
    :param judged: What was judged, as JSON can hold it: ``agents`` by name, and how it came about.
    :raises ValueError: if the rows are incomplete, contradict each other, or are not comparable.
    """

    def __init__(self, frame: pd.DataFrame, judged: Mapping[str, Any] | None = None) -> None:
        super().__init__(frame)
        #: What was judged: files, steps, settings of training, environments, versions.
        self.judged: dict[str, Any] = {"agents": {}} if judged is None else dict(judged)

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

    def by_algorithm(self, epsilon: float | None = None) -> pd.DataFrame:
        """
        Statistics over seeds of training, see :func:`sb3_barpo.evaluation.statistics.by_algorithm`.

        :param epsilon: The strength, the largest by default.
        :return: One row an algorithm.
        :raises ValueError: if there are no episodes at this ε.
        """
        return statistics.by_algorithm(self, epsilon)

    def to_markdown(self) -> str:
        """:return: A table, one row for each agent and ε, and a line that says what its figures are."""
        return f"{tables.returns(self)}\n\n{tables.legend(self)}\n"

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

    def plot_epsilon(self, path: str | Path | None = None, mixed_units: bool = False) -> "Figure":
        """
        Draw the return under the worst attack against ε, a line for each agent: its mean with a 95 % bootstrap
        interval over the episodes.

        :param path: File to write, its ending says in what format; ``None`` for none.
        :param mixed_units: Whether to draw agents whose ε are in different units on one axis.
        :return: The figure.
        :raises ImportError: if matplotlib is not installed.
        :raises ValueError: if there is only one ε besides 0, or the agents' ε are in different units.
        :raises OSError: if the file cannot be written.
        """
        return self._written(plots.worst_case_by_epsilon(self, mixed_units), path)

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
        :param path: File to write: ``judged``, ``measures`` (:func:`sb3_barpo.evaluation.measures.measures`, and by
            algorithm where one has several agents) and ``rows``. :meth:`from_json` reads it.
        :raises OSError: if it cannot be written.
        """
        # Not pandas' own writer, which rounds to 15 digits at most.
        seeds = [None if seed is pd.NA else int(seed) for seed in self._frame["train_seed"]]
        records = zip(self._frame.to_dict("records"), seeds, strict=True)
        rows = ",\n".join(json.dumps({**row, "train_seed": seed}) for row, seed in records)
        parts = {"judged": self.judged, "measures": told(measures(self))}
        if self.origins["algorithm"].duplicated().any():
            parts["measures_by_algorithm"] = told(measures_by_algorithm(self))
        said = "".join(f'"{name}": {json.dumps(part)},\n' for name, part in parts.items())
        with _writing(path) as target:
            target.write_text(f'{{{said}"rows": [\n{rows}\n]}}\n', encoding="utf-8")

    @classmethod
    def from_csv(cls, path: str | Path) -> "RobustnessReport":
        """:return: The report that :meth:`to_csv` wrote."""
        # All as text, turned into exact numbers later: an agent may well be called "None" or "007".
        return cls(pd.read_csv(path, dtype=str, keep_default_na=False))

    @classmethod
    def from_json(cls, path: str | Path) -> "RobustnessReport":
        """:return: The report that :meth:`to_json` wrote."""
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if isinstance(content, list):  # version 0.1 wrote the rows alone
            return cls(pd.DataFrame(content))
        return cls(pd.DataFrame(content["rows"]), content["judged"])

    @classmethod
    def merge(cls, reports: "Iterable[RobustnessReport]") -> "RobustnessReport":
        """
        :param reports: Reports on different agents, evaluated with the same attacks, ε and seeds.
        :return: One report on all of them.
        :raises ValueError: if there are none, if an agent occurs twice, or the episodes differ.
        """
        merged = list(reports)
        if not merged:
            raise ValueError("merge needs at least one report, but it got none.")
        judged = {key: value for report in merged for key, value in report.judged.items()}
        judged["agents"] = {name: one for report in merged for name, one in report.judged["agents"].items()}
        return cls(pd.concat([report.to_frame() for report in merged], ignore_index=True), judged)

    def __repr__(self) -> str:
        return (
            f"RobustnessReport(agents={self.agents}, attacks={self.attacks}, epsilons={self.epsilons}, "
            f"n_episodes={len(self.seeds)})"
        )

    def _repr_html_(self) -> str:
        """A notebook shows this."""
        table = tables.returns(self, "html")
        return f"<p>{escape(self.verdict())}</p>{table}<p>{escape(tables.legend(self))}</p>"

    def __str__(self) -> str:
        return self.to_markdown()


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
