"""The search without parameters: what it finds, when it stops, what survives a kill, what it says."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from helpers import Still
from linear_system import controller, damage, systems
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

from sb3_barpo.adversary import LinfBall, Timing
from sb3_barpo.attacks import AUTO, LearnedAttack
from sb3_barpo.evaluation import RobustnessReport, auto, evaluate_robustness, members, saturation
from sb3_barpo.evaluation.auto import AutoBudget, Found, find_auto, is_saturated
from sb3_barpo.evaluation.members import Victim

EPSILON = 0.2
SMALL = AutoBudget(steps=1024, rounds=3, n_episodes=8)
#: Small enough for everything but strength.
TINY = AutoBudget(steps=64, rounds=2, n_episodes=1)

# What its fixtures make is made once, in one process.
pytestmark = pytest.mark.xdist_group("auto")


def hunt(folder: Path | None, budget: AutoBudget = SMALL, **kwargs: Any) -> Found:
    (found,) = find_auto([Victim(controller(), systems(), folder)], EPSILON, budget, **kwargs)
    return found


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("auto")


@pytest.fixture(scope="session")
def found(folder: Path) -> Found:
    return hunt(folder)


# --- what it finds


def test_it_finds_the_worst_case_of_the_linear_system(found: Found) -> None:
    """Each kind is tried; the strongest one does at least 95 % of the damage that can be done."""
    assert list(found.attacks) == AUTO
    taken = {name: damage(attack.model, attack).mean() for name, attack in found.attacks.items()}
    assert max(taken.values()) >= 0.95
    assert taken["random"] < 0.5
    assert taken[found.told["curve"][-1]["attack"]] >= max(taken.values()) - 0.02


def test_the_strongest_of_each_kind_is_kept(found: Found, folder: Path) -> None:
    records = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    assert {record["attack"] for record in records} == {*AUTO, "natural"}
    for name, attack in found.attacks.items():
        best = min((one for one in records if one["attack"] == name), key=lambda one: np.mean(one["returns"]))
        if isinstance(attack, LearnedAttack):
            assert attack.n_fitted == best["total_timesteps"] or name == "worst_q"
        else:
            assert attack.settings == best["settings"]
    pushes = [record["settings"]["limit"] for record in records if record["attack"] == "push"]
    assert sorted(pushes) == [0, 1, 2, 3]


def test_an_imitator_starts_from_the_strongest_so_far(found: Found, folder: Path) -> None:
    records = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    imitators = [record for record in records.values() if record.get("how") == "imitates"]
    assert {record["attack"] for record in imitators} == {"sarl", "paad"}
    before = [one for one in records.values() if one["attack"] not in ("sarl", "paad", "natural")]
    strongest = min(np.mean(one["returns"]) for one in before)
    first = [record for record in imitators if record["seed"] == 0]
    assert len(first) == 2
    assert all(np.mean(records[record["base"]]["returns"]) == strongest for record in first)


def test_the_curve_falls_and_each_round_doubles_the_budget(found: Found) -> None:
    curve = found.told["curve"]
    worst = [point["worst_case"] for point in curve]
    assert worst == sorted(worst, reverse=True)
    assert worst[0] < found.told["natural"]
    values = 2 * SMALL.steps
    assert [point["steps"] - values for point in curve[1:]] == [steps * SMALL.steps for steps in (0, 6, 12, 24)]
    assert curve[0]["steps"] == 0
    assert found.told["saturated"]


def curve_of(
    before: float, worst: float, scratch: tuple[float, float] | None = None, **found: float
) -> list[dict[str, Any]]:
    """Of three rounds; what is not said is as low as the worst case."""
    without = {"worst_case": found.pop("without", worst), "learned": None}
    found = {"learned": worst, "again": worst, **found}
    first, last = (before, worst) if scratch is None else scratch
    rounds = [(before, first), (before, first), (worst, last)]
    return [without, *({"worst_case": one, "from_scratch": fresh, **found} for one, fresh in rounds)]


@pytest.mark.parametrize(
    ("natural", "before", "after", "saturated"),
    [
        (100.0, 20.0, 20.0, True),
        (100.0, 20.0, 17.0, True),  # 3 of 83
        (100.0, 20.0, 10.0, False),
        (1000.0, 995.0, 986.0, True),  # hardly any damage: less than 1 % of the natural return
        (-100.0, -300.0, -309.0, True),
        (-100.0, -300.0, -320.0, False),
        (0.0, -1.0, -2.0, False),
    ],
)
def test_it_ends_where_two_doublings_do_not_pay(natural: float, before: float, after: float, saturated: bool) -> None:
    assert is_saturated(natural, curve_of(before, after), share=0.05) == saturated


@pytest.mark.parametrize(("again", "saturated"), [(23.0, True), (25.0, False)])
def test_it_goes_on_until_what_was_learned_once_is_found_again(again: float, saturated: bool) -> None:
    """20 are left, by luck; 4 % of the natural return are little."""
    found = curve_of(20.0, 20.0, without=60.0, again=again)
    assert is_saturated(100.0, found, share=0.05) == saturated


@pytest.mark.parametrize(("learned", "saturated"), [(23.0, True), (25.0, False)])
def test_what_needs_no_learning_is_no_luck(learned: float, saturated: bool) -> None:
    """Adversaries that imitate it may confirm it; where all are far behind, their budget was too small."""
    found = curve_of(20.0, 20.0, without=21.0, learned=learned, again=60.0)
    assert is_saturated(100.0, found, share=0.05) == saturated


@pytest.mark.parametrize(("before", "saturated"), [(60.0, True), (66.0, False)])
def test_it_goes_on_as_long_as_fits_from_scratch_would_undercut_it(before: float, saturated: bool) -> None:
    """They are at 40 now; as much again leads to 20, which is no less than the worst case, or to 14."""
    assert is_saturated(100.0, curve_of(20.0, 20.0, scratch=(before, 40.0)), share=0.05) == saturated


def test_one_quiet_doubling_is_no_end(tmp_path: Path) -> None:
    """It may pause by chance. A share of nearly all makes every doubling quiet."""
    before_the_second = AutoBudget(TINY.steps, rounds=2, n_episodes=1, share=0.999)
    assert not hunt(tmp_path, before_the_second).told["saturated"]
    found = hunt(tmp_path, AutoBudget(TINY.steps, rounds=4, n_episodes=1, share=0.999))
    assert found.told["saturated"]
    assert len(found.told["curve"]) == 5  # what needs no learning, values, three rounds


def test_fits_from_scratch_are_of_the_stronger_kind_and_longer_each_round(found: Found, folder: Path) -> None:
    records = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    fresh = [one for one in records if one["attack"] in ("sarl", "paad") and one["base"] is None]
    for number, steps in ((1, 2 * SMALL.steps), (2, 4 * SMALL.steps)):
        before = min((one for one in fresh if one["seed"] < number), key=lambda one: np.mean(one["returns"]))
        now = [one for one in fresh if one["seed"] == number]
        assert [one["attack"] for one in now] == 2 * [before["attack"]]
        assert [one["total_timesteps"] for one in now] == [steps, steps]


def test_from_four_times_the_first_ones_on_half_goes_to_more_fits_from_scratch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other half to a longer one, in the way that has done most."""
    monkeypatch.setattr(auto, "is_saturated", lambda *args: False)
    found = hunt(tmp_path, AutoBudget(TINY.steps, rounds=4, n_episodes=1))
    records = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    fresh = [one for one in records if one["attack"] in ("sarl", "paad") and one["base"] is None]
    of_round = {n: [one for one in fresh if one["seed"] % 100 == n] for n in range(4)}
    lengths = [sorted(one["total_timesteps"] for one in of_round[n]) for n in (1, 2, 3)]
    assert lengths == [[128, 128], [256, 256], [256, 256, 512]]
    best = min((one for n in range(3) for one in of_round[n]), key=lambda one: np.mean(one["returns"]))
    (longer,) = (one for one in of_round[3] if one["total_timesteps"] == 512)
    assert (longer["attack"], longer["settings"]) == (best["attack"], best["settings"])
    assert [b["steps"] - a["steps"] for a, b in itertools.pairwise(found.told["curve"][1:])] == [384, 384, 768, 1536]


def test_without_an_end_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "is_saturated", lambda *args: False)
    found = hunt(tmp_path, TINY)
    assert not found.told["saturated"]
    assert len(found.told["curve"]) == 4


# --- resumed


def written(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_what_is_finished_is_not_done_again(found: Found, folder: Path) -> None:
    before = written(folder)
    again = hunt(folder)
    assert written(folder) == before
    assert again.told == found.told


class KilledError(Exception):
    pass


def test_a_search_that_is_killed_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = hunt(tmp_path / "whole", TINY)
    write = members.write_record
    for kills in (5, 14):
        left = [kills]

        def die(path: Path, content: Any, left: list[int] = left) -> None:
            write(path, content)
            left[0] -= 1
            if not left[0]:
                raise KilledError

        monkeypatch.setattr(members, "write_record", die)
        with pytest.raises(KilledError):
            hunt(tmp_path / "parts", TINY)
        monkeypatch.setattr(members, "write_record", write)
    resumed = hunt(tmp_path / "parts", TINY)
    for one, other in zip(whole.told["curve"], resumed.told["curve"], strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    clean = np.ones((3, 2), np.float32)
    for name in AUTO:
        for attack in (whole.attacks[name], resumed.attacks[name]):
            attack.seed(0)
        np.testing.assert_array_equal(whole.attacks[name].perturb(clean), resumed.attacks[name].perturb(clean))


# --- where not all can be tried


@pytest.mark.parametrize(
    ("actions", "missing"),
    [(spaces.MultiDiscrete([2, 2]), {"robust_sarsa", "worst_q"})],
)
def test_kinds_that_do_not_support_the_victim_are_left_out(actions: Any, missing: set[str]) -> None:
    venv = make_vec_env(lambda: TimeLimit(Still(spaces.Box(-1.0, 1.0, (2,)), actions), 5), 2, seed=0)
    model = PPO("MlpPolicy", venv, device="cpu", seed=0)
    (found,) = find_auto([Victim(model, venv)], 0.1, TINY)
    assert set(found.attacks) == set(AUTO) - missing


def test_it_searches_within_a_rate_limit() -> None:
    """All that it finds keeps the limit, whatever it learned or imitated."""
    ball = LinfBall(1.0, Timing(rate=0.03))
    (found,) = find_auto([Victim(controller(), systems(), ball=ball)], EPSILON, TINY)
    assert list(found.attacks) == AUTO
    clean = np.random.default_rng(0).standard_normal((12, 3, 2)).astype(np.float32)
    for attack in found.attacks.values():
        attack.begin(np.ones(3, dtype=bool))
        delta = np.array([attack.perturb(seen) - seen for seen in clean])
        change = np.diff(np.concatenate([np.zeros_like(delta[:1]), delta]), axis=0)
        assert 0 < np.abs(change).max() <= 0.03 + 1e-6
        assert np.abs(delta).max() <= EPSILON + 1e-6


# --- in reports


def test_a_report_says_whether_the_search_was_done(folder: Path, found: Found, tmp_path: Path) -> None:
    report = evaluate_robustness(
        controller(), systems(), "auto", EPSILON, n_eval_episodes=8, seed=0, budget=SMALL, folder=folder, name="it"
    )
    assert report.attacks == AUTO
    assert report.judged["agents"]["it"]["auto"] == found.told
    assert report.summary()["best_response"].item() <= report.worst_case
    report.to_json(tmp_path / "report.json")
    assert RobustnessReport.from_json(tmp_path / "report.json").judged == report.judged
    (line,) = saturation.lines(report.judged)
    assert "the search is saturated after 26,624 steps of learning" in line
    assert "under " in line
    rows = saturation.curves(report.judged)
    assert rows is not None
    assert list(rows.columns) == ["agent", *found.told["curve"][0]]
    assert rows["worst_case"].to_list() == [point["worst_case"] for point in found.told["curve"]]
    figure = saturation.picture(report.judged)
    assert figure.axes[0].get_lines()[0].get_label() == "it"


def test_a_search_that_is_not_done_is_shown_as_such(found: Found) -> None:
    judged = {"agents": {"it": {"auto": {**found.told, "saturated": False}}, "other": {}}}
    (line,) = saturation.lines(judged)
    assert "NOT saturated" in line
    assert "upper bound" in line
    assert saturation.picture(judged).axes[0].get_lines()[0].get_label() == "it (not saturated)"
    assert saturation.curves({"agents": {"other": {}}}) is None


# --- refusals


@pytest.mark.parametrize(("name", "value"), [("steps", 0), ("rounds", 0), ("n_episodes", 0), ("share", 0.0)])
def test_a_budget_of_nothing_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"AutoBudget's {name}"):
        AutoBudget(**{name: value})


def test_its_budget_goes_with_it_alone() -> None:
    with pytest.raises(ValueError, match=r"An AutoBudget goes with attacks='auto'\. Other attacks take 'quick'"):
        evaluate_robustness(controller(), systems(), "mad", EPSILON, budget=SMALL)


def test_without_strength_there_is_nothing_to_search() -> None:
    with pytest.raises(ValueError, match="cannot be fitted at epsilon = 0"):
        evaluate_robustness(controller(), systems(), "auto", 0.0)
