"""Defences by bounds: RADIAL-PPO and the convex form of SA-PPO, against plain ones and against what can be sampled."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from helpers import TINY, assert_same_training, learn, make_envs, same, weights
from stable_baselines3 import PPO
from test_defences import by_hand, rows_of_surrogate
from test_loss import ONE_STEP, SPACES, distance, log_prob_and_entropy, one_step, surrogate
from torch import nn

from sb3_barpo import RADIALPPO, ConvexSAPPO, RecurrentBARPO
from sb3_barpo.adversary import KL, SGLD, Adversary, LinfBall, Uniform
from sb3_barpo.certify import OutputBounds, actor_bounds, box_around
from sb3_barpo.certify.answers import answers_in
from sb3_barpo.losses import Bounded, Defence
from sb3_barpo.policies.evaluate import action_distributions, kl_divergence

BOTH = pytest.mark.parametrize("algorithm", [RADIALPPO, ConvexSAPPO])
EPSILON = 0.02


def box(policy: Any, clean: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """Within the limits of the space: Pendulum's cosine ends at 1."""
    low, high = (th.as_tensor(end) for end in (policy.observation_space.low, policy.observation_space.high))
    return th.max(clean - EPSILON, low), th.min(clean + EPSILON, high)


def plain_intervals(policy: Any, low: th.Tensor, high: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """Interval propagation through a network of one hidden layer, by the signs of the weights."""
    hidden, head = policy.mlp_extractor.policy_net[0], policy.action_net

    def through(linear: nn.Linear, low: th.Tensor, high: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        up, down = linear.weight.clamp(min=0), linear.weight.clamp(max=0)
        return low @ up.T + high @ down.T + linear.bias, high @ up.T + low @ down.T + linear.bias

    low, high = through(hidden, low, high)
    return through(head, low.tanh(), high.tanh())


def ends_of_log_prob(policy: Any, low: th.Tensor, high: th.Tensor, actions: th.Tensor) -> list[th.Tensor]:
    """The lowest and the highest, action by action."""
    if hasattr(policy, "log_std"):
        furthest = th.where((actions - low).abs() > (actions - high).abs(), low, high)
        nearest = th.min(th.max(actions, low), high)
        return [
            (-0.5 * ((actions - mean) / policy.log_std.exp()) ** 2 - policy.log_std - 0.5 * math.log(2 * math.pi)).sum(
                1
            )
            for mean in (furthest, nearest)
        ]
    taken = nn.functional.one_hot(actions.flatten().long(), 2).bool()
    return [th.where(taken, own, others).log_softmax(1)[taken] for own, others in ((low, high), (high, low))]


def radial_by_hand(policy: Any, clean: th.Tensor, _: th.Tensor, batch: Any) -> th.Tensor:
    """At w = 0.5, by intervals."""
    low, high = plain_intervals(policy, *box(policy, clean))
    advantages = (batch.advantages - batch.advantages.mean()) / (batch.advantages.std() + 1e-8)
    candidates = [rows_of_surrogate(policy, clean, batch)]
    for log_prob in ends_of_log_prob(policy, low, high, batch.actions):
        ratio = (log_prob - batch.old_log_prob).exp()
        capped = th.where(advantages > 0, ratio.clamp(max=1.06), ratio.clamp(min=0.94))
        candidates.append(capped * advantages)
    return -(surrogate(policy, clean, batch) + th.stack(candidates).min(0).values.mean()) / 2


def convex_by_hand(policy: Any, clean: th.Tensor, _: th.Tensor, batch: Any) -> th.Tensor:
    """At λ = 0.3, by intervals."""
    low, high = plain_intervals(policy, *box(policy, clean))
    output = policy.action_net(policy.mlp_extractor.policy_net(clean))
    if hasattr(policy, "log_std"):
        furthest = th.where((output - low).abs() > (output - high).abs(), low, high)
        bound = (((furthest - output) / policy.log_std.exp()) ** 2).sum(1) / 2
    else:
        p, bound = output.softmax(1), 0.0
        for action in range(2):
            taken = nn.functional.one_hot(th.full((len(p),), action), 2).bool()
            lowest = th.where(taken, low, high).log_softmax(1)[:, action]
            bound = bound + p[:, action] * (p[:, action].log() - lowest)
    return -surrogate(policy, clean, batch) + 0.3 * bound.mean()


BY_HAND = {
    RADIALPPO: ({"weight": 0.5, "intervals": 1.0}, radial_by_hand),
    ConvexSAPPO: ({"weight": 0.3, "intervals": 1.0}, convex_by_hand),
}


@BOTH
@SPACES
def test_loss_and_gradient(algorithm: type[PPO], env_id: str) -> None:
    own, policy_loss = BY_HAND[algorithm]
    step = one_step(algorithm, env_id, epsilon=EPSILON, vf_coef=1e-3, **own)
    assert not step.calls  # nothing is searched for
    loss, gradient = by_hand(step, step.batch.observations, policy_loss)
    assert step.book.column("train/loss") == [pytest.approx(loss, rel=1e-6, abs=1e-6)]
    assert distance(step.gradient(), gradient) < 2e-6
    other = one_step(PPO, env_id, vf_coef=1e-3)
    assert distance(step.after, other.after) > 1e-4  # the test can tell


@BOTH
@pytest.mark.parametrize("own", [{"epsilon": 0}, {"epsilon": 0.1, "weight": 0}], ids=["strength 0", "weight 0"])
def test_ppo_bit_for_bit(algorithm: type[PPO], own: dict[str, Any]) -> None:
    runs = []
    for kind, settings in ((algorithm, own), (PPO, {})):
        model = kind("MlpPolicy", make_envs(normalized=True), **TINY, **settings)
        runs += [model, learn(model, 96)]
    assert_same_training(*runs)


@BOTH
@SPACES
def test_small_strength_runs_into_ppo(algorithm: type[PPO], env_id: str) -> None:
    """The difference of the updates shrinks in proportion, of ConvexSAPPO quadratically."""
    ppo = one_step(PPO, env_id, drift=0).after
    wide, small = (
        distance(one_step(algorithm, env_id, drift=0, epsilon=e, weight=0.5, intervals=0.0).after, ppo)
        for e in (0.1, 0.01)
    )
    assert wide > 1e-6
    assert small < 0.15 * wide


@SPACES
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_bounds_of_rows(env_id: str, share: float) -> None:
    """Over 6400 perturbed observations each: no log-probability and no divergence leaves the bounds."""
    model = one_step(PPO, env_id, drift=0.3).model
    policy, draw = model.policy, th.Generator().manual_seed(0)
    seen = th.as_tensor(model.rollout_buffer.observations)
    with th.no_grad():
        actions = policy.get_distribution(seen).sample()
        answers = answers_in(policy, seen, box_around(seen, 0.1), actions, share)
        clean, lowest, highest = answers.evaluated.log_prob
        largest = answers.kl()
        th.testing.assert_close(clean, log_prob_and_entropy(policy, seen, actions)[0])
        here = action_distributions(policy, seen)
        for _ in range(100):
            perturbed = seen + 0.1 * (2 * th.rand(seen.shape, generator=draw).round() - 1)
            log_prob = policy.get_distribution(perturbed).log_prob(actions)
            assert (lowest - 1e-5 <= log_prob).all()
            assert (log_prob <= highest + 1e-5).all()
            assert (kl_divergence(here, action_distributions(policy, perturbed)) <= largest + 1e-5).all()
    assert answers.width > 0


def test_the_smallest_surrogate_is_a_bound() -> None:
    """What an adversary finds never goes below the bound that RADIAL-PPO descends on."""
    step = one_step(RADIALPPO, "Pendulum-v1", epsilon=0.1, intervals=0.0)
    step.model.policy.load_state_dict(step.before)
    policy, seen = step.model.policy, step.batch.observations
    with th.no_grad():
        found = [
            surrogate(policy, seen + 0.1 * (2 * th.rand(seen.shape).round() - 1), step.batch).item() for _ in range(50)
        ]
    log = step.book.dumps[-1]
    assert log["adversary/robust_surrogate"] <= min(found) < log["adversary/clean_surrogate"]


@BOTH
@SPACES
def test_a_model_s_life(algorithm: type[PPO], env_id: str, tmp_path: Path) -> None:
    envs = make_envs(env_id, normalized=True)
    model = algorithm("MlpPolicy", envs, epsilon=0.1, intervals="ramp_0.5", **TINY)
    book = learn(model, 64)
    assert book.column("adversary/intervals") == pytest.approx([1 / 3, 0.5])
    assert all(width > 0 for width in book.column("adversary/width"))
    model.save(tmp_path / "agent")
    again = algorithm.load(tmp_path / "agent", device="cpu", env=envs)
    ppo = PPO.load(tmp_path / "agent", device="cpu", env=envs)
    assert again.intervals == "ramp_0.5_0.75_0.0_1.0" or again.intervals == "ramp_0.5"
    for some in (again, ppo):
        assert same(weights(some), weights(model))
        some.learn(64, reset_num_timesteps=False)
        assert all(np.isfinite(value.numpy()).all() for value in weights(some).values())
    assert not same(weights(again), weights(ppo))


def test_the_ball_and_the_limits_count() -> None:
    """A feature that cannot move is no part of the box; so a ball of one feature leaves tighter bounds."""
    widths = []
    for scale in (1.0, [0, 1, 0], [0, 1e-6, 0]):
        ball = Adversary(None, Uniform(), LinfBall(scale))
        widths += one_step(RADIALPPO, "Pendulum-v1", epsilon=0.1, adversary=ball).book.column("adversary/width")
    assert widths[0] > widths[1] > 100 * widths[2]


@BOTH
@pytest.mark.parametrize("name", ["weight", "intervals"])
def test_shares_above_one(algorithm: type[PPO], name: str) -> None:
    if algorithm is ConvexSAPPO and name == "weight":
        return  # λ is no share
    with pytest.raises(ValueError, match=f"{name} is a share, from 0 to 1"):
        algorithm("MlpPolicy", make_envs(), **{name: 1.1})
    model = algorithm("MlpPolicy", make_envs(), **{name: "constant_1.1"}, **TINY)
    with pytest.raises(ValueError, match=f"{name} is a share, from 0 to 1"):
        model.learn(32)


@BOTH
@pytest.mark.parametrize("adversary", [Adversary(KL(), SGLD()), {"n_steps": 3}, {"solver": "pgd"}], ids=str)
def test_searches_are_refused(algorithm: type[PPO], adversary: Any) -> None:
    with pytest.raises(ValueError, match=r"searches for nothing|does not fit|needs an objective"):
        algorithm("MlpPolicy", make_envs(), adversary=adversary)


@BOTH
@pytest.mark.parametrize("others", [{"use_sde": True}, {"policy_kwargs": {"activation_fn": nn.GELU}}], ids=str)
def test_policies_without_bounds_are_refused(algorithm: type[PPO], others: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="Bounds are computed for SB3's MLP policies"):
        algorithm("MlpPolicy", make_envs(), **others)


def test_memories_are_refused() -> None:
    pytest.importorskip("sb3_contrib")

    class RecurrentRADIAL(RecurrentBARPO):
        defence = Defence(None, Bounded(), Uniform())

    with pytest.raises(TypeError, match="Bounds are computed for SB3's MLP policies"):
        RecurrentRADIAL("MlpLstmPolicy", make_envs())


def test_other_bounds_of_a_point() -> None:
    model = PPO("MlpPolicy", make_envs(), **{**ONE_STEP, "n_steps": 8, "batch_size": 8})
    seen = th.as_tensor(model.env.reset())
    bounds = actor_bounds(model.policy, OutputBounds(seen, seen))
    th.testing.assert_close(bounds.low, bounds.high)
