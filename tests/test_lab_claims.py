"""What the page "Why ARPO gets stuck" claims: the table, the mechanism, the counterexample, the families."""

import importlib.util
import re
import sys
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sb3_barpo import lab
from sb3_barpo.cli import main
from sb3_barpo.controllers import Competence
from sb3_barpo.lab import METHODS, Method, Problem, command, footbridge, pictures, swamp
from sb3_barpo.lab.command import PROBLEMS

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "lab.md").read_text(encoding="utf-8")
FOOTBRIDGE, SWAMP = footbridge(), swamp()
ALWAYS_WAIT = np.array([[0.0, -4.0]])


def benchmark():
    spec = importlib.util.spec_from_file_location("lab_benchmark", ROOT / "benchmarks" / "lab.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def ends(problem: str, method: str) -> np.ndarray:
    """Where the command's 400 starts end, by half as many steps of twice the length, to be quick."""
    looked_at: Problem = PROBLEMS[problem]()
    return lab.ascend(looked_at, looked_at.policy.starts(400, 0), METHODS[method], steps=400, step_size=0.1)[-1]


def shares(problem: str, method: str) -> dict[str, float]:
    return lab.shares(lab.classify(PROBLEMS[problem](), ends(problem, method)))


# The table: shares in per cent. A tolerance of 2 allows for starts near the edge of a basin.


@pytest.mark.parametrize(
    ("method", "trapped", "good"),
    [
        ("SPO", 0, 0),
        ("ARPO", 35, 65),
        ("ARPO κ = 1", 32, 68),
        ("BARPO κ = 0", 4.5, 83),
        ("BARPO κ = 1", 0, 100),
        ("ARPO, ramp to 75 %", 20, 80),
        ("ARPO, ramp from 40 to 80 %", 0, 100),
        ("BARPO κ = 1, clean rollouts", 24, 76),
        ("BARPO κ = 1, clean rollouts, ramp from 40 to 80 %", 0, 100),
    ],
)
def test_shares_of_ends_on_the_footbridge(method, trapped, good):
    found = shares("footbridge", method)
    assert 100 * found["trapped"] == pytest.approx(trapped, abs=2)
    assert 100 * found["good"] == pytest.approx(good, abs=2)


@pytest.mark.parametrize(("problem", "constant", "by_competence"), [("footbridge", 35.5, 0), ("swamp", 24.5, 8)])
def test_strength_that_follows_competence_frees_arpo(problem, constant, by_competence):
    """From 0 at the mean value of the starts to full at the mean that SPO reaches. Per cent trapped of 400 starts."""
    looked_at = PROBLEMS[problem]()
    starts = looked_at.policy.starts(400, 0)
    untrained, trained = (looked_at.natural(theta).mean() for theta in (starts, ends(problem, "SPO")))
    method = Method(lab.strongest, strength=Competence(untrained, trained, 1.0))
    reached = lab.ascend(looked_at, starts, method, steps=400, step_size=0.1)[-1]
    assert 100 * shares(problem, "ARPO")["trapped"] == pytest.approx(constant, abs=2)
    assert 100 * lab.shares(lab.classify(looked_at, reached))["trapped"] == pytest.approx(by_competence, abs=2)


@pytest.mark.slow
def test_how_long_the_ascent_is_changes_what_a_ramp_frees():
    starts = FOOTBRIDGE.policy.starts(400, 0)
    reached = lab.ascend(FOOTBRIDGE, starts, METHODS["ARPO, ramp to 75 %"], steps=1500, step_size=0.04)[-1]
    assert 100 * lab.shares(lab.classify(FOOTBRIDGE, reached))["trapped"] == pytest.approx(16, abs=1)


def test_spo_ends_at_the_best_natural_value_and_fragile():
    reached = ends("footbridge", "SPO")
    assert reached == pytest.approx(np.full((400, 2), 4.0))
    assert FOOTBRIDGE.natural(reached).mean() == pytest.approx(1.34, abs=0.005)
    assert FOOTBRIDGE.robust(reached).mean() == pytest.approx(-2.89, abs=0.005)
    assert shares("footbridge", "SPO")["fragile"] == 1


@pytest.mark.parametrize(
    ("method", "trapped"),
    [
        ("SPO", 0),
        ("ARPO", 24.5),
        ("ARPO κ = 1", 24),
        ("BARPO κ = 0", 89),
        ("BARPO κ = 1", 22),
        ("BARPO κ = 1, clean rollouts", 24),
        ("ARPO, ramp from 40 to 80 %", 0),
    ],
)
def test_in_the_swamp_the_kl_adversary_does_not_help(method, trapped):
    assert 100 * shares("swamp", method)["trapped"] == pytest.approx(trapped, abs=2)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_page_shows_what_the_command_prints(problem):
    section = PAGE[PAGE.index(f"{problem}, 400 starts") :].split("\n\n")[1]
    rows = dict(re.findall(r"^\| ([^|]+?) +\| (.*) \|$", section, re.MULTILINE)[1:])
    assert rows.keys() == METHODS.keys()
    for method in METHODS:
        cells = [float(cell) for cell in rows[method].split("|")]
        reached, found = ends(problem, method), shares(problem, method)
        values = [PROBLEMS[problem]().natural(reached).mean(), PROBLEMS[problem]().robust(reached).mean()]
        assert cells[:4] == pytest.approx([100 * found[kind] for kind in lab.KINDS], abs=2)
        assert cells[4:] == pytest.approx(values, abs=0.15)


# The mechanism


def test_always_wait_is_stationary_for_arpo_and_just_so_for_barpo_without_guidance():
    slopes = [lab.slope(FOOTBRIDGE, ALWAYS_WAIT, METHODS[name])[0] for name in list(METHODS)[:5]]
    expected = {"SPO": 0.084, "ARPO": -0.027, "ARPO κ = 1": 0.028, "BARPO κ = 0": -0.007, "BARPO κ = 1": 0.038}
    assert list(METHODS)[:5] == list(expected)
    assert slopes == pytest.approx(list(expected.values()), abs=0.001)
    assert lab.slope(FOOTBRIDGE, ALWAYS_WAIT, Method(lab.kl, kappa=0.1))[0] > 0


def test_guidance_moves_arpo_s_trap_and_leaves_it_stationary():
    reached = ends("footbridge", "ARPO κ = 1")
    trapped = reached[lab.classify(FOOTBRIDGE, reached) == "trapped"]
    assert trapped == pytest.approx(np.tile([-1.284, -4.0], (len(trapped), 1)), abs=0.01)
    assert np.abs(lab.slope(FOOTBRIDGE, trapped[:3], METHODS["ARPO κ = 1"])).max() < 1e-3


def test_the_best_robust_policy_is_stationary_for_all_but_spo():
    slopes = [lab.slope(FOOTBRIDGE, np.array([[0.0, 4.0]]), METHODS[name])[0] for name in ("SPO", "ARPO", "ARPO κ = 1")]
    assert slopes[0] > 0.03
    assert max(slopes[1:]) < 0


def test_the_saddle_of_the_ridge_is_where_it_was_derived():
    """
    With w = 0 and p the probability of a0, V = 0.8 v + 0.2 (1.3 p - 1 + 0.9 v) = 0.98 v + 0.26 p - 0.2, where
    v = (-0.2 (1 - p) + 0.9 p (1.3 p - 1)) / (0.1 + 0.09 p). Its derivative is 0 at p = 0.190, b = ln(p / (1 - p)).
    """
    p = np.linspace(0.001, 0.999, 99_801)
    v = (-0.2 * (1 - p) + 0.9 * p * (1.3 * p - 1)) / (0.1 + 0.09 * p)
    lowest = p[(0.98 * v + 0.26 * p - 0.2).argmin()]
    saddle = np.log(lowest / (1 - lowest))
    assert saddle == pytest.approx(-1.45, abs=0.005)
    around = np.array([[0.0, saddle - 0.1], [0.0, saddle + 0.1]])
    below, above = lab.ascend(FOOTBRIDGE, around, METHODS["ARPO"])[-1]
    assert below == pytest.approx([0.0, -4.0], abs=0.01)
    assert above == pytest.approx([0.0, 4.0], abs=0.01)


def test_barpo_without_guidance_also_stops_where_its_adversary_changes_sides():
    """At b = 0 the objective jumps. The ascent holds the adversary fixed, and goes to and fro."""
    reached = ends("footbridge", "BARPO κ = 0")
    kinds = lab.classify(FOOTBRIDGE, reached)
    trapped, low = reached[kinds == "trapped"], reached[kinds == "low"]
    assert np.abs(trapped - ALWAYS_WAIT).max() < 0.01
    assert (np.abs(low[:, 1]) < 0.01).mean() > 0.8
    values = [lab.objective(FOOTBRIDGE, np.array([[3.5, b]]), METHODS["BARPO κ = 0"])[0] for b in (-1e-3, 1e-3)]
    assert values[0] - values[1] > 1


def test_the_kl_adversary_raises_the_value_where_the_policy_is_wrong():
    theta = lab.grid(FOOTBRIDGE, 81)
    lift = FOOTBRIDGE.value(theta, lab.kl) - FOOTBRIDGE.natural(theta)
    natural = FOOTBRIDGE.natural(theta)
    assert (lift > 1e-9).mean() == pytest.approx(0.39, abs=0.02)
    assert np.median(natural[lift > 1e-9]) == pytest.approx(-2.27, abs=0.02)
    assert np.median(natural[lift < -1e-9]) == pytest.approx(-0.27, abs=0.05)


@pytest.mark.parametrize(("visits", "advantages", "trapped"), [(False, True, 19), (True, False, 0)])
def test_of_clean_rollouts_it_is_the_advantages_that_trap(visits, advantages, trapped):
    method = Method(lab.kl, kappa=1.0, clean_visits=visits, clean_advantages=advantages)
    reached = lab.ascend(FOOTBRIDGE, FOOTBRIDGE.policy.starts(400, 0), method, steps=400, step_size=0.1)[-1]
    assert 100 * lab.shares(lab.classify(FOOTBRIDGE, reached))["trapped"] == pytest.approx(trapped, abs=2)


# What of the propositions holds


@pytest.mark.parametrize("name", ["ARPO", "BARPO κ = 0", "BARPO κ = 1"])
def test_all_objectives_have_the_same_best_robust_policy(name):
    theta = lab.grid(FOOTBRIDGE, 81)
    best = lab.objective(FOOTBRIDGE, theta, METHODS[name]).argmax()
    assert theta[best] == pytest.approx([0.0, 4.0])


def harm_and_divergence(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """What the strongest adversary takes, and the largest divergence, averaged over visits."""
    theta = lab.grid(problem, 81)
    seen = problem.policy.probabilities(theta)
    visits = problem.mdp.evaluate(lab.acting(seen, lab.clean(problem.mdp, seen))).visits
    divergence = (lab.divergences(seen).max(-1) * visits).sum(-1) / visits.sum(-1)
    some = divergence > 1e-6
    return (problem.natural(theta) - problem.robust(theta))[some], divergence[some]


def test_harm_is_at_least_a_multiple_of_the_divergence_on_the_footbridge():
    harm, divergence = harm_and_divergence(FOOTBRIDGE)
    assert (harm / divergence).min() == pytest.approx(0.325, abs=0.01)


def test_in_the_swamp_there_is_divergence_without_harm():
    harm, divergence = harm_and_divergence(SWAMP)
    assert divergence[harm < 1e-9].max() > 0.4


def test_in_the_swamp_the_kl_adversary_exchanges_the_observations_always():
    theta = SWAMP.policy.starts(50, seed=0)
    assert SWAMP.value(theta, lab.kl) == pytest.approx(SWAMP.natural(theta[:, ::-1]))


# Families, κ and delays: the stored figures of the benchmark


def test_the_families_medians():
    rows = pd.read_csv(ROOT / "benchmarks" / "lab" / "family.csv")
    medians = (100 * rows.groupby(["family", "method"])["trapped"].median()).to_dict()
    for family in lab.FAMILIES:
        of_family = {method: medians[family, method] for method in rows["method"].unique()}
        assert f"| {family}, median | {of_family['ARPO']:.3g} | {of_family['BARPO κ = 1']:.3g} |" in PAGE


def test_what_the_page_says_of_the_families():
    rows = pd.read_csv(ROOT / "benchmarks" / "lab" / "family.csv")
    by_method = rows.groupby(["family", "method"])
    anywhere = by_method["trapped"].apply(lambda shares: int((shares > 0).sum()))
    methods = ["ARPO", "BARPO κ = 1", "BARPO κ = 1, clean rollouts", "the same, ramp from 40 to 80 %"]
    found = {family: [anywhere[family, method] for method in methods[:2]] for family in lab.FAMILIES}
    assert found == {"crossings": [28, 0], "random": [8, 2]}
    assert rows.groupby("family")["tried"].first().to_dict() == {"crossings": 40, "random": 64}
    good = 100 * by_method["good"].mean()
    means = {family: [round(good[family, method]) for method in methods] for family in lab.FAMILIES}
    assert means == {"crossings": [80, 94, 89, 100], "random": [93, 98, 96, 100]}


@pytest.mark.parametrize("family", lab.FAMILIES)
def test_the_stored_figures_of_the_families_are_what_comes_out(family):
    bench = benchmark()
    stored = pd.read_csv(ROOT / "benchmarks" / "lab" / "family.csv").query("family == @family")
    for member, problem in enumerate(bench.members(family, 2).problems):
        for method in ("ARPO", "BARPO κ = 1"):
            expected = stored[(stored["member"] == member) & (stored["method"] == method)].iloc[0]
            found = bench.measure(problem, bench.METHODS[method])
            assert [found[kind] for kind in lab.KINDS] == pytest.approx(expected[list(lab.KINDS)].tolist(), abs=0.03)


@pytest.mark.parametrize("name", ["footbridge", "swamp"])
def test_a_delay_of_a_fifth_of_training_frees_all_starts(name):
    rows = pd.read_csv(ROOT / "benchmarks" / "lab" / "delay.csv").query("problem == @name")
    assert (rows.loc[rows["begin"] >= 0.2, "trapped"] == 0).all()
    assert rows.loc[(rows["begin"] == 0) & (rows["method"] == "ARPO"), "trapped"].item() > 0.08
    problem: Problem = PROBLEMS[name]()
    delayed = Method(lab.strongest, strength="ramp_1_0.6_0.2")
    reached = lab.ascend(problem, problem.policy.starts(100, 0), delayed, steps=400, step_size=0.1)[-1]
    assert lab.shares(lab.classify(problem, reached))["trapped"] == 0


# The page itself


def test_the_page_s_example_prints_what_it_says(capsys):
    code, said = re.search(r"```python\n(.+?)```\n+```text\n(.+?)\n```", PAGE, re.DOTALL).groups()
    exec(code, {})
    printed = capsys.readouterr().out
    numbers = [[float(x) for x in re.findall(r"\d\.\d+", text)] for text in (printed, said)]
    assert len(numbers[0]) == len(lab.KINDS)
    assert numbers[0] == pytest.approx(numbers[1], abs=0.02)
    same_starts = lab.ascend(FOOTBRIDGE, FOOTBRIDGE.policy.starts(100, 0), METHODS["ARPO"])[-1]
    trapped = int(re.search(r"ARPO is trapped from (\d+) of the same starts", PAGE)[1])
    assert 100 * lab.shares(lab.classify(FOOTBRIDGE, same_starts))["trapped"] == pytest.approx(trapped, abs=2)


def test_the_page_s_numbers_on_clean_rollouts():
    theta = np.array([[-1.5, -2.5]])
    seen = FOOTBRIDGE.policy.probabilities(theta)
    shown = {
        name: lab.acting(seen, look(FOOTBRIDGE.mdp, seen)) for name, look in (("clean", lab.clean), ("kl", lab.kl))
    }
    assert [shown[name][0, 1, 0] for name in ("clean", "kl")] == pytest.approx([0.08, 0.33], abs=0.005)
    stepping = [FOOTBRIDGE.mdp.evaluate(shown[name]).advantages[0, 0, 0] for name in ("clean", "kl")]
    assert stepping == pytest.approx([-0.42, -0.11], abs=0.005)


@pytest.mark.parametrize(("stored", "column"), [("kappa", "kappa"), ("delay", "begin")])
def test_the_page_s_tables_are_the_stored_ones(stored, column):
    rows = pd.read_csv(ROOT / "benchmarks" / "lab" / f"{stored}.csv")
    for (problem, method), part in rows.groupby(["problem", "method"]):
        cells = " | ".join(f"{100 * share:.3g}" for share in part.sort_values(column)["trapped"])
        assert f"| {problem} | {method} | {cells} |" in PAGE


# The command


def test_the_command_draws_and_writes_what_it_says(tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(command, "basins", partial(lab.basins, points=9))
    main(["lab", "--starts", "20", "--output", str(tmp_path)])
    written = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert written in capsys.readouterr().out
    assert [row.split(" | ")[0].removeprefix("| ") for row in written.splitlines()[4:]] == list(METHODS)
    pictures = {path.name for path in tmp_path.glob("*.png") if path.stat().st_size > 10_000}
    assert pictures == {"landscapes.png", "shares.png", "basins.png", "ridge.png"}


def test_pictures_say_what_they_lack(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'Pictures need matplotlib: pip install "sb3-barpo\[plots\]"'):
        pictures.profile(FOOTBRIDGE)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"problem": "bog"}, r"Unknown problem 'bog'\. Choose from footbridge, swamp"),
        ({"starts": 0}, "starts must be at least 1, but it is 0"),
    ],
)
def test_the_command_refuses_what_it_does_not_know(wrong, match, tmp_path):
    with pytest.raises(ValueError, match=match):
        command.lab(output=tmp_path, **wrong)
