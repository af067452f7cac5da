"""What a trial of a study does, and how the study goes on."""

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from cheap_tuning import AGENT, EVALUATION, SPACE, Cheap, Failing, cheap
from optuna.trial import TrialState

from sb3_barpo.experiment import Evaluation
from sb3_barpo.tuning import (
    Blend,
    Floor,
    Pareto,
    StrengthSpace,
    Tuning,
    TuningError,
    study,
)
from sb3_barpo.tuning.study import differences, finished, load_study, open_study, state_name, stored_tuning
from sb3_barpo.tuning.workers import run_trials

ENV = "Pendulum-v1"


def stored(trial: optuna.Trial) -> optuna.trial.FrozenTrial:
    return trial.study.trials[0]


# What a trial of a whole study does


def test_a_trial_trains_and_attacks_what_it_says() -> None:
    """Two reports from the latest end of a ramp on, the agent's seed and the trial's number."""
    tuning = Tuning(AGENT, SPACE, EVALUATION)
    trial = optuna.create_study(direction="maximize").ask()
    (value,) = tuning.objective(trial)
    attributes = stored(trial).user_attrs
    assert list(stored(trial).intermediate_values) == [48, 56]
    assert value == Blend().score(attributes["natural"], attributes["worst_case"])[0]
    assert attributes["timesteps"] == 64


def test_a_trial_of_several_seeds_is_their_mean() -> None:
    """What two trials of one seed each come to, if they try the same."""
    tried = {"margin": 1.5, "epsilon.ramp.end": 0.5, "epsilon.ramp.delay": 0.1, "kappa.constant.value": 2.0}
    scores: dict[int, list[float]] = {}
    for n_seeds, n_trials in ((1, 4), (2, 2)):
        tuning = Tuning(AGENT, SPACE, EVALUATION, Floor(1_000.0), n_seeds=n_seeds)
        study = optuna.create_study(direction="maximize")
        for _ in range(n_trials):
            study.enqueue_trial(tried)
        study.optimize(tuning.objective, n_trials)
        scores[n_seeds] = [trial.user_attrs["worst_case"] for trial in study.trials]
    single, double = scores[1], scores[2]
    assert len(set(single)) == 4
    assert double == pytest.approx([(single[0] + single[1]) / 2, (single[2] + single[3]) / 2])
    assert study.trials[1].user_attrs["worst_cases"] == single[2:]
    assert study.trials[1].user_attrs["timesteps"] == 2 * AGENT.steps
    assert study.trials[1].constraints == {"natural_floor": 1_000.0 - study.trials[1].user_attrs["natural"]}
    assert list(study.trials[0].intermediate_values) == [48, 56, 64, 64 + 48, 64 + 56]


def test_studies_of_before_have_one_seed_a_trial() -> None:
    spec = cheap().to_spec()
    del spec["n_seeds"]
    assert Cheap.from_spec(spec).judges == "one seed"
    assert cheap(n_seeds=3).judges == "3 seeds"


def test_a_ramp_over_all_of_training_leaves_nothing_to_report() -> None:
    tuning = Tuning(AGENT, StrengthSpace((0.05, 0.2), latest=1.0), EVALUATION)
    trial = optuna.create_study(direction="maximize").ask()
    tuning.objective(trial)
    assert stored(trial).intermediate_values == {}


@pytest.mark.parametrize("algo", ["arpo", "barpo"])
def test_settings_come_back(algo: str) -> None:
    agent = type(AGENT)(algo, algo, ENV, 3, 64, 2, {"learning_rate": "lin_0.001"}, normalize=False)
    tuning = Tuning(
        agent, StrengthSpace((0.1, 0.2), epsilon_kinds=("ramp", "step")), EVALUATION, Floor(3.0), 5, n_seeds=2
    )
    assert Tuning.from_spec(tuning.to_spec()) == tuning


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"agent": type(AGENT)("ppo", "ppo", ENV, 0, 64)},
            "ppo has no strength to search for, only PPO's own settings",
        ),
        ({"agent": type(AGENT)("ppo", "ppo", ENV, 0, 64), "space": None}, "space=None, ppo=True"),
        ({"agent": type(AGENT)("a2c", "a2c", ENV, 0, 64)}, "settings to search for ppo, .* the algorithm is 'a2c'"),
        ({"space": None, "ppo": True}, r"barpo needs a space: StrengthSpace\.around\(epsilon, 'barpo'\)"),
        ({"evaluation": Evaluation([0.1, 0.2])}, r"at one strength of the attacks, but epsilon is \[0\.1, 0\.2\]"),
        ({"evaluation": Evaluation([0.1], ["sarl", "mad"])}, "sarl would have to be learned for each trial"),
        ({"n_reports": 0}, "n_reports must be at least 1, but it is 0"),
        ({"n_seeds": 0}, "at least one seed of training, but n_seeds is 0"),
    ],
)
def test_settings_that_do_not_fit(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        cheap(**changes)


# Studies


def drawn(study: optuna.Study) -> list[dict[str, Any]]:
    return [trial.params for trial in study.trials]


def test_the_paper_s_setting_is_trial_0(tmp_path: Path) -> None:
    study = run_trials(cheap(), tmp_path / "log", "it", 2)
    assert study.trials[0].params == {
        "margin": 1.0,
        "epsilon.ramp.end": 0.75,
        "epsilon.ramp.delay": 0.0,
        "kappa.constant.value": 1.0,
    }
    assert [trial.user_attrs.get("setting") for trial in study.trials] == ["paper", None]


def test_a_space_without_the_paper_s_setting_begins_with_a_sample(tmp_path: Path) -> None:
    study = run_trials(cheap(space=StrengthSpace((0.01, 0.05))), tmp_path / "log", "it", 1)
    assert "setting" not in study.trials[0].user_attrs


def test_the_pruner_waits_for_the_latest_end_of_a_ramp(tmp_path: Path) -> None:
    pruner = open_study(cheap(), tmp_path / "log", "it").pruner
    assert isinstance(pruner, optuna.pruners.MedianPruner)
    assert pruner._n_warmup_steps == 0.75 * AGENT.steps


def test_the_same_seed_gives_the_same_trials_also_when_interrupted(tmp_path: Path) -> None:
    whole = drawn(run_trials(cheap(), tmp_path / "whole", "it", 14, seed=5))
    for n_trials in (3, 12, 14):
        parts = drawn(run_trials(cheap(), tmp_path / "parts", "it", n_trials, seed=5))
    assert parts == whole
    assert drawn(run_trials(cheap(), tmp_path / "other", "it", 3, seed=6)) != whole[:3]


def test_only_what_is_missing_is_run(tmp_path: Path) -> None:
    assert len(run_trials(cheap(), tmp_path / "log", "it", 3).trials) == 3
    assert len(run_trials(cheap(), tmp_path / "log", "it", 3).trials) == 3
    assert len(run_trials(cheap(), tmp_path / "log", "it", 4).trials) == 4


def test_differences_are_named_one_by_one() -> None:
    stored = {"agent": {"steps": 1, "kwargs": {"gamma": 0.9}}, "same": [1]}
    asked = {"agent": {"steps": 2, "kwargs": {"n_epochs": 3}}, "same": [1]}
    assert differences(stored, asked) == [
        "agent.steps was 1, now it is 2",
        "agent.kwargs.gamma was 0.9, now it is not set",
        "agent.kwargs.n_epochs was not set, now it is 3",
    ]
    assert differences(stored, stored) == []


def test_an_interrupted_trial_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("time.sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_trials(cheap(), tmp_path / "log", "it", 2)
    first, again, second = run_trials(cheap(), tmp_path / "log", "it", 2).trials
    assert [trial.state for trial in (first, again, second)] == [TrialState.FAIL, *[TrialState.COMPLETE] * 2]
    assert [state_name(trial) for trial in (first, again)] == ["interrupted", "complete"]
    assert "Trial 0 was interrupted; its parameters will be tried again." in caplog.text
    assert "Trial 0 failed" not in caplog.text
    assert again.params == first.params
    assert again.user_attrs["retry_of"] == 0
    assert again.user_attrs["setting"] == "paper"


class Unlucky(Cheap):
    """Every second trial fails, or has no number."""

    def objective(self, trial: optuna.Trial) -> tuple[float, ...]:
        values = super().objective(trial)
        if trial.number % 4 == 1:
            raise ArithmeticError("no luck")
        return (float("nan"),) if trial.number % 4 == 3 else values


def test_a_trial_that_fails_says_why_and_the_study_goes_on(tmp_path: Path) -> None:
    study = run_trials(cheap(Unlucky), tmp_path / "log", "it", 3)
    assert len(finished(study)) == 3
    errors = [trial.user_attrs.get("error") for trial in study.trials]
    assert errors[1] == "ArithmeticError: no luck"
    assert errors[3] == "ValueError: The trial's values are (nan,), but returns must be finite."


def test_three_failures_stop_a_study_until_the_cause_is_gone(tmp_path: Path) -> None:
    with pytest.raises(TuningError, match=r"3 trials have failed, .* with ArithmeticError: no luck in trial 2"):
        run_trials(cheap(Failing), tmp_path / "log", "it", 9)
    study = run_trials(cheap(), tmp_path / "log", "it", 2)
    assert len(finished(study)) == 2
    assert len(study.trials) == 5


def test_pruned_trials_count_as_finished(tmp_path: Path) -> None:
    study = run_trials(cheap(Pruned), tmp_path / "log", "it", 4)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE, *[TrialState.PRUNED] * 3]


class Pruned(Cheap):
    """All but the first."""

    def objective(self, trial: optuna.Trial) -> tuple[float, ...]:
        values = super().objective(trial)
        if trial.number:
            raise optuna.TrialPruned
        return values


def test_a_front_has_two_objectives(tmp_path: Path) -> None:
    study = run_trials(cheap(criterion=Pareto()), tmp_path / "log", "it", 8, seed=0)
    assert [direction.name for direction in study.directions] == ["MAXIMIZE"] * 2
    assert len(study.best_trials) > 1


def test_a_study_knows_what_its_trials_do(tmp_path: Path) -> None:
    open_study(cheap(criterion=Floor(3.0)), tmp_path / "log", "it")
    assert stored_tuning(load_study(tmp_path / "log", "it")).criterion == Floor(3.0)


def test_other_settings_need_another_name(tmp_path: Path) -> None:
    open_study(cheap(), tmp_path / "log", "it")
    match = r"'it' was created with other settings: criterion.weight was 0\.5, now it is 0\.7\. .*choose another name"
    with pytest.raises(ValueError, match=match):
        open_study(cheap(criterion=Blend(0.7)), tmp_path / "log", "it")
    open_study(cheap(criterion=Blend(0.7)), tmp_path / "log", "other")


def test_another_number_of_objectives(tmp_path: Path) -> None:
    open_study(cheap(), tmp_path / "log", "it")
    with pytest.raises(ValueError, match="'it' has 1 objectives, but pareto has 2"):
        open_study(cheap(criterion=Pareto()), tmp_path / "log", "it")


def test_a_study_of_other_makers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "_PATIENCE", 0.1)
    open_study(cheap(), tmp_path / "log", "it")
    backend = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "log")))
    optuna.create_study(study_name="foreign", storage=backend, direction="maximize")
    match = "'foreign' was not created by sb3_barpo: it does not store what its trials do"
    with pytest.raises(ValueError, match=match):
        open_study(cheap(), tmp_path / "log", "foreign")
    with pytest.raises(ValueError, match=match):
        load_study(tmp_path / "log", "foreign")


def test_a_study_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no study 'it': there is no journal"):
        load_study(tmp_path / "log", "it")
    assert not (tmp_path / "log").exists()
    (tmp_path / "log").touch()
    with pytest.raises(ValueError, match="There is no study 'it': the storage is empty"):
        load_study(tmp_path / "log", "it")
    open_study(cheap(), tmp_path / "log", "other")
    with pytest.raises(ValueError, match="There is no study 'it': the storage holds other"):
        load_study(tmp_path / "log", "it")


def test_samplers_learn_from_the_paper_s_setting(tmp_path: Path) -> None:
    """Whatever is enqueued stays in its distributions, so that a sampler may look at it."""
    study = run_trials(cheap(), tmp_path / "log", "it", 1)
    for name, distribution in study.trials[0].distributions.items():
        assert distribution._contains(study.trials[0].params[name])
    assert np.isfinite(study.best_value)
