"""The report of a comparison: known answers of its statistics, and its pages."""

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from compared import FIRST, comparison, report

from sb3_barpo.comparison import ComparisonReport, pages, tables


def plain(table: str) -> str:
    """Without the spaces that align it."""
    return re.sub(r" *\| *", "|", table)


def test_an_agent_is_judged_by_its_own_worst_attack() -> None:
    agents = comparison().agents
    first = agents[(agents["env"] == "One-v0") & (agents["algorithm"] == "PPO")]
    assert first["worst_case"].to_list() == [10, 20, 30, 40]
    assert first["worst_attack"].to_list() == ["mad", "mad", "random", "mad"]
    assert first["natural"].to_list() == [100, 120, 110, 90]
    assert set(agents["epsilon"]) == {0.1}


def test_interquartile_means_medians_and_what_is_kept() -> None:
    table = comparison().by_algorithm().set_index(["env", "algorithm"])
    ppo = table.loc[("One-v0", "PPO")]
    assert ppo["n_seeds"] == 4
    assert ppo["natural"] == 105  # of 90, 100, 110 and 120 the middle two
    assert ppo["worst_case"] == 25
    assert ppo["natural_median"] == 105
    assert ppo["random"] == 85  # of 30, 80, 90 and 110
    assert ppo["kept"] == pytest.approx(25 / 105)
    assert 10 <= ppo["worst_case_low"] < 25 < ppo["worst_case_high"] <= 40
    assert table.loc[("Two-v0", "BARPO"), "worst_case_low"] == 20 == table.loc[("Two-v0", "BARPO"), "worst_case_high"]


def test_probability_of_improvement() -> None:
    one = ComparisonReport({"One-v0": report("One-v0", FIRST)})
    assert one.improvement().loc["BARPO", "PPO"] == 1  # the lowest of 50, 60, 70 and 90 is above 40
    assert one.improvement().loc["PPO", "BARPO"] == 0
    # Natural: 80, 90, 100, 110 against 90, 100, 110, 120: 3 pairs above, 3 equal, of 16.
    assert one.improvement("natural").loc["BARPO", "PPO"] == pytest.approx((3 + 1.5) / 16)
    both = comparison().improvement()
    assert both.loc["BARPO", "PPO"] == 0.75  # 1 on the first task, 1/2 on the second
    assert np.diag(both.to_numpy()) == pytest.approx(0.5)
    assert (both + both.T).to_numpy() == pytest.approx(np.ones((2, 2)))


def test_the_scale_of_all_tasks() -> None:
    scaled = comparison().scaled("natural")
    assert scaled["PPO"][0] == pytest.approx(np.array([100, 120, 110, 90]) / 105)
    assert scaled["BARPO"][1].tolist() == [1, 1]
    negative = ComparisonReport({"A": report("A", {"PPO": [(-10, -20, -30)], "BARPO": [(-20, -20, -50)]})})
    assert negative.scaled("natural")["PPO"][0] == pytest.approx([1])
    assert negative.scaled("worst_case")["PPO"][0] == pytest.approx([0.5])
    assert negative.scaled("worst_case")["BARPO"][0] == pytest.approx([0])


def test_performance_profiles() -> None:
    at = np.array([0.0, 0.95, 1.5])
    (share, low, high) = comparison().profiles("natural", at)["PPO"]
    assert share == pytest.approx([1, 5 / 6, 0])  # 90 / 105 is not above 0.95
    assert (low <= share).all()
    assert (share <= high).all()
    assert low[1] < high[1]


def test_over_all_tasks() -> None:
    table = comparison().overall()
    assert table.loc["PPO", "natural"] == pytest.approx((1 + 1 + 100 / 105 + 110 / 105) / 4)
    assert table["rank"].to_dict() == {"PPO": 1.75, "BARPO": 1.25}
    assert (table["worst_case_low"] <= table["worst_case"]).all()
    assert (table["worst_case"] <= table["worst_case_high"]).all()


def test_a_task_that_some_algorithm_lacks_is_left_out_of_means_over_tasks() -> None:
    partial = ComparisonReport({"One-v0": report("One-v0", FIRST), "Two-v0": report("Two-v0", {"PPO": [(5, 4, 3)]})})
    assert partial.common == ["One-v0"]
    assert partial.improvement().loc["BARPO", "PPO"] == 1
    none = ComparisonReport({"A": report("A", {"PPO": [(5, 4, 3)] * 2}), "B": report("B", {"BARPO": [(5, 4, 3)] * 2})})
    assert "Probability" not in pages.markdown(none)


def test_one_seed_has_no_interval_and_says_so() -> None:
    one = ComparisonReport({"A": report("A", {"PPO": [(100, 50, 20)], "BARPO": [(90, 80, 70)]})})
    assert math.isnan(one.by_algorithm()["natural_low"].iloc[0])
    assert math.isnan(one.profiles("natural", np.zeros(3))["PPO"][1][0])
    page = pages.markdown(one)
    assert "there are no intervals" in page
    assert "|A|PPO|1|**100**|20.0|**100**|20.0|20 %|" in plain(page)
    assert "[" not in tables.by_algorithm(one)
    assert "profiles.png" not in page


def test_the_order_of_algorithms() -> None:
    reports = {"One-v0": report("One-v0", FIRST)}
    assert ComparisonReport(reports).algorithms == ["PPO", "BARPO"]
    ordered = ComparisonReport(reports, ["ARPO", "BARPO", "PPO"])
    assert ordered.algorithms == ["BARPO", "PPO"]  # without those that are not there yet
    assert ordered.agents["algorithm"].to_list() == ["BARPO"] * 4 + ["PPO"] * 4
    with pytest.raises(ValueError, match="at least one environment"):
        ComparisonReport({})


def test_the_lead_of_the_best_is_tested() -> None:
    """Worst cases 1 to 4, 11 to 14 and 4.5 to 13.5, which has one of four below 11."""
    worst = {"PPO": (1, 2, 3, 4), "BARPO": (11, 12, 13, 14), "ARPO": (4.5, 11.5, 12.5, 13.5)}
    given = {name: [(20, 20, one) for one in values] for name, values in worst.items()}
    compared = ComparisonReport({"A": report("A", given)})
    p = compared.by_algorithm().set_index("algorithm")["p"]
    assert math.isnan(p["BARPO"])
    assert p["PPO"] == pytest.approx(2 / 70)
    assert p["ARPO"] == pytest.approx(2 * 24 / 70)  # U is 6: 24 of the 70 orders have it as low
    table = plain(tables.by_algorithm(compared))
    assert "|62 %|–|" in table
    assert "|12 %|0.029|" in table
    assert "three seeds each cannot come below 0.1" in pages.markdown(compared)


def test_tables_mark_the_best_of_each_task() -> None:
    assert "|PPO|**105**|**85.0**|30.0|25.0|" in plain(tables.by_attack(comparison(), "One-v0"))
    assert "|BARPO|95.0|70.0|**85.0**|**65.0**|" in plain(tables.by_attack(comparison(), "One-v0"))
    assert "|PPO|0|100|90.0|10.0|10.0|MAD|" in plain(tables.by_seed(comparison(), "One-v0"))
    assert "|PPO|–|0.25|" in plain(tables.improvement(comparison()))


def test_latex_is_complete() -> None:
    text = tables.to_latex(
        ComparisonReport({"A_b-v0": report("A_b-v0", {"ARPO, κ": [(-5, 4, 3)], "100 %": [(5, 4, 3)]})})
    )
    assert r"A\_b-v0" in text
    assert r"ARPO, $\kappa$" in text
    assert r"100 \%" in text
    assert r"\textbf{5.00}" in text
    assert "$-$5.00" in text
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 2
    assert not set("⌈⌉κ−–") & set(text)


def test_pages(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pages.write_pages(comparison(), tmp_path)
    written = {path.name for path in tmp_path.iterdir()}
    pictures = {"returns.png", "scatter.png", "profiles.png", "improvement.png"}
    assert written == {"report.md", "agents.csv", "algorithms.csv", "tables.tex", *pictures}
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert all(f"({name})" in page for name in pictures)
    assert pd.read_csv(tmp_path / "agents.csv")["worst_case"].to_list() == comparison().agents["worst_case"].to_list()
    one = ComparisonReport({"A": report("A", {"PPO": [(100, 50, 20)]})}, missing=["BARPO on A (0, 1)"])
    pages.write_pages(one, tmp_path)  # pictures that it does not have are removed
    assert {path.suffix: path.stem for path in tmp_path.glob("*.png")}
    assert {path.name for path in tmp_path.glob("*.png")} == {"returns.png", "scatter.png"}
    assert "Not finished yet**, with their seeds: BARPO on A (0, 1)." in (tmp_path / "report.md").read_text()
