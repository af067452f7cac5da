"""Ranges of seeds: disjoint, and in use where they are meant to be."""

import inspect
import itertools
from pathlib import Path

import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

from sb3_barpo import experiment, seeds
from sb3_barpo.evaluation import RobustEvalCallback, members
from sb3_barpo.evaluation.campaign import evaluate
from sb3_barpo.experiment import Agent, Evaluation

RANGES = {name: value for name, value in vars(seeds).items() if isinstance(value, range)}


def test_no_two_ranges_meet() -> None:
    assert len(RANGES) == 7
    for (one, first), (other, second) in itertools.combinations(RANGES.items(), 2):
        assert first.stop <= second.start or second.stop <= first.start, f"{one} meets {other}"
    assert all(len(seeds_) >= 10_000 for seeds_ in RANGES.values())


def default(function: object, name: str) -> int:
    return inspect.signature(function).parameters[name].default


def test_the_best_model_is_not_chosen_on_the_episodes_of_the_report() -> None:
    env = make_vec_env("Pendulum-v1")
    callback = RobustEvalCallback(env, attacks=["random"], n_eval_episodes=2)
    callback.init_callback(PPO("MlpPolicy", env, device="cpu"))
    chosen = set(callback.evaluate().to_frame()["seed"])
    assert chosen == {30_000, 30_001}
    assert chosen <= set(seeds.CALLBACKS)
    assert default(evaluate, "seed") == seeds.REPORT.start
    assert Evaluation([0.1]).on(seeds.REPORT).seed == 10_000
    assert Evaluation([0.1], seed=7).on(seeds.REPORT).seed == 7


def test_attacks_are_compared_on_other_episodes_than_are_reported() -> None:
    assert members.SELECTION + seeds.REPORT.start in seeds.SELECTION


def test_trials_are_compared_on_other_episodes_than_their_winners() -> None:
    tuning = pytest.importorskip("sb3_barpo.tuning")
    agent = Agent("it", "barpo", "Pendulum-v1", 0, 64)
    trials = tuning.Tuning(agent, tuning.StrengthSpace.around(0.1), Evaluation([0.1]))
    confirmation = tuning.Confirmation()
    assert trials.evaluation.seed == seeds.CALLBACKS.start
    assert confirmation.evaluation(0.1).seed in seeds.CONFIRMATION
    assert confirmation.first_seed in seeds.RETRAINING
    assert agent.seed in seeds.TRAINING
    again = tuning.Tuning.from_spec(trials.to_spec())
    assert again == trials


def test_an_experiment_reports_on_the_seeds_of_reports(tmp_path: Path) -> None:
    agent = Agent("it", "ppo", "Pendulum-v1", 0, 32, kwargs={"n_steps": 32, "batch_size": 32, "n_epochs": 1})
    report = experiment.run([agent], Evaluation([0.1], ["random"], n_eval_episodes=2), tmp_path)
    assert set(report.to_frame()["seed"]) == {10_000, 10_001}
