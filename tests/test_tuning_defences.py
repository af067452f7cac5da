"""Every defence has a space of its own: what is tried can be trained, stored, written down and found again."""

import inspect
import json
from dataclasses import dataclass, replace
from math import log
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from cheap_tuning import AGENT, EVALUATION, Cheap
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FixedTrial

from sb3_barpo.algorithms import OURS, algorithm
from sb3_barpo.controllers import Competence, DualKappa, HoldKL
from sb3_barpo.experiment import make_model
from sb3_barpo.expressions import with_kwargs
from sb3_barpo.schedules import as_schedule
from sb3_barpo.tuning import StrengthSpace, Tuning, strength_params, suggest_strength, task, tune_strength
from sb3_barpo.tuning.confirm import Confirmation
from sb3_barpo.tuning.results import plain, script, zoo_entry
from sb3_barpo.tuning.spaces import OWN, Choices, Numbers, changed, own_settings
from sb3_barpo.tuning.strength import merged

EACH = pytest.mark.parametrize("algo", OURS)


def tuning(algo: str, **changes: Any) -> Tuning:
    agent = replace(AGENT, name=algo, algo=algo, env="Pendulum-v1")
    return Tuning(**{"agent": agent, "space": StrengthSpace.around(0.1, algo), "evaluation": EVALUATION, **changes})


def sampled(space: StrengthSpace, n_trials: int) -> list[optuna.trial.FrozenTrial]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))

    def objective(trial: optuna.Trial) -> float:
        trial.set_user_attr("spec", suggest_strength(trial, space))
        return 0.0

    study.optimize(objective, n_trials)
    return study.trials


@EACH
def test_what_is_searched_is_what_the_algorithm_takes(algo: str) -> None:
    taken = inspect.signature(algorithm(algo)).parameters
    assert {name.partition(".")[0] for name in own_settings(algo)} <= taken.keys()
    assert set(OURS[algo].settings) <= own_settings(algo).keys()  # all that the outer loss has


def test_there_is_no_space_without_an_algorithm() -> None:
    assert OWN.keys() == {name for name, row in OURS.items() if not row.memory}


@EACH
def test_what_is_tried_can_be_trained_stored_and_found_again(algo: str) -> None:
    it = tuning(algo)
    for trial in sampled(it.space, 3):
        tried = it.suggest(trial)
        assert tried == trial.user_attrs["spec"]
        assert json.loads(json.dumps(tried)) == tried
        assert suggest_strength(FixedTrial(strength_params(tried, it.space)), it.space) == tried
        model: Any = make_model(it.trained_with(tried, "it", 0))
        assert as_schedule(model.epsilon)(0.0) == 0.1
        assert model.margin == tried["margin"]
        for name in OURS[algo].settings:
            wanted = tried[name]
            assert as_schedule(getattr(model, name))(0.3) == as_schedule(wanted)(0.3)
        model.env.close()
    assert Tuning.from_spec(it.to_spec()) == it


@pytest.mark.parametrize("algo", ["sappo", "sppo", "sappo_convex", "carppo", "radialppo", "wocarppo", "barpo_lstm"])
def test_the_published_setting_is_in_the_space(algo: str) -> None:
    """ARPO's κ = 0 is not, and ATLA's attacker has no learning rate of its own."""
    it = tuning(algo)
    params = strength_params(it.paper, it.space)
    assert suggest_strength(FixedTrial(params), it.space).items() >= it.paper.items()


def test_published_settings() -> None:
    """Of the task, and for what is not said of it the algorithm's own."""
    agent, epsilon = task("carppo", "Walker2d-v5")
    paper = Tuning(agent, StrengthSpace.around(epsilon, "carppo"), EVALUATION).paper
    assert (as_schedule(paper["weight"])(0.5), paper["temperature"]) == (0.1, 10.0)
    assert not {"weight", "temperature"} & agent.kwargs.keys()
    agent, epsilon = task("sppo", "Hopper-v5")
    paper = Tuning(agent, StrengthSpace.around(epsilon, "sppo"), EVALUATION).paper
    assert paper["policy_kwargs"] == {"noise_std": 0.3, "n_draws": 20}
    assert "policy_kwargs" not in agent.kwargs  # what is searched for is not set
    assert tuning("atla").paper["attacker"] == "sarl"


def test_distributions_by_hand() -> None:
    (trial,) = sampled(StrengthSpace.around(0.1, "sppo"), 1)
    assert trial.distributions == {
        "epsilon.ramp.end": FloatDistribution(0.1, 0.75),
        "epsilon.ramp.delay": FloatDistribution(0.0, 0.8),
        "margin": FloatDistribution(0.5, 4.0, log=True),
        "weight.constant.value": FloatDistribution(0.03, 10.0, log=True),
        "policy_kwargs.noise_std": FloatDistribution(0.03, 0.5, log=True),
        "policy_kwargs.n_draws": CategoricalDistribution((10, 20, 40)),
    }


def test_bounds_are_not_searched_for_by_a_solver() -> None:
    for algo in ("radialppo", "sappo_convex"):
        (trial,) = sampled(StrengthSpace.around(0.1, algo), 1)
        assert "adversary" not in trial.user_attrs["spec"]


def test_a_worst_case_value_s_weight_rises() -> None:
    drawn = {"epsilon.ramp.end": 0.5, "epsilon.ramp.delay": 0.0, "margin": 1.0}
    drawn |= {"weight.rise.final": 0.7, "penalty.constant.value": 0.1}
    tried = suggest_strength(FixedTrial(drawn), StrengthSpace.around(0.1, "wocarppo"))
    assert [as_schedule(tried["weight"])(left) for left in (1.0, 0.5, 0.0)] == [0.0, 0.35, 0.7]


# A study whose answer is known


@dataclass(frozen=True)
class Known(Cheap):
    """Instead of training: the best worst case is at a weight of 2 and a temperature of 10, whatever the strength."""

    def objective(self, trial: optuna.Trial) -> tuple[float, ...]:
        tried = self.suggest(trial)
        away = log(as_schedule(tried["weight"])(0.0) / 2) ** 2 + log(tried["temperature"] / 10) ** 2
        trial.set_user_attr("natural", 100.0)
        trial.set_user_attr("worst_case", 100.0 - away)
        return self.criterion.score(100.0, 100.0 - away)


def test_the_search_finds_the_best_weight_and_temperature(tmp_path: Path) -> None:
    agent = replace(AGENT, name="carppo", algo="carppo")
    it = Known(agent, StrengthSpace.around(0.1, "carppo"), EVALUATION)
    result = tune_strength(it, tmp_path, 60, confirmation=Confirmation(top=0), seed=3)
    found = result.strength
    assert abs(log(found["weight"] / 2)) < 0.7
    assert abs(log(found["temperature"] / 10)) < 1.2
    away = [100 - trial.user_attrs["worst_case"] for trial in result.study.trials]
    assert min(away) < min(away[:10])  # not by its random beginning
    (settings,) = yaml.safe_load((tmp_path / "best.yml").read_text()).values()
    assert settings["temperature"] == found["temperature"]
    assert "CARPPO(" in (tmp_path / "best.py").read_text()
    assert {"schedules.png", "returns.png", "history.png", "importance.png"} <= {f.name for f in tmp_path.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["carppo", "radialppo", "atla", "sppo"])
def test_a_study_trains_confirms_and_reports(algo: str, tmp_path: Path) -> None:
    confirmation = Confirmation(top=1, n_seeds=1, attacks=["random"], n_eval_episodes=1)
    it = tuning(algo, agent=replace(AGENT, name=algo, algo=algo))
    result = tune_strength(it, tmp_path, 2, confirmation=confirmation, seed=0)
    assert result.confirmed is not None
    assert set(result.confirmed.index) == {"paper", f"trial-{result.confirmed.index.drop('paper')[0].split('-')[1]}"}
    assert (tmp_path / "schedules.png").stat().st_size > 0


# Controllers


@pytest.mark.parametrize(
    ("changes", "drawn", "name", "expected"),
    [
        (
            {"epsilon_kinds": ("competence",), "returns": (-10.0, 90.0)},
            {"epsilon.competence.high": 60.0},
            "epsilon",
            Competence(-10.0, 60.0, 0.1),
        ),
        ({"epsilon_kinds": ("holdkl",)}, {"epsilon.holdkl.target": 0.02}, "epsilon", HoldKL(0.02, 0.1)),
        (
            {"settings": {"kappa": Numbers(0.1, 10.0, ("dualkappa",))}},
            {"kappa.dualkappa.bound": 0.05},
            "kappa",
            DualKappa(0.05),
        ),
    ],
)
def test_controllers_are_values_of_the_search(
    changes: dict[str, Any], drawn: dict[str, float], name: str, expected: Any
) -> None:
    space = replace(StrengthSpace.around(0.1), **changes)
    rest = {"margin": 2.0, "epsilon.ramp.end": 0.5, "epsilon.ramp.delay": 0.0, "kappa.constant.value": 1.0}
    tried = suggest_strength(FixedTrial(rest | drawn), space)
    assert as_schedule(tried[name]) == expected
    assert strength_params(tried, space).items() >= drawn.items()
    assert as_schedule(plain(tried, "barpo")[name]) == expected
    model: Any = make_model(replace(AGENT, kwargs=AGENT.kwargs | tried)).learn(64)
    assert {state.partition("_")[0] for state in model.controls} == {name}
    model.env.close()


# What is written


@pytest.mark.parametrize("algo", ["atla", "sppo", "radialppo", "wocarppo"])
def test_the_zoo_takes_the_entry_and_python_the_script(algo: str, tmp_path: Path) -> None:
    pytest.importorskip("rl_zoo3")
    from sb3_barpo import zoo

    it = tuning(algo)
    (trial,) = sampled(it.space, 1)
    short = plain(it.suggest(trial), algo)
    entry = tmp_path / "best.yml"
    entry.write_text(zoo_entry(it.agent, short))
    zoo.prepare("train", ["--algo", algo, "--env", "Pendulum-v1", "-conf", str(entry)])  # which builds the model
    compile(script(it.agent, short), "best.py", "exec")
    for name in own_settings(algo):
        assert name.partition(".")[0] in script(it.agent, short)


def test_arguments_that_hold_others_are_put_together() -> None:
    tried = {"policy_kwargs": {"noise_std": 0.1}, "attacker_kwargs": {"learning_rate": 1e-3}, "weight": 2.0}
    given = {"policy_kwargs": "dict(activation_fn=nn.ReLU)", "attacker_kwargs": {"ent_coef": 0.1}, "n_steps": 32}
    assert merged(given, tried) == {
        "policy_kwargs": "dict(activation_fn=nn.ReLU, noise_std=0.1)",
        "attacker_kwargs": {"ent_coef": 0.1, "learning_rate": 1e-3},
        "n_steps": 32,
        "weight": 2.0,
    }
    with pytest.raises(ValueError, match=r"policy_kwargs is .* but a search tries noise_std itself: leave it out"):
        merged({"policy_kwargs": "dict(noise_std=0.2)"}, tried)
    with pytest.raises(ValueError, match=r"to search for more of it, write it as dict\(name=value\)"):
        with_kwargs("policy_kwargs", "{'net_arch': [8]}", {"noise_std": 0.1})


def test_ppo_s_settings_are_searched_together_with_the_noise() -> None:
    it = tuning("sppo", ppo=True)
    trial = optuna.create_study().ask()
    model: Any = make_model(it.trained_with(it.suggest(trial), "it", 0))
    assert model.policy.noise_std == pytest.approx(trial.params["policy_kwargs.noise_std"], rel=1e-3)
    assert model.policy.log_std[0].item() == pytest.approx(trial.params["ppo.log_std_init"], rel=1e-3)
    model.env.close()


# Refusals


def test_another_defence_s_space() -> None:
    with pytest.raises(ValueError, match=r"carppo has no kappa to tune.* StrengthSpace.around\(epsilon, 'carppo'\)"):
        tuning("carppo", space=StrengthSpace.around(0.1))


@pytest.mark.parametrize("ends", [(-1.0, 1.0), (2.0, 1.0), (0.0, 1.0), (1.0, float("inf"))])
def test_ranges_that_are_none(ends: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="A range is two finite numbers above 0, the lower first, but this is"):
        Numbers(*ends)
    with pytest.raises(ValueError, match="A choice needs one value or more"):
        Choices(())


def test_settings_that_are_not_there() -> None:
    with pytest.raises(ValueError, match=r"'kappa' is no setting with a range to search. Here these are: weight"):
        changed(own_settings("sappo"), {"kappa": (1.0, 2.0)}, {}, {})


@pytest.mark.parametrize(
    ("strength", "match"),
    [
        ({"weight": 1.0}, "temperature is not given, but the space searches for it"),
        ({"weight": 1.0, "temperature": 1e6}, r"temperature is 1e\+06, but the space goes from 0\.03 to 10000"),
        ({"weight": 0.0, "temperature": 1.0}, "weight's value is 0"),
    ],
)
def test_a_setting_outside_the_space(strength: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        strength_params({"epsilon": "ramp_0.1", **strength}, StrengthSpace.around(0.1, "carppo"))


def test_a_choice_outside_the_space() -> None:
    space = StrengthSpace.around(0.1, "radialppo")
    with pytest.raises(ValueError, match=r"intervals is 0\.3, but the space has only 1\.0, 'ramp_1', 0\.5"):
        strength_params({"epsilon": "ramp_0.1", "weight": 0.5, "intervals": 0.3}, space)


def test_spaces_of_older_studies_are_read() -> None:
    spec = {"epsilon": [0.1, 0.1], "kappa": [0.1, 5.0], "kappa_kinds": ["constant"], "margin": [0.5, 4.0]}
    read = StrengthSpace.from_spec(spec)
    assert read == StrengthSpace((0.1, 0.1), {"kappa": Numbers(0.1, 5.0, ("constant",))}, margin=(0.5, 4.0))
