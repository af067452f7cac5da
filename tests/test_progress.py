"""Progress: one bar in a terminal, over processes too; plain lines without one."""

import sys

import pytest
from joblib import Parallel, delayed

from sb3_barpo.evaluation.progress import Progress, Tell


def work(tell: Tell) -> str:
    for _ in range(3):
        tell(1000)
    tell(0)
    return "it"


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_terminal_shows_one_bar_over_all_steps(
    n_jobs: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress("fits", 2, 6000, "step", True, n_jobs) as progress:
        for label in Parallel(n_jobs, return_as="generator")(delayed(work)(progress.tell) for _ in range(2)):
            progress.finished(label)
    shown = capsys.readouterr().err
    assert "fits 2/2: 100%" in shown
    assert "6.00k/6.00k" in shown
    assert "\n" not in shown.rstrip("\n")


def test_without_a_terminal_each_unit_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("fits", 2, 6000, "step", True) as progress:
        for _ in range(2):
            progress.finished(work(progress.tell))
    assert capsys.readouterr().err == "fits 1/2: it\nfits 2/2: it\n"


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("fits", 1, 3000, "step", False, 2) as progress:
        progress.finished(work(progress.tell))
    assert capsys.readouterr().err == ""
