"""The report's arithmetic against numbers worked out by hand, its round trips, its words and its pictures."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sb3_barpo.evaluation import RobustnessReport

#: Mean returns of the episodes of seeds 0 and 1, by agent and attack.
HAND = {
    "PPO": {("natural", 0.0): [100, 300], ("random", 0.1): [180, 200], ("mad", 0.1): [40, 60]},
    "BARPO": {("natural", 0.0): [150, 170], ("random", 0.1): [150, 160], ("mad", 0.1): [140, 148]},
}
OLD = ["agent", "attack", "epsilon", "episode", "seed", "return", "length"]
Returns = dict[tuple[str, float], list[float]]


def report_of(**agents: Returns) -> RobustnessReport:
    rows = [
        (agent, attack, epsilon, k, k, value, 10 + k)
        for agent, results in agents.items()
        for (attack, epsilon), values in results.items()
        for k, value in enumerate(values)
    ]
    return RobustnessReport(pd.DataFrame(rows, columns=OLD))


def natural_and_mad(natural: list[float], mad: list[float]) -> Returns:
    return {("natural", 0.0): natural, ("mad", 0.1): mad}


def test_the_three_numbers_of_one_agent() -> None:
    report = report_of(PPO=HAND["PPO"])
    assert report.natural == 200
    assert report.worst_case == 50
    assert report.robustness == -0.75


def test_summary_of_two_agents() -> None:
    table = report_of(**HAND).summary()
    assert list(table.index) == ["PPO", "BARPO"]
    assert table["worst_attack"].to_list() == ["mad", "mad"]
    assert table["worst_case"].to_list() == [50, 144]
    assert table["natural_std"].to_list() == [100, 10]  # of the population
    assert table["robustness"].to_list() == [-0.75, -0.1]


@pytest.mark.parametrize("name", ["natural", "worst_case", "robustness"])
def test_the_numbers_of_one_agent_refuse_two(name: str) -> None:
    with pytest.raises(ValueError, match=rf"one {name} per agent.*PPO, BARPO.*summary"):
        getattr(report_of(**HAND), name)


def test_a_loss_is_negative_whatever_the_sign_of_the_natural_return() -> None:
    assert report_of(A=natural_and_mad([-100, -100], [-150, -150])).robustness == -0.5
    assert math.isnan(report_of(A=natural_and_mad([0, 0], [-1, -1])).robustness)


def test_the_largest_strength_counts_unless_another_is_named() -> None:
    report = report_of(A={("natural", 0.0): [10], ("mad", 0.1): [8], ("mad", 0.2): [4]})
    assert report.epsilons == [0.1, 0.2]
    assert report.worst_case == 4
    assert report.summary(0.1)["worst_case"].item() == 8
    with pytest.raises(ValueError, match=r"no episodes at ε = 0.3. Choose from \[0.1, 0.2\]"):
        report.summary(0.3)


def test_the_best_response_chooses_the_attack_for_each_start() -> None:
    """Two attacks that take as much in the mean, each from another episode."""
    both = {("natural", 0.0): [10, 10], ("mad", 0.1): [1, 9], ("random", 0.1): [8, 2]}
    table = report_of(A=both, B={**both, ("random", 0.1): [10, 10]}).summary()
    assert table["worst_case"].to_list() == [5, 5]
    assert table["best_response"].to_list() == [1.5, 5]
    alone = report_of(A=natural_and_mad([10, 10], [1, 9]))
    assert alone.summary()["best_response"].to_list() == [5]
    assert "est response" in report_of(A=both).to_markdown()
    assert "est response" not in alone.to_markdown()


def test_merge_keeps_the_agents_apart() -> None:
    merged = RobustnessReport.merge([report_of(PPO=HAND["PPO"]), report_of(BARPO=HAND["BARPO"])])
    assert merged.to_frame().equals(report_of(**HAND).to_frame())


@pytest.mark.parametrize("form", ["csv", "json"])
def test_round_trip(form: str, tmp_path: Path) -> None:
    report = report_of(
        **{"None": natural_and_mad([1 / 3, 2e-17], [0.1, 1e300]), "007": natural_and_mad([1, 2], [3, 4])}
    )
    path = tmp_path / "new" / f"rows.{form}"
    getattr(report, f"to_{form}")(path)
    back = getattr(RobustnessReport, f"from_{form}")(path)
    assert back.to_frame().equals(report.to_frame())
    assert back.agents == ["None", "007"]


def test_markdown_holds_every_figure() -> None:
    table = report_of(**HAND).to_markdown()
    cells = [cell.strip() for cell in table.splitlines()[2].split("|")[1:-1]]
    assert cells == ["PPO", "0.1", "200 ± 100", "190 ± 10", "50.0 ± 10.0", "50.0", "50.0", "−75 %"]
    assert "2 episodes" in table
    assert "seeds 0 to 1" in table


@pytest.mark.parametrize(
    ("ppo", "barpo", "says"),
    [
        ([50, 50], [90, 90], "BARPO has the highest worst case."),
        ([90, 90], [50, 50], "PPO has the highest worst case."),
        ([90, 90], [90, 90], "PPO and BARPO share the highest worst case"),
        ([10, 90], [20, 90], "BARPO has the highest worst case, though PPO is too close for 2 episodes"),
    ],
)
def test_the_verdict_names_the_winner(ppo: list[float], barpo: list[float], says: str) -> None:
    verdict = report_of(PPO=natural_and_mad([100, 100], ppo), BARPO=natural_and_mad([100, 100], barpo)).verdict()
    assert verdict.startswith("Under mad at ε = 0.1 (2 episodes each), PPO keeps ")
    assert says in verdict


def test_the_verdict_gives_shares_only_where_they_make_sense() -> None:
    assert "PPO keeps 25 % of its natural return (200 → 50.0)" in report_of(PPO=HAND["PPO"]).verdict()
    below = report_of(A=natural_and_mad([-10, -10], [-20, -20])).verdict()
    assert "the mean return goes −10.0 → −20.0 for A" in below
    assert "%" not in below


def test_the_picture_has_a_group_for_each_attack_and_a_dot_for_each_episode(tmp_path: Path) -> None:
    path = tmp_path / "pictures" / "returns.png"
    (axes,) = report_of(**HAND).plot(path).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["natural", "Random", "MAD"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["PPO", "BARPO"]
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert sum(len(line.get_xdata()) for line in dots) == 12
    dashes = [line for line in axes.lines if line.get_linestyle() != "None" and len(line.get_xdata()) == 2]
    assert not any(
        min(one.get_xdata()) < max(line.get_xdata()) and max(one.get_xdata()) > min(line.get_xdata())
        for line in dots
        for one in dashes
        if one.get_color() == line.get_color() and abs(np.mean(one.get_xdata()) - np.mean(line.get_xdata())) < 0.2
    )  # no dash over a dot
    worst = [line.get_xdata() for line in axes.lines if line.get_marker() == "^"]
    assert [np.rint(place).item() for place in worst] == [2, 2]  # MAD
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_curve_starts_at_the_natural_return_and_follows_the_worst_attack() -> None:
    report = report_of(
        A={("natural", 0.0): [10], ("mad", 0.1): [8], ("random", 0.1): [9], ("mad", 0.2): [4], ("random", 0.2): [3]}
    )
    (axes,) = report.plot_epsilon().axes
    assert list(axes.lines[0].get_xdata()) == [0, 0.1, 0.2]
    assert list(axes.lines[0].get_ydata()) == [10, 8, 3]


def test_the_curve_s_band_is_the_interval_of_the_mean() -> None:
    report = report_of(A={(name, e): [0, 2] * 50 for name, e in (("natural", 0.0), ("mad", 0.1), ("mad", 0.2))})
    (axes,) = report.plot_epsilon().axes
    (band,) = axes.collections
    ends = band.get_paths()[0].vertices[:, 1]
    assert (ends.min(), ends.max()) == pytest.approx((0.8, 1.2), abs=0.03)  # 1 ± 1.96 / 10, not 1 ± 1
    assert "95 % bootstrap interval" in axes.get_title(loc="left")


def test_pictures_name_the_environment_and_the_fit() -> None:
    rows = {("natural", 0.0): [3], ("sarl", 0.1): [2], ("sarl", 0.2): [1]}
    report = RobustnessReport(report_of(A=rows).to_frame().assign(env="Hopper-v5", unit="std"))
    titles = [figure.axes[0].get_title(loc="left") for figure in (report.plot(), report.plot_epsilon())]
    assert titles[0].startswith("Hopper-v5: ε = 0.2 standard deviations")
    assert titles[1].startswith("Hopper-v5: SA-RL; learned attacks fitted at ε = 0.2, scaled")


def test_different_units_are_not_compared_unless_asked() -> None:
    rows = {("natural", 0.0): [3], ("mad", 0.1): [2], ("mad", 0.2): [1]}
    frame = report_of(A=rows, B=rows).to_frame()
    report = RobustnessReport(frame.assign(unit=frame["agent"].map({"A": "std", "B": "raw"})))
    assert "different units, so their figures are not comparable" in report.verdict()
    assert "equal numbers are not equally strong" in report.to_markdown()
    assert "| A       | 0.1 |         std |" in report.to_markdown()
    with pytest.raises(ValueError, match=r"different units \(std, raw\).*mixed_units=True"):
        report.plot_epsilon()
    assert len(report.plot_epsilon(mixed_units=True).axes[0].collections) == 2
    alike = RobustnessReport(frame.assign(unit="std"))
    assert "at ε = 0.2 standard deviations (1 episode each)" in alike.verdict()


@pytest.mark.parametrize(
    ("natural", "mad", "cell", "says"),
    [
        (100, 101, "not harmed", "no attack harmed A (100 → 101)"),
        (-100, -90, "not harmed", "no attack harmed A (−100 → −90.0)"),
        (100, -50, "–", "the mean return goes 100 → −50.0 for A"),
        (0, -1, "–", "the mean return goes"),
        (-100, -150, "−50 %", "the mean return goes −100 → −150 for A"),
        (100, 25, "−75 %", "A keeps 25 % of its natural return (100 → 25.0)"),
    ],
)
def test_no_share_where_it_says_nothing(natural: float, mad: float, cell: str, says: str) -> None:
    report = report_of(A=natural_and_mad([natural], [mad]))
    assert report.to_markdown().splitlines()[2].split("|")[-2].strip() == cell
    assert says in report.verdict()
    assert ("%" in report.verdict()) == ("%" in says)


@pytest.mark.parametrize(("attack", "says"), [("mad", True), ("sarl", False), ("mine", False)])
def test_the_verdict_says_that_learned_attacks_were_not_run(attack: str, says: bool) -> None:
    report = report_of(A={("natural", 0.0): [2], (attack, 0.1): [1]})
    assert ("Learned attacks were not run" in report.verdict()) == says


def test_a_notebook_shows_the_verdict_and_the_table() -> None:
    report = report_of(**{"<A>": HAND["PPO"], "B": HAND["BARPO"]})
    shown = report._repr_html_()
    assert shown.startswith("<p>Under the worst of random and mad at ε = 0.1")
    assert shown.count("<tr>") == 3
    assert "&lt;A&gt;" in shown
    assert "<A>" not in shown
    assert "Robustness: (worst case" in shown


def test_what_was_judged_goes_with_the_report(tmp_path: Path) -> None:
    reports = [
        RobustnessReport(report_of(**{name: HAND[name]}).to_frame(), {"agents": {name: {"steps": 7}}}) for name in HAND
    ]
    merged = RobustnessReport.merge(reports)
    merged.to_json(tmp_path / "it.json")
    assert RobustnessReport.from_json(tmp_path / "it.json").judged == {"agents": {name: {"steps": 7} for name in HAND}}
    (tmp_path / "old.json").write_text(json.dumps(report_of(**HAND).to_frame()[OLD].to_dict("records")))
    old = RobustnessReport.from_json(tmp_path / "old.json")
    assert old.summary().equals(report_of(**HAND).summary())
    assert old.judged == {"agents": {}}


def test_one_strength_makes_no_curve() -> None:
    with pytest.raises(ValueError, match="needs two strengths besides 0"):
        report_of(**HAND).plot_epsilon()


@pytest.mark.parametrize("method", ["to_csv", "to_json", "plot"])
def test_a_path_that_cannot_be_written_is_named_and_nothing_is_lost(method: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    report = report_of(**HAND)
    with pytest.raises(OSError, match=r"Cannot write '.*file/report.png'.*Nothing is lost"):
        getattr(report, method)(tmp_path / "file" / "report.png")
    assert report.summary()["worst_case"].to_list() == [50, 144]


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"sb3-barpo\[plots\]"):
        report_of(**HAND).plot()


def test_rows_that_make_no_report() -> None:
    good = report_of(**HAND).to_frame()
    with pytest.raises(ValueError, match="without \\['seed'\\]"):
        RobustnessReport(good.drop(columns="seed"))
    with pytest.raises(ValueError, match="there are 0"):
        RobustnessReport(good.iloc[:0])
    with pytest.raises(ValueError, match="A return must be finite, but PPO's is nan"):
        RobustnessReport(good.assign(**{"return": float("nan")}))
    with pytest.raises(ValueError, match="occurs twice"):
        RobustnessReport(pd.concat([good, good]))
    with pytest.raises(ValueError, match="same attacks at the same ε with the same seeds"):
        RobustnessReport(good.drop(index=0))
    with pytest.raises(ValueError, match="needs 'natural' rows and those of an attack"):
        RobustnessReport(good[good["attack"] == "natural"])
    with pytest.raises(ValueError, match="at least one report"):
        RobustnessReport.merge([])
