"""What a trial is judged by, and what it reports and keeps."""

from typing import Any

import optuna
import pandas as pd
import pytest
from brief import BRIEF as ENV
from hypothesis import given
from hypothesis import strategies as st
from optuna.pruners import BasePruner, NopPruner
from stable_baselines3.common.env_util import make_vec_env

from sb3_barpo import BARPO
from sb3_barpo.evaluation import RobustEvalCallback, RobustnessReport, evaluate_robustness
from sb3_barpo.tuning import (
    Blend,
    Criterion,
    Floor,
    Pareto,
    RobustTrialCallback,
    as_criterion,
)

QUICK: dict[str, Any] = {"n_steps": 32, "batch_size": 32, "n_epochs": 1, "seed": 0, "device": "cpu"}


class Always(BasePruner):
    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        return True


def trial_of(criterion: Criterion | None = None, pruner: BasePruner | None = None) -> optuna.Trial:
    directions = ["maximize"] * len((criterion or Blend()).values)
    return optuna.create_study(directions=directions, pruner=pruner or NopPruner()).ask()


def trained(trial: optuna.Trial, steps: int = 96, **kwargs: Any) -> RobustTrialCallback:
    settings = {"attacks": "mad", "epsilon": 0.2, "n_eval_episodes": 1, "eval_freq": 32}
    callback = RobustTrialCallback(make_vec_env(ENV), trial, **settings | kwargs)
    BARPO("MlpPolicy", ENV, epsilon=0.1, **QUICK).learn(steps, callback=callback)
    return callback


def stored(trial: optuna.Trial) -> optuna.trial.FrozenTrial:
    return trial.study.trials[0]


def report_of(natural: float, **returns: float) -> RobustnessReport:
    """One episode without an attack and one under each."""
    rows = [("A", "natural", 0.0, 0, 0, natural, 5)]
    rows += [("A", attack, 0.1, 0, 0, value, 5) for attack, value in returns.items()]
    columns = ["agent", "attack", "epsilon", "episode", "seed", "return", "length"]
    return RobustnessReport(pd.DataFrame(rows, columns=columns))


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations of these natural returns and worst cases, in order."""
    results = iter([(10.0, 4.0), (20.0, 30.0), (30.0, 6.0)])

    def evaluate(self: RobustEvalCallback, learned: bool = True) -> RobustnessReport:
        natural, worst = next(results)
        self.report = report_of(natural, mad=worst)
        return self.report

    monkeypatch.setattr(RobustEvalCallback, "evaluate", evaluate)


# Criteria


@pytest.mark.parametrize(
    ("criterion", "natural", "worst_case", "score", "preference"),
    [
        (Blend(), 10.0, 4.0, (7.0,), 7.0),
        (Blend(0.25), 10.0, 4.0, (8.5,), 8.5),
        (Blend(1.0), 10.0, 4.0, (4.0,), 4.0),
        (Blend(), 10.0, 20.0, (10.0,), 10.0),  # an attack that helps is no merit
        (Floor(8.0), 10.0, 4.0, (4.0,), 4.0),
        (Floor(12.0), 10.0, 4.0, (4.0,), 2.0),
        (Pareto(), 10.0, 4.0, (10.0, 4.0), 7.0),
    ],
)
def test_criteria_by_hand(
    criterion: Criterion, natural: float, worst_case: float, score: tuple[float, ...], preference: float
) -> None:
    assert criterion.score(natural, worst_case) == score
    assert criterion.preference(natural, worst_case) == preference
    assert len(criterion.values) == len(score)


@given(st.floats(0, 1), st.floats(-1e3, 1e3), st.floats(0, 1e3), st.floats(0, 1e3))
def test_more_is_never_worse_for_a_blend(weight: float, natural: float, loss: float, more: float) -> None:
    (before,) = Blend(weight).score(natural, natural - loss)
    assert Blend(weight).score(natural + more, natural - loss)[0] >= before - 1e-9
    assert Blend(weight).score(natural, natural - loss + more)[0] >= before - 1e-9


@pytest.mark.parametrize(
    ("directions", "criterion"),
    [(None, Blend()), (["minimize"], Floor(0.0)), (["maximize", "minimize"], Pareto()), (["minimize"] * 2, Pareto())],
)
def test_a_study_that_minimises_is_refused(directions: list[str] | None, criterion: Criterion) -> None:
    trial = optuna.create_study(directions=directions).ask()
    with pytest.raises(ValueError, match=r"must maximise .*, but its direction is .*minimize.*direction='maximize'"):
        RobustTrialCallback(make_vec_env(ENV), trial, criterion=criterion)


@pytest.mark.parametrize("criterion", [Blend(0.3), Floor(-5.0), Pareto()])
def test_criteria_come_back(criterion: Criterion) -> None:
    assert as_criterion(criterion.to_spec()) == criterion
    assert as_criterion(criterion) is criterion


def test_a_criterion_that_is_none() -> None:
    with pytest.raises(ValueError, match=r"weight of the worst case must be between 0 and 1, but it is 1\.5"):
        Blend(1.5)
    with pytest.raises(ValueError, match="floor of the natural return must be finite, but it is nan"):
        Floor(float("nan"))
    for spec in ({"kind": "mean"}, {}, {"kind": "floor"}, {"kind": "pareto", "weight": 1}):
        with pytest.raises(ValueError, match=r"does not fit: there are blend.*floor.*pareto"):
            as_criterion(spec)


# The callback


@pytest.mark.usefixtures("scripted")
def test_scores_are_reported_at_timesteps_and_the_last_figures_kept() -> None:
    trial = trial_of()
    callback = trained(trial)
    assert stored(trial).intermediate_values == {32: 7.0, 64: 20.0}
    assert callback.result() == (18.0,)
    attributes = stored(trial).user_attrs
    assert attributes == {
        "natural": 30.0,
        "worst_case": 6.0,
        "worst_attack": "mad",
        "returns": {"mad": 6.0},
        "timesteps": 96,
    }


@pytest.mark.usefixtures("scripted")
def test_a_pruned_trial_stops_and_says_so() -> None:
    trial = trial_of(pruner=Always())
    callback = trained(trial)
    assert callback.num_timesteps == 32
    assert stored(trial).user_attrs["natural"] == 10.0
    with pytest.raises(optuna.TrialPruned, match="Pruned after 32 steps"):
        callback.result()


def test_nothing_is_evaluated_before_the_warm_up() -> None:
    trial = trial_of(pruner=Always())
    callback = trained(trial, steps=128, warmup=70)
    assert list(stored(trial).intermediate_values) == [96]
    assert callback.is_pruned


@pytest.mark.usefixtures("scripted")
def test_the_floor_is_a_constraint() -> None:
    trial = trial_of()
    callback = trained(trial, criterion=Floor(45.0))
    assert stored(trial).intermediate_values == {32: 4.0 - 35.0, 64: 30.0 - 25.0}
    assert callback.result() == (6.0,)
    assert stored(trial).constraints == {"natural_floor": 15.0}


@pytest.mark.usefixtures("scripted")
def test_two_objectives_are_never_reported() -> None:
    trial = trial_of(Pareto(), Always())  # whose report() would raise NotImplementedError
    assert trained(trial, criterion=Pareto()).result() == (30.0, 6.0)
    assert stored(trial).intermediate_values == {}


def test_the_result_is_that_of_the_trained_policy() -> None:
    trial = trial_of()
    callback = RobustTrialCallback(
        make_vec_env(ENV), trial, attacks=["random", "mad"], epsilon=0.2, n_eval_episodes=2, seed=4, eval_freq=32
    )
    model = BARPO("MlpPolicy", ENV, epsilon=0.1, **QUICK).learn(64, callback=callback)
    (value,) = callback.result()
    report = evaluate_robustness(model, make_vec_env(ENV), ["random", "mad"], 0.2, n_eval_episodes=2, seed=4)
    assert value == Blend().score(report.natural, report.worst_case)[0]
    assert list(stored(trial).intermediate_values) == [32]  # and nothing before the last update
    assert stored(trial).user_attrs["returns"].keys() == {"random", "mad"}


def test_a_callback_for_another_number_of_objectives() -> None:
    with pytest.raises(ValueError, match=r"has 2 objectives, but the criterion blend gives 1: blend\. Create"):
        RobustTrialCallback(make_vec_env(ENV), trial_of(Pareto()))


# Several seeds


@pytest.mark.usefixtures("scripted")
def test_a_later_seed_counts_with_the_earlier_ones() -> None:
    trial = trial_of()
    earlier = [report_of(40.0, random=30.0, mad=20.0), report_of(70.0, random=8.0, mad=28.0)]
    callback = trained(trial, n_seeds=3, earlier=earlier)
    # Means of (40, 20) and (70, 8); then of these with (10, 4) and with (20, 30), of which the blend is halfway.
    by_hand = {192: (55 + 14) / 2, 224: (40 + 32 / 3) / 2, 256: (130 / 3 + 58 / 3) / 2}
    assert stored(trial).intermediate_values == pytest.approx(by_hand)
    assert callback.result() == pytest.approx(((140 / 3 + 34 / 3) / 2,))
    attributes = stored(trial).user_attrs
    assert attributes["worst_cases"] == [20.0, 8.0, 6.0]
    assert attributes["returns"] == {"mad": 18.0}  # the attack that all of them have met
    assert (attributes["worst_attack"], attributes["timesteps"]) == ("mad", 3 * 96)
    assert (attributes["natural"], attributes["worst_case"]) == pytest.approx((140 / 3, 34 / 3))
    assert len(earlier) == 2


@pytest.mark.usefixtures("scripted")
def test_a_bad_first_seed_saves_the_second() -> None:
    trial = trial_of(pruner=Always())
    callback = trained(trial, n_seeds=2, earlier=[report_of(40.0, mad=20.0)])
    assert stored(trial).intermediate_values == {96: 30.0}
    assert callback.num_timesteps == 1
    with pytest.raises(optuna.TrialPruned, match="Pruned after 97 steps"):
        callback.result()


@pytest.mark.usefixtures("scripted")
def test_seeds_of_a_trial_with_two_objectives() -> None:
    trial = trial_of(Pareto(), Always())
    assert trained(trial, criterion=Pareto(), n_seeds=2, earlier=[report_of(50.0, mad=20.0)]).result() == (40.0, 13.0)


@pytest.mark.usefixtures("scripted")
def test_the_first_of_two_seeds_sets_no_constraint() -> None:
    trial = trial_of()  # Optuna would keep it, and ignore the mean's
    assert trained(trial, criterion=Floor(45.0), n_seeds=2).result() == (6.0,)
    assert stored(trial).constraints == {}


def test_more_reports_than_seeds() -> None:
    with pytest.raises(ValueError, match="trial of 1 seeds has fewer reports of earlier ones, but earlier holds 1"):
        RobustTrialCallback(make_vec_env(ENV), trial_of(), earlier=[report_of(40.0, mad=20.0)])
