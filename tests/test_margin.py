"""The strength of training and the strength to be withstood are two things."""

from pathlib import Path
from typing import Any

import pytest
from helpers import TINY, learn, make_envs, same, spy, weights
from stable_baselines3 import PPO

from sb3_barpo import ARPO, ATLA, BARPO, RADIALPPO
from sb3_barpo.evaluation import RobustEvalCallback, evaluate_robustness
from sb3_barpo.zoo import check_settings

BOTH = pytest.mark.parametrize("algorithm", [ARPO, BARPO])


def make(algorithm: type[PPO] = BARPO, **own: Any) -> Any:
    return algorithm("MlpPolicy", make_envs(), **TINY, **own)


@BOTH
def test_training_is_at_margin_times_epsilon(algorithm: type[PPO]) -> None:
    model = make(algorithm, epsilon="ramp_0.1", margin=2.0)
    calls = spy(model)
    book = learn(model, 4 * 32)
    at = [2 * 0.1 * share for share in (1 / 3, 2 / 3, 1, 1)]
    assert book.column("adversary/epsilon") == pytest.approx(at)
    assert book.column("adversary/target_epsilon") == [0.1] * 4
    assert [call.epsilon for call in calls[::4]] == pytest.approx(at)


@pytest.mark.parametrize("algorithm", [ARPO, BARPO, RADIALPPO, ATLA])
def test_only_the_product_counts(algorithm: type[PPO]) -> None:
    one, other = (make(algorithm, **own).learn(64) for own in ({"epsilon": 0.25, "margin": 0.5}, {"epsilon": 0.125}))
    assert same(weights(one), weights(other))


def test_at_strength_0_it_is_ppo_whatever_the_margin() -> None:
    assert same(weights(make(epsilon=0.0, margin=3.0).learn(64)), weights(make(PPO).learn(64)))


def test_attacks_are_at_what_shall_be_withstood(tmp_path: Path) -> None:
    model = make(epsilon="ramp_0.1", margin=2.0)
    report = evaluate_robustness(model, make_envs(), "random", n_eval_episodes=1)
    assert report.epsilons == [0.1]
    callback = RobustEvalCallback(make_envs(), attacks="random", n_eval_episodes=1, eval_freq=16)
    model.learn(32, callback=callback)
    assert callback.report is not None
    assert callback.report.epsilons == [0.1]
    assert report.judged["agents"]["BARPO"]["training"]["margin"] == 2.0


def test_it_may_be_set_at_any_time() -> None:
    model = make(epsilon=0.1)
    assert model.training_epsilon() == 0.1
    model.margin = 1.5
    assert learn(model, 32).column("adversary/epsilon") == pytest.approx([0.15])
    model.margin = -1.0
    with pytest.raises(ValueError, match=r"margin is -1\.0, but a margin is a finite number above 0"):
        model.learn(32)


def test_files_keep_it(tmp_path: Path) -> None:
    make(epsilon=0.1, margin=2.5).save(tmp_path / "agent")
    assert BARPO.load(tmp_path / "agent").margin == 2.5
    PPO.load(tmp_path / "agent", env=make_envs()).learn(32)
    make(PPO).save(tmp_path / "ppo")
    assert BARPO.load(tmp_path / "ppo", epsilon=0.1).margin == 1.0


@BOTH
@pytest.mark.parametrize("bad", [0, -1.0, float("nan"), float("inf"), "2", None, True])
def test_a_margin_that_is_none(algorithm: type[PPO], bad: Any) -> None:
    with pytest.raises(ValueError, match=r"margin is .*, but a margin is a finite number above 0, such as 2\.0"):
        make(algorithm, margin=bad)


def test_in_an_entry_of_the_zoo() -> None:
    check_settings("barpo", {"epsilon": "paper_0.1", "margin": 2.0})
    with pytest.raises(ValueError, match="margin is 0, but a margin is a finite number above 0"):
        check_settings("barpo", {"margin": 0})
    with pytest.raises(ValueError, match="The setting 'margin' is the text '2', not a number"):
        check_settings("barpo", {"margin": "2"})
