"""A policy with two learning rates: known steps, and SB3's own policy where the rates agree."""

from pathlib import Path
from typing import Any

import pytest
import torch as th
from helpers import TINY, make_envs, same, weights
from stable_baselines3 import A2C, PPO

from sb3_barpo.attacks.two_rates import TwoRatesPolicy


def train(policy: Any, steps: int = 64, **kwargs: Any) -> PPO:
    return PPO(policy, make_envs(), **{**TINY, **kwargs}).learn(steps)


def with_rate(value_rate: float, **kwargs: Any) -> dict[str, Any]:
    return {"policy": TwoRatesPolicy, "policy_kwargs": {"value_rate": value_rate}, **kwargs}


def is_of_the_value(name: str) -> bool:
    return "value_net" in name


def change(model: PPO, of_the_value: bool) -> th.Tensor:
    """How far training has moved the networks, from the same start."""
    start = weights(PPO("MlpPolicy", make_envs(), **TINY))
    return th.cat(
        [(weights(model)[name] - start[name]).flatten() for name in start if is_of_the_value(name) == of_the_value]
    )


@pytest.mark.parametrize("learning_rate", [3e-4, lambda left: 1e-3 * left], ids=["constant", "schedule"])
def test_at_rate_1_it_is_sb3_s_own_policy_bit_for_bit(learning_rate: Any) -> None:
    ours, theirs = (
        train(**policy, learning_rate=learning_rate) for policy in (with_rate(1.0), {"policy": "MlpPolicy"})
    )
    assert same(weights(ours), weights(theirs))
    assert change(ours, of_the_value=True).any()


def test_at_rate_0_the_value_rests() -> None:
    model = train(**with_rate(0.0))
    assert not change(model, of_the_value=True).any()
    assert change(model, of_the_value=False).ne(0).double().mean() > 0.99


@pytest.mark.parametrize("value_rate", [0.1, 3.0])
def test_the_value_steps_by_its_own_rate(value_rate: float) -> None:
    """After the only step of a training, from the same start and on the same data."""
    once = {"batch_size": 32, "n_epochs": 1, "steps": 32}
    scaled, plain = train(**with_rate(value_rate), **once), train("MlpPolicy", **once)
    th.testing.assert_close(change(scaled, True), value_rate * change(plain, True), rtol=1e-3, atol=1e-7)
    assert th.equal(change(scaled, False), change(plain, False))


def test_the_common_rate_is_as_it_was_after_a_step_and_after_an_error() -> None:
    model = train(**with_rate(0.5, learning_rate=1e-3))
    optimizer = model.policy.optimizer
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 1e-3]

    def fail() -> float:
        raise ArithmeticError("no loss")

    with pytest.raises(ArithmeticError, match="no loss"):
        optimizer.step(fail)
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 1e-3]


def test_each_parameter_is_in_one_group() -> None:
    policy = PPO(**with_rate(0.5), env=make_envs(), **TINY).policy
    names = {id(parameter): name for name, parameter in policy.named_parameters()}
    of_policy, of_value = ([names[id(p)] for p in group["params"]] for group in policy.optimizer.param_groups)
    assert sorted(of_policy + of_value) == sorted(names.values())
    assert all(map(is_of_the_value, of_value))
    assert not any(map(is_of_the_value, of_policy))
    assert "log_std" in of_policy


def test_a_stored_model_keeps_its_rates(tmp_path: Path) -> None:
    model = train(**with_rate(0.5))
    model.save(tmp_path / "model")
    loaded = PPO.load(tmp_path / "model", env=make_envs(), device="cpu")
    assert type(loaded.policy) is TwoRatesPolicy
    assert loaded.policy.value_rate == 0.5
    assert [group["factor"] for group in loaded.policy.optimizer.param_groups] == [1.0, 0.5]
    assert same(loaded.policy.optimizer.state_dict(), model.policy.optimizer.state_dict())
    assert same(weights(loaded), weights(model))


def test_a_stored_policy_keeps_its_rates(tmp_path: Path) -> None:
    model = train(**with_rate(0.5))
    model.policy.save(tmp_path / "policy")
    loaded = TwoRatesPolicy.load(tmp_path / "policy", device="cpu")
    assert loaded.value_rate == 0.5
    assert loaded.optimizer.param_groups[1]["factor"] == 0.5
    assert same(loaded.state_dict(), model.policy.state_dict())


def test_a2c_takes_it_too() -> None:
    """With the optimizer's arguments of A2C's own policies left out: they are those of another optimizer."""
    model = A2C(TwoRatesPolicy, make_envs(), n_steps=8, use_rms_prop=False, policy_kwargs={"value_rate": 0.0})
    before = weights(model)
    model.learn(16)
    after = weights(model)
    assert all(same(after[name], before[name]) == is_of_the_value(name) for name in before)
