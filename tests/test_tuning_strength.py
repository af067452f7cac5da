"""The search space: what is suggested can be trained, stored and written back, and all else is refused."""

import json
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial

from sb3_barpo import ARPO, BARPO
from sb3_barpo.schedules import Ramp, as_schedule
from sb3_barpo.tuning import StrengthSpace, strength_params, suggest_strength
from sb3_barpo.tuning.spaces import Numbers

KINDS = ("constant", "ramp", "linear", "cosine", "smooth", "step", "cyclic")
ALL_KAPPA = {"kappa": Numbers(0.1, 10.0, KINDS)}
EVERYTHING = StrengthSpace((0.01, 0.2), ALL_KAPPA, KINDS, 0.75, ("sgld", "pgd"), (2, 12), (0.5, 4.0))
DEFAULT = StrengthSpace.around(0.1)

strengths = {"epsilon": st.floats(0.01, 0.2), "kappa": st.floats(0.1, 10.0)}
end = st.floats(0.1, 0.75)
#: What each kind is drawn from, besides the strengths: names and bounds as the documentation has them.
PARAMETERS: dict[str, dict[str, st.SearchStrategy[Any] | None]] = {
    "constant": {"value": None},
    "ramp": {"value": None, "end": end, "delay": st.floats(0, 0.8)},
    "linear": {"initial": None, "final": None},
    "cosine": {"initial": None, "final": None},
    "smooth": {"value": None, "end": end, "mid": st.floats(0.05, 0.95)},
    "step": {"first": None, "second": None, "time": end},
    "cyclic": {"low": st.floats(0, 1), "high": None, "cycles": st.integers(1, 8)},
}


@st.composite
def params(draw: Any) -> dict[str, Any]:
    """All parameters of one trial in the space of everything."""
    drawn = {"solver": draw(st.sampled_from(["sgld", "pgd"])), "n_steps": draw(st.integers(2, 12))}
    drawn["margin"] = draw(st.floats(0.5, 4.0))
    for name, strength in strengths.items():
        kind = drawn[f"{name}.kind"] = draw(st.sampled_from(KINDS))
        for key, values in PARAMETERS[kind].items():
            drawn[f"{name}.{kind}.{key}"] = draw(strength if values is None else values)
    return drawn


def sampled(space: StrengthSpace, n_trials: int = 12) -> optuna.Study:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))

    def objective(trial: optuna.Trial) -> float:
        trial.set_user_attr("spec", suggest_strength(trial, space))
        return 0.0

    study.optimize(objective, n_trials)
    return study


# Round trips


@given(params())
def test_parameters_come_back_up_to_their_rounding(drawn: dict[str, Any]) -> None:
    spec = suggest_strength(FixedTrial(drawn), EVERYTHING)
    again = strength_params(spec, EVERYTHING)
    assert again.keys() == drawn.keys()
    for name, value in drawn.items():
        # A begin is rounded to four digits, so its delay is as exact, whatever the size; a low of nearly 0 likewise.
        assert again[name] == (value if isinstance(value, (str, int)) else pytest.approx(value, rel=1e-3))


@given(params())
def test_a_spec_comes_back_to_the_digit(drawn: dict[str, Any]) -> None:
    spec = suggest_strength(FixedTrial(drawn), EVERYTHING)
    assert suggest_strength(FixedTrial(strength_params(spec, EVERYTHING)), EVERYTHING) == spec


@given(params())
def test_what_is_suggested_can_be_written(drawn: dict[str, Any]) -> None:
    spec = suggest_strength(FixedTrial(drawn), EVERYTHING)
    assert json.loads(json.dumps(spec)) == spec
    for name in ("epsilon", "kappa"):
        assert as_schedule(spec[name]).to_spec() == spec[name]  # type: ignore[attr-defined]
        assert as_schedule(str(as_schedule(spec[name]))) == as_schedule(spec[name])


@given(params(), st.floats(0, 1))
def test_strengths_stay_in_their_range(drawn: dict[str, Any], progress: float) -> None:
    spec = suggest_strength(FixedTrial(drawn), EVERYTHING)
    assert 0 <= as_schedule(spec["epsilon"])(progress) <= 0.2 * (1 + 1e-3)
    assert 0 <= as_schedule(spec["kappa"])(progress) <= 10.0 * (1 + 1e-3)
    assert as_schedule(spec["epsilon"])(0.0) > 0 or spec["epsilon"]["kind"] == "cyclic"


@given(params())
def test_from_the_latest_end_on_a_ramp_is_over(drawn: dict[str, Any]) -> None:
    spec = suggest_strength(FixedTrial(drawn), EVERYTHING)
    if spec["epsilon"]["kind"] in ("constant", "ramp", "smooth", "step"):
        schedule = as_schedule(spec["epsilon"])
        assert schedule(0.25) == schedule(0.0)


@pytest.mark.parametrize("space", [DEFAULT, EVERYTHING])
def test_a_stored_trial_gives_the_same_again(space: StrengthSpace) -> None:
    for trial in sampled(space).trials:
        assert suggest_strength(trial, space) == trial.user_attrs["spec"]


@pytest.mark.parametrize("algorithm", [ARPO, BARPO])
def test_the_algorithms_take_what_is_suggested(algorithm: type[BARPO]) -> None:
    for trial in sampled(EVERYTHING, 20).trials:
        spec = trial.user_attrs["spec"]
        model = algorithm("MlpPolicy", "Pendulum-v1", n_steps=32, batch_size=32, device="cpu", **spec)
        assert as_schedule(model.epsilon)(0.3) == as_schedule(spec["epsilon"])(0.3)
        assert model._adversary.solver.first.n_steps == spec["adversary"]["n_steps"]


# Known answers


def test_the_default_space_is_one_ramp_without_branches() -> None:
    (trial,) = sampled(DEFAULT, 1).trials
    assert trial.distributions == {
        "epsilon.ramp.end": FloatDistribution(0.1, 0.75),
        "epsilon.ramp.delay": FloatDistribution(0.0, 0.8),
        "margin": FloatDistribution(0.5, 4.0, log=True),
        "kappa.constant.value": FloatDistribution(0.1, 10.0, log=True),
    }


def test_kinds_and_solvers_are_parameters_where_there_are_several() -> None:
    given = {"kappa": Numbers(1.0, 1.0, ("constant",))}
    (trial,) = sampled(StrengthSpace((0.1, 0.1), given, ("constant", "ramp"), solvers=("sgld", "pgd")), 1).trials
    assert trial.distributions["epsilon.kind"] == CategoricalDistribution(("constant", "ramp"))
    assert trial.distributions["solver"] == CategoricalDistribution(("sgld", "pgd"))
    assert not [name for name in trial.params if name.startswith("kappa")]
    (trial,) = sampled(StrengthSpace((0.1, 0.1), n_steps=(5, 10)), 1).trials
    assert trial.distributions["n_steps"] == IntDistribution(5, 10)


def test_a_suggestion_by_hand() -> None:
    drawn = {
        "epsilon.ramp.end": 0.5,
        "epsilon.ramp.delay": 0.2,
        "margin": 1.23456,
        "kappa.constant.value": 2.0,
    }
    assert suggest_strength(FixedTrial(drawn), DEFAULT) == {
        "epsilon": {"kind": "ramp", "value": 0.1, "end": 0.5, "begin": 0.1, "power": 1.0},
        "margin": 1.235,
        "kappa": {"kind": "constant", "value": 2.0},
        "adversary": {"solver": "sgld", "n_steps": 10},
    }


def test_a_setting_in_any_form_gives_parameters() -> None:
    expected = {
        "epsilon.ramp.end": 0.75,
        "epsilon.ramp.delay": 0.0,
        "margin": 1.0,
        "kappa.constant.value": 1.0,
    }
    for epsilon in ("ramp_0.1", Ramp(0.1), {"kind": "ramp", "value": 0.1}):
        assert strength_params({"epsilon": epsilon, "kappa": 1}, DEFAULT) == expected
        assert strength_params({"epsilon": epsilon, "kappa": 1, "margin": 2.0}, DEFAULT) == expected | {"margin": 2.0}


def test_a_range_of_epsilon_is_searched_without_a_margin() -> None:
    space = StrengthSpace((0.05, 0.2))
    (trial,) = sampled(space, 1).trials
    assert trial.distributions["epsilon.ramp.value"] == FloatDistribution(0.05, 0.2, log=True)
    assert "margin" not in trial.params
    assert trial.user_attrs["spec"]["margin"] == 1.0


@pytest.mark.parametrize(("kind", "early"), [("linear", "initial"), ("cosine", "initial"), ("step", "first")])
def test_before_a_given_strength_comes_less(kind: str, early: str) -> None:
    space = StrengthSpace((0.1, 0.1), epsilon_kinds=(kind,), margin=(0.5, 4.0))
    for trial in sampled(space).trials:
        assert trial.distributions[f"epsilon.{kind}.{early}"] == FloatDistribution(0.0, 0.1)
        schedule = as_schedule(trial.user_attrs["spec"]["epsilon"])
        assert schedule(0.0) == 0.1
        assert schedule(1.0) == pytest.approx(trial.params[f"epsilon.{kind}.{early}"], rel=1e-3)
        again = strength_params(trial.user_attrs["spec"], space)
        assert again == pytest.approx(trial.params, rel=1e-3)


def test_a_value_that_is_not_searched_is_no_parameter() -> None:
    space = StrengthSpace((0.1, 0.1), {"kappa": Numbers(0, 0, ("constant",))}, ("constant",))
    assert strength_params({"epsilon": 0.1, "kappa": 0}, space) == {}
    assert suggest_strength(FixedTrial({}), space)["kappa"] == {"kind": "constant", "value": 0}


# Refusals


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"epsilon": (0.2, 0.1)}, r"the lower first, but epsilon is \(0\.2, 0\.1\)"),
        ({"epsilon": (0.0, 0.1)}, "two finite numbers above 0"),
        ({"epsilon": (0.1, float("inf"))}, "two finite numbers above 0"),
        ({"n_steps": (0, 0)}, "n_steps is"),
        ({"margin": (0, 2)}, "margin is"),
        ({"latest": 0.1}, r"latest is a fraction of training from 0\.2 to 1, but it is 0\.1"),
        ({"latest": 1.1}, "latest is a fraction"),
        (
            {"epsilon_kinds": ["ramp", "zigzag"]},
            r"kinds of epsilon are \('ramp', 'zigzag'\).*constant, ramp, rise",
        ),
        ({"epsilon_kinds": []}, r"kinds of epsilon are \(\), but it takes one or more of"),
        ({"epsilon_kinds": ["dualkappa"]}, r"kinds of epsilon are \('dualkappa',\)"),
        ({"settings": {"kappa": Numbers(1, 2, ("holdkl",))}}, r"kinds of kappa are \('holdkl',\).* dualkappa"),
        ({"epsilon_kinds": ["competence"]}, r"competence follows the return: .*returns=\(low, high\)"),
        ({"returns": (3.0, 1.0)}, r"returns are two numbers, the lower first, but they are \(3\.0, 1\.0\)"),
        ({"solvers": ["adam"]}, r"solvers is \('adam',\).*sgld, pgd"),
    ],
)
def test_a_space_that_is_none(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        StrengthSpace(**{"epsilon": (0.1, 0.2), **changes})


@pytest.mark.parametrize(
    ("strength", "match"),
    [
        (
            {"epsilon": "constant_0.1", "kappa": 1},
            r"is 'constant_0\.1', but the space has only these kinds: ramp",
        ),
        ({"epsilon": lambda progress: 0.1, "kappa": 1}, "the space has only these kinds"),
        ({"epsilon": "ramp_0.5", "kappa": 1}, r"epsilon's value is 0\.5 in 'ramp_0\.5'.*from 0\.1 to 0\.1"),
        ({"epsilon": "ramp_0.1", "kappa": 1, "margin": 5.0}, r"The margin is 5, but the space goes from 0\.5 to 4"),
        ({"epsilon": "ramp_0.1_0.9", "kappa": 1}, r"epsilon's end is 0\.9"),
        ({"epsilon": "ramp_0.1_0.7_0.6", "kappa": 1}, r"epsilon's delay is 0\.857143"),
        ({"epsilon": "ramp_0.1", "kappa": 0}, r"kappa's value is 0 in 0"),
    ],
)
def test_a_setting_outside_the_space(strength: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        strength_params(strength, DEFAULT)


def test_a_trial_of_another_space() -> None:
    (trial,) = sampled(DEFAULT, 1).trials
    with pytest.raises(ValueError, match=r"epsilon\.kind"):
        suggest_strength(trial, EVERYTHING)
