"""Fits that continue: a fit in parts is the fit as a whole, also when it was stored in between."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import make_envs, same, weights
from learned import STEPS, answers, build, by_policy, clean, fit, knowledge, learned
from stable_baselines3 import SAC
from victims import victim

from sb3_barpo.adversary import L2Ball
from sb3_barpo.attacks import SARL, LearnedAttack, RobustSarsa, reversed_roles


@pytest.fixture
def short_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages of a rollout or so; Robust Sarsa's are its epochs."""
    monkeypatch.setattr(reversed_roles, "STAGE", 32)


def long(kind: Any, **kwargs: Any) -> Any:
    """Several stages, with schedules of everything; in this ball dice show: a search does not end in corners."""
    more = {"n_epochs": 3} if issubclass(kind, RobustSarsa) else {"curriculum": 4.0}
    return build(kind, **{"ball": L2Ball(), **more, **kwargs})


TOTAL = 120


@learned
def test_a_fit_that_was_stored_at_any_stage_is_the_same(kind: Any, short_stages: None, tmp_path: Path) -> None:
    stages: list[int] = []

    def store(attack: LearnedAttack) -> None:
        stages.append(attack.n_fitted)
        attack.save(tmp_path / f"{attack.n_fitted}.zip")

    whole = long(kind).fit(make_envs(n_envs=2), TOTAL, after_stage=store)
    assert len(stages) >= 3
    assert stages[-1] == TOTAL
    for done in stages[:-1]:
        resumed = kind.load(tmp_path / f"{done}.zip", victim())
        assert resumed.n_fitted == done
        resumed.fit(make_envs(n_envs=2), TOTAL - done)
        assert same(knowledge(resumed), knowledge(whole))
        assert resumed.origin == whole.origin
        np.testing.assert_array_equal(answers(resumed), answers(whole))


@by_policy
def test_a_learning_rate_falls_over_the_whole_fit(kind: Any, short_stages: None, tmp_path: Path) -> None:
    """The schedule of SB3 sees the end of the fit, not that of the stage."""
    seen: list[float] = []

    def rate(left: float) -> float:
        seen.append(left)
        return 0.1 * left

    long(kind, learning_rate=rate).fit(make_envs(n_envs=2), 96)
    after_updates = [1 - done / 96 for done in (32, 64, 96)]
    assert [left for left in dict.fromkeys(seen) if left < 1] == pytest.approx(after_updates)


@learned
def test_a_second_fit_continues(kind: Any) -> None:
    """In the same process as from a file, from where the first one ended."""
    first = fit(kind)
    before = knowledge(first)
    first.fit(make_envs(n_envs=2), STEPS)
    assert first.origin.total_timesteps == 2 * STEPS
    assert not same(knowledge(first), before)
    again = fit(kind).fit(make_envs(n_envs=2), STEPS)
    assert same(knowledge(first), knowledge(again))
    longer = build(kind).fit(make_envs(n_envs=2), 2 * STEPS)
    assert longer.origin == first.origin


@by_policy
def test_a_curriculum_does_not_begin_again(kind: Any) -> None:
    """Strength does not rise again because a fit is continued, however long the second one is."""
    attack = long(kind).fit(make_envs(n_envs=2), 64)
    used: list[float] = []
    respond = attack.respond

    def listen(*args: Any) -> Any:
        used.append(attack.epsilon)
        return respond(*args)

    attack.respond = listen
    attack.fit(make_envs(n_envs=2), 640)
    assert set(used) == {attack.epsilon}


def test_progress_counts_all_steps(short_stages: None) -> None:
    for kind, steps in ((SARL, 96), (RobustSarsa, 96)):
        told: list[float] = []
        long(kind).fit(make_envs(n_envs=2), steps, tell=told.append)
        assert sum(told) == pytest.approx(steps)
        assert len(told) >= 3


def test_an_algorithm_with_a_replay_buffer_continues(short_stages: None, tmp_path: Path) -> None:
    """Its buffer is not stored, so that it is not the same as an uninterrupted one."""
    attack = SARL(victim(), 0.1, algorithm=SAC, seed=0, learning_starts=10, buffer_size=200)
    attack.fit(make_envs(n_envs=2), 64).save(tmp_path / "sac.zip")
    loaded = SARL.load(tmp_path / "sac.zip", victim())
    loaded.fit(make_envs(n_envs=2), 32)
    assert loaded.origin.total_timesteps == loaded.adversary_model.num_timesteps == 96


def test_a_fit_continues_on_as_many_environments() -> None:
    with pytest.raises(ValueError, match=r"SARL was fitted on 2 environments, so it cannot continue on 3"):
        fit(SARL).fit(make_envs(n_envs=3), STEPS)


@learned
def test_a_fit_does_not_continue_on_another_victim(kind: Any) -> None:
    attack = fit(kind)
    other = type(attack.model)("MlpPolicy", "Pendulum-v1", seed=1, device="cpu")
    attack.model = other
    with pytest.raises(ValueError, match="was fitted on another victim, or before this one learned more"):
        attack.fit(make_envs(n_envs=2), STEPS)
    attack.transfer = True
    before = weights(other)
    attack.fit(make_envs(n_envs=2), STEPS)
    assert same(weights(other), before)
    assert np.isfinite(attack.perturb(clean())).all()
