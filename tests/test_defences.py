"""The field's defences: their losses against plain ones written out by hand, their limits, and that they are PPO's."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from helpers import TINY, General, assert_same_training, learn, make_envs, same, weights
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.vec_env import DummyVecEnv
from test_loss import SPACES, Step, distance, log_prob_and_entropy, one_step, surrogate

from sb3_barpo import ARPO, BARPO, CARPPO, SAPPO
from sb3_barpo.adversary import KL, Samples
from sb3_barpo.losses import Defence, OuterLoss, Regularised, Rollout, Rows, SoftWorst, TimeDiscounted, WorstCase
from sb3_barpo.training.presets import RobustPPO

ALL = pytest.mark.parametrize("algorithm", [SAPPO, CARPPO])
CLIP = 0.06


def rows_of_surrogate(policy: Any, observations: th.Tensor, batch: Any) -> th.Tensor:
    advantages = (batch.advantages - batch.advantages.mean()) / (batch.advantages.std() + 1e-8)
    ratio = (log_prob_and_entropy(policy, observations, batch.actions)[0] - batch.old_log_prob).exp()
    return th.where(advantages > 0, ratio.clamp(max=1 + CLIP), ratio.clamp(min=1 - CLIP)) * advantages


def sappo_by_hand(policy: Any, clean: th.Tensor, perturbed: th.Tensor, batch: Any) -> th.Tensor:
    """At λ = 0.7."""
    outputs = [policy.action_net(policy.mlp_extractor.policy_net(seen)) for seen in (clean, perturbed)]
    if hasattr(policy, "log_std"):
        kl = (0.5 * ((outputs[0] - outputs[1]) / policy.log_std.exp()) ** 2).sum(1)
    else:
        p, q = (output.softmax(1) for output in outputs)
        kl = (p * (p / q).log()).sum(1)
    return -surrogate(policy, clean, batch) + 0.7 * kl.mean()


def carppo_by_hand(policy: Any, clean: th.Tensor, perturbed: th.Tensor, batch: Any) -> th.Tensor:
    """At w = 0.7, T = 0.5."""
    robust = rows_of_surrogate(policy, perturbed, batch)
    shares = (-robust.detach() / 0.5).exp()
    worst = (shares * robust).sum() / shares.sum()
    return -(surrogate(policy, clean, batch) + 0.7 * worst) / 1.7


BY_HAND: dict[type[PPO], tuple[dict[str, Any], Callable[..., th.Tensor]]] = {
    SAPPO: ({"weight": 0.7}, sappo_by_hand),
    CARPPO: ({"weight": 0.7, "temperature": 0.5}, carppo_by_hand),
}


def by_hand(step: Step, perturbed: th.Tensor, policy_loss: Callable[..., th.Tensor]) -> tuple[float, dict[str, Any]]:
    step.model.policy.load_state_dict(step.before)
    policy, batch = step.model.policy, step.batch
    values = policy.value_net(policy.mlp_extractor.value_net(batch.observations)).flatten()
    loss = policy_loss(policy, batch.observations, perturbed, batch)
    loss = loss + step.model.vf_coef * ((values - batch.returns) ** 2).mean()
    names, parameters = zip(*policy.named_parameters(), strict=True)
    gradients = th.autograd.grad(loss, parameters)
    return loss.item(), dict(zip(names, gradients, strict=True))


@ALL
@SPACES
def test_loss_and_gradient(algorithm: type[PPO], env_id: str) -> None:
    own, policy_loss = BY_HAND[algorithm]
    step = one_step(algorithm, env_id, epsilon=0.1, vf_coef=1e-3, **own)
    (call,) = step.calls
    loss, gradient = by_hand(step, call.perturbed, policy_loss)
    assert step.book.column("train/loss") == [pytest.approx(loss, rel=1e-6, abs=1e-6)]
    assert distance(step.gradient(), gradient) < 2e-6
    _, other = by_hand(step, call.observations, policy_loss)
    assert distance(gradient, other) > 1e-4  # the test can tell


@ALL
@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
def test_weight_zero_is_ppo(algorithm: type[PPO], env_id: str) -> None:
    """Bit for bit, whatever ε."""
    runs = []
    for kind, own in ((algorithm, {"epsilon": 0.1, "weight": 0}), (PPO, {})):
        model = kind("MlpPolicy", make_envs(env_id), **TINY, **own)
        runs += [model, learn(model, 96)]
    assert_same_training(*runs)


@ALL
def test_strength_zero_is_ppo(algorithm: type[PPO]) -> None:
    runs = []
    for kind, own in ((algorithm, {"epsilon": 0}), (PPO, {})):
        model = kind("MlpPolicy", make_envs(normalized=True), **TINY, **own)
        runs += [model, learn(model, 96)]
    assert_same_training(*runs)


@SPACES
def test_infinite_temperature_is_guided_arpo(env_id: str) -> None:
    car = one_step(CARPPO, env_id, epsilon=0.1, weight=0.5, temperature=math.inf)
    guided = one_step(ARPO, env_id, epsilon=0.1, kappa=2.0)
    assert distance(car.after, guided.after) < 1e-6
    assert car.book.column("adversary/effective_sample_size") == [pytest.approx(64)]
    assert distance(car.after, one_step(CARPPO, env_id, epsilon=0.1, weight=0.5, temperature=0.1).after) > 1e-4


def some_rows(n: int, mask: th.Tensor | None = None) -> tuple[Rows, Samples]:
    draw = th.Generator().manual_seed(0)
    log_prob = th.randn(2, n, generator=draw, dtype=th.float64) / 5
    advantages, divergence = (th.randn(n, generator=draw, dtype=th.float64) for _ in range(2))
    samples = Samples(th.zeros(n), th.zeros(n, dtype=th.float64), advantages, 0.2, mask)
    return Rows(log_prob.requires_grad_(), divergence.square), samples


def test_a_low_temperature_leaves_the_worst_row() -> None:
    rows, samples = some_rows(50)
    terms = SoftWorst(weight=1.0, temperature=1e-4)(rows, samples)
    ratio = rows.log_prob[1].exp()
    surrogates = th.min(ratio * samples.advantages, ratio.clamp(0.8, 1.2) * samples.advantages)
    assert terms.logs["robust_surrogate"].item() == pytest.approx(surrogates.min().item())
    assert terms.logs["effective_sample_size"].item() == pytest.approx(1)


@pytest.mark.parametrize("loss", [Regularised(0.7), SoftWorst(0.7, 0.5), WorstCase(0.7)], ids=repr)
def test_rows_that_do_not_count(loss: OuterLoss) -> None:
    """They have no part in the loss, as if they were not there, and no gradient."""
    mask = th.arange(30) % 3 > 0
    rows, samples = some_rows(30, mask)
    few = Rows(rows.log_prob[:, mask], lambda: rows.kl()[mask])
    counted = samples._replace(old_log_prob=samples.old_log_prob[mask], advantages=samples.advantages[mask], mask=None)
    loss_of_all, loss_of_few = loss(rows, samples).loss, loss(few, counted).loss
    assert loss_of_all.item() == pytest.approx(loss_of_few.item(), rel=1e-12)
    (gradient,) = th.autograd.grad(loss_of_all, rows.log_prob)
    assert not gradient[:, ~mask].any()
    assert gradient[:, mask].any()


@pytest.mark.parametrize(
    "loss", [Regularised(0.7), SoftWorst(0.7, 0.5), SoftWorst(2.0, math.inf), WorstCase(0.7), WorstCase(0.0)], ids=repr
)
def test_slopes_that_are_written_out(loss: OuterLoss) -> None:
    """They are those of autograd, and loss and logs are the loss's own."""
    assert type(loss).slopes is not OuterLoss.slopes
    rows, samples = some_rows(50)
    with th.inference_mode():
        asked = Rows(rows.log_prob.detach().clone(), rows.kl)
        found, expected = loss.slopes(asked, samples), OuterLoss.slopes(loss, asked, samples)
    assert (expected.log_prob[0 if isinstance(loss, Regularised) else 1] == 0).any()  # some rows are clipped
    if found.loss is None:  # it leaves both to a call
        assert type(loss) is WorstCase
        found = found._replace(loss=expected.loss, logs=expected.logs)
    assert found.loss.item() == pytest.approx(expected.loss.item(), rel=1e-12)
    assert {name: value.item() for name, value in found.logs.items()} == pytest.approx(
        {name: value.item() for name, value in expected.logs.items()}, rel=1e-12
    )
    assert th.allclose(found.log_prob, expected.log_prob, rtol=0, atol=1e-14)
    assert (found.kl is None) == (expected.kl is None)
    assert found.kl is None or th.allclose(found.kl, expected.kl, rtol=0, atol=1e-14)


class TDRT(RobustPPO):
    """One line."""

    defence = Defence(KL(), TimeDiscounted(weight=1.0, discount=0.99))


class Clock(gym.Env[Any, Any]):
    """Shows the number of the step; episodes last 5 steps."""

    observation_space, action_space = gym.spaces.Box(0, 9, (1,)), gym.spaces.Box(-1, 1, (1,))
    now = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.now = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.now += 1
        return np.full(1, self.now, np.float32), 0.0, self.now == 5, False, {}


def test_the_penalty_is_discounted_over_episodes() -> None:
    """Also over those that began in the rollout before: 8 steps are no whole episodes."""
    model = TDRT("MlpPolicy", DummyVecEnv([Clock] * 2), epsilon=0.1, discount=0.5, **{**TINY, "n_steps": 8})
    seen, begin = [], TimeDiscounted.begin

    def listen(loss: TimeDiscounted, rollout: Rollout) -> th.Tensor:
        notes = begin(loss, rollout)
        seen.append((notes, rollout.buffer.observations.copy()))
        return notes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TimeDiscounted, "begin", listen)
        model.learn(48)
    assert len(seen) == 3
    for notes, observations in seen:
        np.testing.assert_allclose(notes[0], 0.5 ** observations.ravel())
    rows, samples = some_rows(20)
    weights_of_rows = 0.5 ** (th.arange(20) % 5).double()
    loss = TimeDiscounted(0.7, 0.5)(rows._replace(notes=weights_of_rows[None]), samples).loss
    expected = Regularised(0)(rows, samples).loss + 0.7 * (weights_of_rows * rows.kl()).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


def test_without_a_discount_it_is_sappo() -> None:
    runs = [
        weights(kind(General, make_envs(), epsilon=0.1, **TINY, **own).learn(64))
        for kind, own in ((TDRT, {"discount": 1.0}), (SAPPO, {}), (TDRT, {"discount": 0.5}))
    ]
    assert same(runs[0], runs[1])
    assert not same(runs[1], runs[2])


@pytest.mark.parametrize("discount", [0, -0.5, 1.1, math.nan, True, "0.9"])
def test_discounts_that_are_none(discount: Any) -> None:
    with pytest.raises(ValueError, match="discount must be above 0 and at most 1"):
        TimeDiscounted(discount=discount)


@pytest.mark.parametrize("temperature", [0, -1.0, math.nan, True, "ramp_1"])
def test_temperatures_that_are_none(temperature: Any) -> None:
    with pytest.raises(ValueError, match="temperature must be a number above 0"):
        CARPPO("MlpPolicy", make_envs(), temperature=temperature)


@ALL
def test_weights_that_are_none(algorithm: type[PPO]) -> None:
    with pytest.raises(ValueError, match="a strength is a finite number"):
        algorithm("MlpPolicy", make_envs(), weight=-1)


@ALL
def test_a_schedule_of_the_weight(algorithm: type[PPO]) -> None:
    model = algorithm("MlpPolicy", make_envs(), epsilon=0.1, weight="linear_0_0.4", **TINY)
    assert learn(model, 4 * 32).column("adversary/weight") == pytest.approx([0.1, 0.2, 0.3, 0.4])


@ALL
def test_a_model_s_life(algorithm: type[PPO], tmp_path: Path) -> None:
    """Trained behind VecNormalize with a callback, saved, loaded by both classes, trained on."""
    own, _ = BY_HAND[algorithm]
    envs = make_envs(normalized=True)
    model = algorithm("MlpPolicy", envs, epsilon=0.1, **TINY, **own)
    callback = EvalCallback(make_envs(normalized=True), n_eval_episodes=1, eval_freq=32, verbose=0)
    book = learn(model, 64, callback=callback)
    assert callback.n_calls == 64
    assert 0 < book.column("adversary/radius_used")[-1] <= 0.1 * (1 + 1e-5)
    model.save(tmp_path / "agent")
    again = algorithm.load(tmp_path / "agent", device="cpu", env=envs)
    assert {name: getattr(again, name) for name in own} == own
    ppo = PPO.load(tmp_path / "agent", device="cpu", env=envs)
    assert same(weights(again), weights(model))
    assert same(weights(ppo), weights(model))
    again.learn(64, reset_num_timesteps=False)
    ppo.learn(64)
    assert again.num_timesteps == 128
    assert not same(weights(again), weights(ppo))
    assert all(np.isfinite(value.numpy()).all() for value in weights(again).values())
    barpo = BARPO.load(tmp_path / "agent", device="cpu", env=envs)  # and the other way round
    barpo.learn(32)


def test_recurrent_forms(tmp_path: Path) -> None:
    pytest.importorskip("sb3_contrib")
    from sb3_contrib import RecurrentPPO

    from sb3_barpo import RecurrentCARPPO, RecurrentSAPPO

    small = {"policy_kwargs": {"lstm_hidden_size": 8, "net_arch": [8]}}
    for algorithm in (RecurrentSAPPO, RecurrentCARPPO):
        settings = {**TINY, **small, "n_steps": 35}
        model = algorithm("MlpLstmPolicy", make_envs("CartPole-v1"), epsilon=0.1, **settings)
        book = learn(model, 70)
        assert all(np.isfinite(value) for value in book.dumps[-1].values())
        model.save(tmp_path / "agent")
        assert same(weights(RecurrentPPO.load(tmp_path / "agent", device="cpu")), weights(model))
        runs = []
        for kind, own in ((algorithm, {"epsilon": 0.1, "weight": 0}), (RecurrentPPO, {})):
            runs += [some := kind("MlpLstmPolicy", make_envs(), **settings, **own), learn(some, 70)]
        assert_same_training(*runs)
