"""PPO's settings in the search, and how trials are pruned."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from brief import BRIEF
from cheap_tuning import AGENT, cheap
from optuna.trial import FixedTrial

from sb3_barpo.experiment import Evaluation, make_model
from sb3_barpo.expressions import read_kwargs
from sb3_barpo.tuning import Blend, Confirmation, StrengthSpace, Tuning, task, tune_strength
from sb3_barpo.tuning.ppo import ppo_params, suggest_ppo
from sb3_barpo.tuning.results import plain, script, zoo_entry

DRAWN: dict[str, Any] = {
    "ppo.learning_rate": 0.00123456,
    "ppo.learning_rate_falls": True,
    "ppo.n_steps": 256,
    "ppo.minibatches": 8,
    "ppo.n_epochs": 7,
    "ppo.clip_range": 0.25,
    "ppo.ent_coef": 1e-5,
    "ppo.gae_lambda": 0.95,
    "ppo.max_grad_norm": 2.0,
    "ppo.log_std_init": -1.0,
}


def test_a_suggestion_by_hand() -> None:
    assert suggest_ppo(FixedTrial(DRAWN), 8, {}, gaussian=True) == {
        "learning_rate": "lin_0.001235",
        "n_steps": 256,
        "batch_size": 256,
        "n_epochs": 7,
        "clip_range": 0.25,
        "ent_coef": 1e-5,
        "gae_lambda": 0.95,
        "max_grad_norm": 2.0,
        "policy_kwargs": "dict(log_std_init=-1.0)",
    }
    still = suggest_ppo(FixedTrial(DRAWN | {"ppo.learning_rate_falls": False}), 8, {}, gaussian=False)
    assert still["learning_rate"] == 0.001235
    assert "policy_kwargs" not in still


def test_the_first_trial_by_hand() -> None:
    found = suggest_ppo(FixedTrial(DRAWN), 8, {}, gaussian=True)
    assert ppo_params("ppo", found, 8, gaussian=True) == DRAWN | {"ppo.learning_rate": 0.001235}
    usual = ppo_params("ppo", {}, 1, gaussian=False)  # SB3's own
    assert usual == {
        "ppo.learning_rate": 3e-4,
        "ppo.learning_rate_falls": False,
        "ppo.n_steps": 2048,
        "ppo.minibatches": 32,
        "ppo.n_epochs": 10,
        "ppo.clip_range": 0.2,
        "ppo.ent_coef": 1e-6,
        "ppo.gae_lambda": 0.95,
        "ppo.max_grad_norm": 0.5,
    }
    given = {"learning_rate": 1.0, "n_steps": 5, "n_epochs": 100, "clip_range": "lin_0.3"}
    far = ppo_params("ppo", given, 1, gaussian=True)
    assert (far["ppo.learning_rate"], far["ppo.n_steps"], far["ppo.n_epochs"]) == (3e-3, 128, 20)
    assert (far["ppo.clip_range"], far["ppo.log_std_init"]) == (0.3, 0.0)


def test_what_is_missing_is_the_algorithm_s_default() -> None:
    """RecurrentPPO's are not PPO's, and ours have those of the base."""
    pytest.importorskip("sb3_contrib")
    assert ppo_params("barpo", {}, 8, gaussian=True) == ppo_params("ppo", {}, 8, gaussian=True)
    assert ppo_params("barpo_lstm", {}, 8, gaussian=True)["ppo.n_steps"] == 128
    assert ppo_params("barpo_lstm", {}, 8, gaussian=True)["ppo.minibatches"] == 8


@pytest.mark.parametrize("n_envs", [1, 3, 8, 16])
@pytest.mark.parametrize("n_steps", [128, 2048])
@pytest.mark.parametrize("minibatches", [4, 32])
def test_rollouts_are_divided_without_a_rest(n_envs: int, n_steps: int, minibatches: int) -> None:
    drawn = DRAWN | {"ppo.n_steps": n_steps, "ppo.minibatches": minibatches}
    found = suggest_ppo(FixedTrial(drawn), n_envs, {}, gaussian=True)
    assert found["n_steps"] * n_envs >= 1024
    assert found["batch_size"] * minibatches == found["n_steps"] * n_envs


@pytest.mark.parametrize(
    "given",
    [
        "dict(net_arch=[8], activation_fn=nn.ReLU)",
        "dict(net_arch=[8], log_std_init=-2.0, activation_fn=nn.ReLU)",
        {"net_arch": [8], "activation_fn": "nn.ReLU"},
        {"log_std_init": 0.5, "net_arch": [8]},
        "dict(log_std_init=-2.0)",
        "dict()",
        None,
    ],
)
def test_the_policy_s_other_arguments_stay(given: Any) -> None:
    found = suggest_ppo(FixedTrial(DRAWN), 8, {"policy_kwargs": given}, gaussian=True)["policy_kwargs"]
    before = read_kwargs(given) if given else {}
    before.pop("log_std_init", None)
    assert read_kwargs(found) == {**before, "log_std_init": -1.0}


@pytest.mark.parametrize("env", ["Hopper-v5", "Walker2d-v5", "HalfCheetah-v5", "Ant-v5", "Pendulum-v1"])
def test_entries_can_be_searched(env: str) -> None:
    """Also those that set what the search tries; the first trial is close to the entry."""
    agent, epsilon = task("barpo", env)
    tuning = Tuning(agent, StrengthSpace.around(epsilon), Evaluation([epsilon], ["random"]), ppo=True)
    study = optuna.create_study(directions=["maximize"])
    study.enqueue_trial(tuning.first()[0])
    found = tuning.suggest(study.ask())
    wanted = {"n_steps": 2048, "gae_lambda": 0.95, "learning_rate": 3e-4} | agent.kwargs
    assert {name: found[name] for name in ("n_steps", "gae_lambda", "learning_rate")}.items() <= wanted.items()
    assert read_kwargs(found["policy_kwargs"])["log_std_init"] == (
        -1.0 if env in ("Walker2d-v5", "HalfCheetah-v5") else 0
    )


def test_a_trial_can_be_trained_stored_and_written() -> None:
    tuning = cheap(ppo=True)
    study = optuna.create_study(directions=["maximize"])
    trial = study.ask()
    found = tuning.suggest(trial)
    assert tuning.suggest(study.trials[0]) == found
    assert json.loads(json.dumps(found)) == found
    agent = tuning.trained_with(found, "it", 0)
    model = make_model(agent)
    assert (model.n_steps, model.n_epochs) == (found["n_steps"], found["n_epochs"])
    short = plain(found, "barpo")
    entry = yaml.safe_load(zoo_entry(AGENT, short))
    (settings,) = entry.values()
    assert settings["learning_rate"] == found["learning_rate"]
    assert settings["margin"] == found["margin"]
    assert f"n_epochs={found['n_epochs']}" in script(AGENT, short)


def test_a_study_of_ppo_itself(tmp_path: Path) -> None:
    """It has no strength: the entry that it begins with takes the place of the paper's."""
    agent = replace(AGENT, algo="ppo", steps=2048)
    tuning = Tuning(agent, None, Evaluation([0.1], ["random"], n_eval_episodes=1), Blend(0.0), ppo=True)
    assert Tuning.from_spec(tuning.to_spec()) == tuning
    assert (tuning.paper, tuning.settled) == ({}, 0)
    confirmation = Confirmation(1, 1, attacks=["random"], n_eval_episodes=1)
    result = tune_strength(tuning, tmp_path, n_trials=1, confirmation=confirmation, seed=0)
    (trial,) = result.study.trials
    assert trial.params == ppo_params("ppo", agent.kwargs, 1, gaussian=True)  # the entry's, as far as the space has it
    assert list(trial.intermediate_values) == [1024]
    assert trial.values == [trial.user_attrs["natural"]]
    assert set(result.confirmed.index) == {"entry", "trial-0"}
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert report.startswith(f"# PPO, tuned on {BRIEF}")
    assert "entry's setting" in report
    assert "from stable_baselines3 import PPO" in (tmp_path / "best.py").read_text(encoding="utf-8")
    assert not (tmp_path / "schedules.png").exists()
    with pytest.raises(ValueError, match="ppo has no defence, so it has no strength to search for"):
        StrengthSpace.around(0.1, "ppo")


def test_a_pruner_is_a_setting_of_the_study() -> None:
    hyperband = cheap(pruner="hyperband").make_pruner()
    assert isinstance(hyperband, optuna.pruners.HyperbandPruner)
    assert (hyperband._min_resource, hyperband._max_resource) == (64 // 9, 64)
    assert isinstance(cheap().make_pruner(), optuna.pruners.MedianPruner)
    with pytest.raises(ValueError, match=r"Unknown pruner 'best'\. Choose from median, hyperband"):
        cheap(pruner="best")


def test_hyperband_hears_of_a_trial_from_a_ninth_of_training_on() -> None:
    agent = type(AGENT)("barpo", "barpo", AGENT.env, 0, 288, kwargs=AGENT.kwargs)
    tuning = Tuning(agent, cheap().space, cheap().evaluation, pruner="hyperband")
    study = optuna.create_study(direction="maximize")
    tuning.objective(study.ask())
    assert list(study.trials[0].intermediate_values) == [32 * k for k in range(1, 9)]


def test_settings_of_older_studies_are_read() -> None:
    spec = cheap().to_spec()
    for name in ("adapt_steps", "ppo", "pruner"):
        del spec[name]
    del spec["space"]["margin"]
    assert not Tuning.from_spec(spec).ppo
    assert Tuning.from_spec(spec).space.margin == (1.0, 1.0)
