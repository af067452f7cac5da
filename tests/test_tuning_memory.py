"""Tuning the strength for agents with a memory, and for agents that see pixels."""

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import yaml
from cheap_tuning import AGENT
from sights import Drift
from torch import nn

from sb3_barpo.experiment import Agent, Evaluation, make_model
from sb3_barpo.tuning import Confirmation, StrengthSpace, Tuning, task, tune_strength
from sb3_barpo.tuning.results import script, zoo_entry

pytest.importorskip("sb3_contrib")
from sb3_barpo import RecurrentARPO, RecurrentBARPO

gym.register("Seen-v0", lambda: Drift("image", "box"))
KWARGS: dict[str, Any] = {
    **AGENT.kwargs,
    "policy_kwargs": "dict(lstm_hidden_size=8, net_arch=[8], activation_fn=nn.ReLU)",
}


@pytest.mark.parametrize(("algo", "kind"), [("arpo_lstm", RecurrentARPO), ("barpo_lstm", RecurrentBARPO)])
def test_a_task_with_a_memory_is_the_zoo_s(algo: str, kind: type) -> None:
    pytest.importorskip("rl_zoo3")
    agent, epsilon = task(algo, "CartPoleNoVel-v1")
    assert (agent.algo, epsilon) == (algo, 0.05)
    model = make_model(replace(agent, env="rl_zoo3.import_envs:CartPoleNoVel-v1"))
    assert type(model) is kind
    assert model.policy.lstm_actor.hidden_size == 64
    assert model.policy.activation_fn is nn.ReLU


def test_a_study_with_a_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = replace(AGENT, algo="barpo_lstm", kwargs=KWARGS)
    tuning = Tuning(agent, StrengthSpace((0.05, 0.2)), Evaluation([0.1], ["random", "mad"], 1), n_reports=1)
    assert tuning.paper["kappa"]["value"] == 1.0
    result = tune_strength(tuning, tmp_path, 2, confirmation=Confirmation(top=0))
    assert [trial.state.name for trial in result.study.trials] == ["COMPLETE"] * 2
    assert yaml.safe_load((tmp_path / "best.yml").read_text())["Brief-v0"]["policy"] == "MlpLstmPolicy"
    monkeypatch.chdir(tmp_path)
    model = runpy.run_path("best.py")["model"]
    assert type(model) is RecurrentBARPO
    assert model.policy.lstm_actor.hidden_size == 8
    assert model.num_timesteps == AGENT.steps


@pytest.mark.parametrize(("algo", "policy"), [("barpo", "CnnPolicy"), ("barpo_lstm", "CnnLstmPolicy")])
def test_what_is_written_names_the_policy_that_was_trained(algo: str, policy: str) -> None:
    agent = Agent("it", algo, "Seen-v0", 0, 64, normalize=False)
    assert yaml.safe_load(zoo_entry(agent, {}))[agent.env]["policy"] == policy
    assert f'"{policy}"' in script(agent, {})
