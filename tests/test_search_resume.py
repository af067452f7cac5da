"""Searches that are killed while a fit is under way: what is stored, what is resumed, what is said."""

from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers import same
from learned import knowledge
from test_search import FAST, find, records, siege

from sb3_barpo import seeds
from sb3_barpo.attacks import reversed_roles
from sb3_barpo.evaluation import members
from sb3_barpo.evaluation.budgets import Budget, Member
from sb3_barpo.evaluation.search import find_attacks

LONG = Budget({"sarl": [Member("sarl", 160, FAST)], "robust_sarsa": [Member("robust_sarsa", 64, {"n_epochs": 4})]}, 2)


class KilledError(Exception):
    pass


def die_after(n_stages: int, monkeypatch: pytest.MonkeyPatch, error: type[BaseException] = KilledError) -> Any:
    """The process dies when so many stages are stored. :return: A context that expects it."""
    left = [n_stages]
    replacing = members.replacing

    @contextmanager
    def counted(path: Path) -> Any:
        with replacing(path) as file:
            yield file
        left[0] -= path.suffix == ".part"
        if left[0] == 0:
            raise error

    monkeypatch.setattr(members, "replacing", counted)
    return pytest.raises(error)


@pytest.mark.parametrize("name", ["sarl", "robust_sarsa"])
def test_a_fit_under_way_is_resumed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each of its stages, and ends as one that was never interrupted, bit for bit."""
    monkeypatch.setattr(reversed_roles, "STAGE", 32)
    (whole,) = find_attacks([siege(tmp_path / "whole")], [name], 0.3, LONG)
    for kills in (1, 2, 1):
        with monkeypatch.context() as patch, die_after(kills, patch):
            find_attacks([siege(tmp_path / "parts")], [name], 0.3, LONG)
        assert len(list((tmp_path / "parts").glob("*.part"))) == 1
    (resumed,) = find_attacks([siege(tmp_path / "parts")], [name], 0.3, LONG)
    assert same(knowledge(resumed[name]), knowledge(whole[name]))
    assert resumed[name].origin == whole[name].origin
    (one,), (other,) = (records(tmp_path / folder).values() for folder in ("whole", "parts"))
    assert one["returns"] == other["returns"]
    assert not list((tmp_path / "parts").glob("*.part"))


def test_an_interrupted_search_says_what_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reversed_roles, "STAGE", 32)
    grid = Budget({"sarl": LONG.members["sarl"], "paad": [Member("paad", 32, FAST)]}, 2)
    find_attacks([siege(tmp_path)], ["paad"], 0.3, grid)
    said = r"0 of 1 attackers are stored, and sarl after 64 of 160 steps; the rest is not"
    with monkeypatch.context() as patch, die_after(2, patch, KeyboardInterrupt) as caught:
        find_attacks([siege(tmp_path)], ["sarl"], 0.3, grid)
    assert str(caught.value) == said


def test_progress_of_a_resumed_search_counts_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reversed_roles, "STAGE", 32)
    with monkeypatch.context() as patch, die_after(3, patch):
        find_attacks([siege(tmp_path)], ["sarl"], 0.3, LONG)
    totals: list[int] = []
    begin = members.Progress.__init__

    def listen(self: Any, what: str, n_units: int, n_steps: int, *args: Any) -> None:
        totals.append(n_steps)
        begin(self, what, n_units, n_steps, *args)

    monkeypatch.setattr(members.Progress, "__init__", listen)
    find_attacks([siege(tmp_path)], ["sarl"], 0.3, LONG)
    assert totals == [160 - 96]


def test_attackers_learn_from_other_seeds_than_those_of_any_report(tmp_path: Path) -> None:
    attack = find(tmp_path, ["sarl"], seed=10_000)["sarl"]
    assert attack.origin.seed == 2_010_000
    assert attack.origin.seed in seeds.FITS
