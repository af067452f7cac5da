"""Attackers that go along with a victim that changes, in callbacks and in studies."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from brief import BRIEF as ENV
from cheap_tuning import AGENT
from helpers import same
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

from sb3_barpo import BARPO
from sb3_barpo.attacks import LearnedAttack
from sb3_barpo.evaluation import RobustEvalCallback
from sb3_barpo.evaluation.adapted import ADAPTABLE, AdaptedAttacks
from sb3_barpo.evaluation.budgets import Budget, Member
from sb3_barpo.experiment import Evaluation
from sb3_barpo.tuning import RobustTrialCallback, StrengthSpace, Tuning

#: Attackers that learn from rollouts of 32 steps.
BRIEFLY = Budget(
    {
        "robust_sarsa": [Member("robust_sarsa", 64, {"n_epochs": 1})],
        **{name: [Member(name, 64, {"n_steps": 32, "batch_size": 32, "n_epochs": 1})] for name in ("sarl", "paad")},
    },
    n_episodes=1,
)
QUICK: dict[str, Any] = {"n_steps": 32, "batch_size": 32, "n_epochs": 1, "device": "cpu"}


def victim(seed: int) -> PPO:
    return BARPO("MlpPolicy", ENV, epsilon=0.1, seed=seed, **QUICK).learn(32)


def knowledge(attack: Any) -> Any:
    return attack.q.state_dict() if hasattr(attack, "q") else attack.adversary_model.policy.state_dict()


@pytest.mark.parametrize("name", ADAPTABLE)
def test_the_next_victim_s_attacker_starts_from_the_last_one_s(name: str, tmp_path: Path) -> None:
    venv = make_vec_env(ENV, n_envs=2, seed=0)
    attacks = AdaptedAttacks([name], steps=64, budget=BRIEFLY, folder=tmp_path)
    (first,) = attacks.on(victim(0), venv, 0.1)
    assert attacks.learned_for == {name: first.n_fitted}
    stored = knowledge(LearnedAttack.load(tmp_path / f"{name}-0.1-2.zip", first.model))
    assert same(stored, knowledge(first))
    other = victim(1)
    with pytest.raises(ValueError, match="was fitted on another victim"):
        first.check_victim(other)
    # as by hand, bit for bit
    expected = LearnedAttack.load(tmp_path / f"{name}-0.1-2.zip", other, transfer=True).fit(venv, 64)
    (second,) = AdaptedAttacks([name], steps=64, folder=tmp_path).on(other, venv, 0.1)
    assert same(knowledge(second), knowledge(expected))
    assert not same(knowledge(second), stored)
    assert second.n_fitted == expected.n_fitted > first.n_fitted
    second.check_victim(other, venv)


def test_attackers_of_another_strength_are_others(tmp_path: Path) -> None:
    venv, attacks = make_vec_env(ENV), AdaptedAttacks(["sarl"], 32, BRIEFLY, tmp_path)
    for epsilon in (0.1, 0.2):
        assert attacks.on(victim(0), venv, epsilon)[0].epsilon == epsilon
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sarl-0.1-1.zip", "sarl-0.2-1.zip"]


def test_a_temporary_folder_goes_with_the_attacks() -> None:
    attacks = AdaptedAttacks(["sarl"], 32, BRIEFLY)
    attacks.on(victim(0), make_vec_env(ENV), 0.1)
    folder = attacks._folder
    assert folder is not None
    assert folder.exists()
    del attacks
    assert not folder.exists()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"names": ["sarsa_mad", "mad"]}, "sarsa_mad, mad cannot be adapted. Choose from robust_sarsa, sarl, paad"),
        ({"names": ["sarl"], "steps": 0}, "by which attackers are adapted is 0, but it is a whole number, at least 1"),
        ({"names": ["sarl"], "steps": 1.5}, "are adapted is 1.5, but it is a whole number"),
    ],
)
def test_what_cannot_be_adapted(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        AdaptedAttacks(**arguments)


def short(callback: RobustEvalCallback) -> RobustEvalCallback:
    assert callback.adapted is not None
    callback.adapted.budget = BRIEFLY
    return callback


def test_a_callback_under_attacks_that_learn(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"attacks": ["random", "sarl"], "n_eval_episodes": 1, "eval_freq": 32, "verbose": 0}
    callback = short(RobustEvalCallback(make_vec_env(ENV), adapt_steps=32, attackers=tmp_path, **settings))
    model = BARPO("MlpPolicy", ENV, epsilon=0.1, margin=2.0, seed=0, **QUICK)
    model.learn(96, callback=callback)
    assert callback.report is not None
    assert callback.report.attacks == ["random", "sarl"]
    assert callback.report.epsilons == [0.1]
    assert callback.adapted is not None
    assert callback.adapted.learned_for == {"sarl": 64 + 2 * 32}
    assert [path.name for path in tmp_path.iterdir()] == ["sarl-0.1-1.zip"]
    with pytest.raises(ValueError, match="or let attackers adapt, with adapt_steps=10_000"):
        RobustEvalCallback(make_vec_env(ENV), **settings)


def test_cheap_attacks_prune_and_learned_ones_decide() -> None:
    trial = optuna.create_study(direction="maximize").ask()
    settings: dict[str, Any] = {"attacks": ["random", "sarl"], "epsilon": 0.1, "n_eval_episodes": 1, "eval_freq": 32}
    callback = RobustTrialCallback(make_vec_env(ENV), trial, adapt_steps=32, **settings)
    short(callback)
    BARPO("MlpPolicy", ENV, epsilon=0.1, seed=0, **QUICK).learn(96, callback=callback)
    stored = trial.study.trials[0]
    assert list(stored.intermediate_values) == [32, 64]
    assert list(stored.user_attrs["returns"]) == ["random"]
    callback.result()
    stored = trial.study.trials[0]
    assert list(stored.user_attrs["returns"]) == ["random", "sarl"]
    assert stored.user_attrs["learned_for"] == callback.adapted.learned_for  # type: ignore[union-attr]


def test_trials_of_a_study_share_their_attackers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = AdaptedAttacks.__init__

    def brief(self: AdaptedAttacks, *args: Any, **kwargs: Any) -> None:
        start(self, *args, **{**kwargs, "budget": BRIEFLY})

    monkeypatch.setattr(AdaptedAttacks, "__init__", brief)
    evaluation = Evaluation([0.1], ["random", "sarl"], n_eval_episodes=1, n_envs=1)
    tuning = Tuning(AGENT, StrengthSpace.around(0.1), evaluation, adapt_steps=32, attackers=str(tmp_path))
    assert Tuning.from_spec(tuning.to_spec()) == tuning
    study = optuna.create_study(direction="maximize")
    for _ in range(2):
        tuning.objective(study.ask())
    first, second = (trial.user_attrs["learned_for"]["sarl"] for trial in study.trials)
    assert second > first
