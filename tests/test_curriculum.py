"""The strength of an adversary while it learns."""

from typing import Any

import numpy as np
import pytest
import torch as th
from helpers import make_envs
from learned import EPSILON, build, by_policy, fit, knowledge
from victims import victim


def strengths(attack: Any, steps: int, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Of the ball in which the victim is led astray, at each step of a fit in two environments."""
    seen: list[float] = []
    respond = attack.respond

    def listen(observations: th.Tensor, actions: th.Tensor, policy: Any) -> th.Tensor:
        seen.append(attack.epsilon)
        perturbed = respond(observations, actions, policy)
        assert (perturbed - observations).abs().max() <= attack.epsilon * (1 + 1e-5)
        return perturbed

    monkeypatch.setattr(attack, "respond", listen)
    attack.fit(make_envs(n_envs=2), steps)
    return seen


@by_policy
def test_strength_falls_to_its_value_in_the_first_half(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rollouts are of 16 steps in two environments: of 256 steps, the fourth begins at 96 and the fifth at 128."""
    attack = build(kind, curriculum=3.0)
    seen = strengths(attack, 256, monkeypatch)
    expected = EPSILON * np.repeat([3.0, 2.5, 2.0, 1.5, 1.0, 1.0, 1.0, 1.0], 16)
    np.testing.assert_allclose(seen, expected)
    assert attack.epsilon == attack.origin.epsilon == EPSILON


@by_policy
def test_without_a_curriculum_it_stays(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(strengths(build(kind), 64, monkeypatch)) == {EPSILON}


def test_strength_is_put_back_when_a_fit_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    attack = build(by_policy.args[1][0], curriculum=3.0)

    def fail(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(attack, "respond", fail)
    with pytest.raises(KeyboardInterrupt):
        attack.fit(make_envs(n_envs=2), 64)
    assert attack.epsilon == EPSILON


@by_policy
def test_it_changes_what_is_learned(kind: Any) -> None:
    plain, led = (knowledge(fit(kind, curriculum=curriculum)) for curriculum in (1.0, 3.0))
    assert any(not plain[name].equal(led[name]) for name in plain)


@by_policy
@pytest.mark.parametrize("curriculum", [0.5, float("inf"), float("nan")])
def test_a_curriculum_that_is_none(kind: Any, curriculum: float) -> None:
    with pytest.raises(ValueError, match="curriculum must be finite and at least 1, but it is"):
        kind(victim(), EPSILON, curriculum=curriculum)
