"""Smoothed policies: the median of answers to noisy observations, as a policy of SB3's."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import TINY, Still, assert_same_training, learn, make_envs, same, weights
from stable_baselines3 import A2C, PPO

from sb3_barpo import ARPO, ATLA, BARPO, CARPPO, RADIALPPO, SAPPO, SPPO, ConvexSAPPO, WocaRPPO
from sb3_barpo.adversary import KL, SGLD, Adversary
from sb3_barpo.attacks import MAD, SARL
from sb3_barpo.attacks.attack import GradientAttack
from sb3_barpo.evaluation import evaluate_robustness
from sb3_barpo.policies import by_hand, mlp, smoothing
from sb3_barpo.policies.evaluate import policy_output
from sb3_barpo.policies.smoothing import SmoothedMlpPolicy, unsmoothed

LINE = spaces.Box(-9, 9, (1,))


def policy_of(space: Any = None, actions: Any = None, **own: Any) -> SmoothedMlpPolicy:
    th.manual_seed(0)
    policy = SmoothedMlpPolicy(
        spaces.Box(-9, 9, (3,)) if space is None else space,
        spaces.Box(-1, 1, (2,)) if actions is None else actions,
        lambda _: 1e-3,
        **own,
    )
    with th.no_grad():  # SB3 begins with means near 0
        policy.action_net.weight.mul_(100)
    policy.set_training_mode(False)
    return policy


def inside(policy: Any, observations: th.Tensor) -> th.Tensor:
    """What it answers without noise, with gradient; logits of discrete actions."""
    return policy.action_net(policy.mlp_extractor.forward_actor(observations))


def copies(policy: Any, observations: th.Tensor) -> th.Tensor:
    """What it answers to each noisy copy."""
    return th.stack([inside(policy, observations + noise) for noise in policy._test_noise])


def some(n: int = 7, features: int = 3) -> th.Tensor:
    return th.randn(n, features, generator=th.Generator().manual_seed(1))


def test_the_mean_is_the_median_of_the_answers() -> None:
    policy = policy_of(noise_std=0.5, n_test_draws=30)
    found = policy_output(policy, some())
    np.testing.assert_allclose(found.detach(), np.median(copies(policy, some()).detach(), axis=0), atol=1e-6)
    assert (found - inside(policy, some())).abs().max() > 0.01
    assert th.equal(policy.get_distribution(some()).distribution.stddev, th.ones(7, 2))


@pytest.mark.parametrize("mode", [True, False])
def test_a_linear_policy_stays_as_it_is(mode: bool) -> None:
    policy = policy_of(net_arch=[], noise_std=2.0, n_draws=6)
    policy.set_training_mode(mode)
    assert th.allclose(policy_output(policy, some()), inside(policy, some()), atol=1e-5)


def test_the_median_of_a_folded_normal() -> None:
    """Of |σ z| it is 0.6745 σ; of any monotone function the median is the function's own value."""
    policy = policy_of(LINE, noise_std=0.5, n_test_draws=20_000, net_arch=[2], activation_fn=th.nn.ReLU)
    first, last = policy.mlp_extractor.policy_net[0], policy.action_net
    with th.no_grad():
        first.weight[:, 0] = th.tensor([1.0, -1.0])
        first.bias.zero_()
        last.bias.zero_()
        last.weight[0] = 1.0  # |s|
        last.weight[1] = th.tensor([3.0, 0.0])  # 3 max(s, 0), monotone
    folded, monotone = policy_output(policy, th.zeros(1, 1))[0].tolist()
    assert folded == pytest.approx(0.6745 * 0.5, rel=0.02)
    assert monotone == pytest.approx(0, abs=0.03)
    assert policy_output(policy, th.full((1, 1), 1.3))[0, 1].item() == pytest.approx(3.9, rel=0.02)


def test_what_a_change_can_do_is_bounded_by_quantiles() -> None:
    policy = policy_of(noise_std=0.4, n_test_draws=4000)
    answers, drift = copies(policy, some()), th.nn.functional.normalize(some(7, 3).roll(1, 0)) * 0.2
    shares = th.tensor([0.5 * math.erfc(0.5 / math.sqrt(2)) - 0.03, 1 - 0.5 * math.erfc(0.5 / math.sqrt(2)) + 0.03])
    low, high = answers.quantile(shares, dim=0)
    moved = policy_output(policy, some() + drift)
    assert ((low <= moved) & (moved <= high)).all()


@pytest.mark.parametrize("action_space", [spaces.Discrete(3), spaces.MultiDiscrete([3, 2]), spaces.MultiBinary(4)])
def test_actions_that_are_not_box(action_space: Any) -> None:
    """Medians of the log-probabilities, normalised."""
    policy = policy_of(actions=action_space, noise_std=0.5, n_test_draws=10)
    answers = copies(policy, some()).detach()
    if isinstance(action_space, spaces.MultiBinary):
        expected = th.as_tensor(np.median(answers, axis=0)).sigmoid()
    else:
        sizes = [3] if isinstance(action_space, spaces.Discrete) else [3, 2]
        logs = [part.log_softmax(-1) for part in answers.split(sizes, dim=-1)]
        expected = th.cat([th.as_tensor(np.median(part, axis=0)).softmax(-1) for part in logs], dim=-1)
    assert th.allclose(policy_output(policy, some()), expected, atol=1e-6)


def test_the_gradient_in_training_by_differences() -> None:
    policy = policy_of(noise_std=0.5, n_draws=10)
    policy.set_training_mode(True)
    seen, bias = some(1).requires_grad_(), policy.mlp_extractor.policy_net[0].bias
    slope, to_bias = th.autograd.grad(policy_output(policy, seen)[0, 0], [seen, bias])

    def difference(point: th.Tensor, index: Any) -> float:
        ends = []
        with th.no_grad():
            for change in (1e-3, -2e-3):
                point[index] += change
                ends.append(policy_output(policy, seen)[0, 0].item())
            point[index] += 1e-3
        return (ends[0] - ends[1]) / 2e-3

    for i in range(3):
        assert slope[0, i].item() == pytest.approx(difference(seen, (0, i)), rel=0.02, abs=2e-3)
    assert to_bias[5].item() == pytest.approx(difference(bias, 5), rel=0.02, abs=2e-3)


def test_the_gradient_in_tests_is_that_of_the_mean() -> None:
    policy = policy_of(noise_std=0.5, n_test_draws=10)
    seen = some(1).requires_grad_()
    slope, expected = (
        th.autograd.grad(output, seen)[0]
        for output in (policy_output(policy, seen)[0, 0], copies(policy, seen).mean(0)[0, 0])
    )
    assert th.allclose(slope, expected, atol=1e-6)
    assert (slope - th.autograd.grad(inside(policy, seen)[0, 0], seen)[0]).abs().max() > 0.01


def test_noise_is_the_policy_s_own() -> None:
    policy = policy_of(n_test_draws=10)
    global_states = th.get_rng_state(), np.random.get_state()[1].tolist()
    actions = th.zeros(7, 2)
    policy.set_training_mode(True)
    first = policy.evaluate_actions(some(), actions)[1]
    # What is asked within a minibatch sees the same noise, the next minibatch sees another.
    assert th.equal(policy.get_distribution(some()).log_prob(actions), first)
    assert not th.equal(policy.evaluate_actions(some(), actions)[1], first)
    policy.set_training_mode(False)
    rollout = [policy(some(), deterministic=True)[0] for _ in range(2)]
    assert not th.equal(*rollout)
    fixed = policy.evaluate_actions(some(), actions)[1]
    assert th.equal(policy.evaluate_actions(some(), actions)[1], fixed)
    assert same([th.get_rng_state(), np.random.get_state()[1].tolist()], list(global_states))


def test_no_row_depends_on_others() -> None:
    policy = policy_of()
    whole = policy.predict(some().numpy(), deterministic=True)[0]
    alone = [policy.predict(row, deterministic=True)[0] for row in some().numpy()]
    np.testing.assert_allclose(alone, whole, atol=1e-6)


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
@pytest.mark.parametrize("algorithm", [PPO, BARPO])
def test_without_noise_it_is_sb3_s(algorithm: type[PPO], env_id: str) -> None:
    """Bit for bit, also in rollouts."""
    runs = []
    own = {} if algorithm is PPO else {"epsilon": 0}
    kwargs = {"policy_kwargs": {"noise_std": 0}}
    for kind, policy, more in ((algorithm, SmoothedMlpPolicy, own | kwargs), (PPO, "MlpPolicy", {})):
        model = kind(policy, make_envs(env_id, normalized=True), **TINY, **more)
        runs += [model, learn(model, 96)]
    assert_same_training(*runs)


@pytest.mark.parametrize("algorithm", [BARPO, ARPO, SAPPO, CARPPO])
def test_without_noise_defences_are_theirs(algorithm: Any) -> None:
    """Up to rounding: without noise, too, updates go the general way."""
    runs = [
        algorithm(policy, make_envs(), epsilon=0.1, **TINY, policy_kwargs=kwargs).learn(32)
        for policy, kwargs in (("SmoothedMlpPolicy", {"noise_std": 0.0}), ("MlpPolicy", {}))
    ]
    smoothed, plain = (weights(model) for model in runs)
    assert all(th.allclose(smoothed[name], plain[name], atol=1e-6) for name in plain)


@pytest.mark.parametrize("algorithm", [PPO, A2C, BARPO, ARPO, SAPPO, CARPPO, SPPO, ATLA])
def test_training_files_and_determinism(algorithm: Any, tmp_path: Path) -> None:
    settings = {"n_steps": 16, "seed": 3} if algorithm is A2C else TINY
    own = {} if algorithm in (PPO, A2C) else {"epsilon": 0.1}

    def trained(seed: int) -> Any:
        kwargs = {"noise_std": 0.3, "n_draws": 4, "n_test_draws": 8}
        env = make_envs(normalized=True)
        model = algorithm(SmoothedMlpPolicy, env, **own, **{**settings, "seed": seed}, policy_kwargs=kwargs)
        return model.learn(64)

    model, again, other = trained(3), trained(3), trained(4)
    assert same(weights(model), weights(again))
    assert not same(weights(model), weights(other))
    assert not {name for name in weights(model) if "noise" in name}
    model.save(tmp_path / "agent")
    expected = model.predict(some().numpy(), deterministic=True)[0]
    for kind in {algorithm, A2C if algorithm is A2C else PPO}:
        loaded = kind.load(tmp_path / "agent", device="cpu")
        assert type(loaded.policy) is SmoothedMlpPolicy
        assert (loaded.policy.noise_std, loaded.policy.n_draws, loaded.policy.n_test_draws) == (0.3, 4, 8)
        np.testing.assert_array_equal(loaded.predict(some().numpy(), deterministic=True)[0], expected)
    model.policy.save(tmp_path / "policy")
    policy = SmoothedMlpPolicy.load(tmp_path / "policy", device="cpu")
    np.testing.assert_array_equal(policy.predict(some().numpy(), deterministic=True)[0], expected)


def test_the_name_of_sppo_s_policy() -> None:
    model = SPPO("MlpPolicy", make_envs(), **TINY)
    assert type(model.policy) is SmoothedMlpPolicy
    assert type(BARPO("MlpPolicy", make_envs(), **TINY).policy) is not SmoothedMlpPolicy


def test_it_is_not_taken_for_a_plain_policy() -> None:
    model = SPPO("MlpPolicy", make_envs(), **TINY).learn(32)
    assert not mlp.is_mlp(model.policy)
    assert not by_hand.supports(model.policy, model.rollout_buffer)
    assert mlp.is_mlp(unsmoothed(model).policy)


def test_in_training_the_adversary_sees_the_noise_of_the_minibatch() -> None:
    """And in tests that of tests, whatever the mode in which training has left the policy."""
    model: Any = SPPO("MlpPolicy", make_envs(), **TINY)
    asked, smoothed = [], model.policy._smoothed

    def listen(obs: th.Tensor, noise: th.Tensor) -> Any:
        asked.append(noise)
        return smoothed(obs, noise)

    model.policy._smoothed = listen
    model.policy.set_training_mode(True)
    model.policy.evaluate_actions(some(), th.zeros(7, 1))
    adversary = Adversary(KL(), SGLD(n_steps=3))
    adversary.search(model.policy, some(), 0.1)
    assert len(asked) == 5
    assert all(noise is asked[0] for noise in asked)
    asked.clear()
    MAD(model, 0.1).perturb(some().numpy())
    assert model.policy.training
    assert asked
    assert all(noise is model.policy._test_noise for noise in asked)


def test_attacks_are_not_misled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by the gradient of the median, nor do they do better on the policy inside, which bends more sharply."""
    model: Any = SPPO("MlpPolicy", make_envs(), **TINY, policy_kwargs={"noise_std": 1.0})
    with th.no_grad():
        model.policy.mlp_extractor.policy_net[0].weight.mul_(8)
        model.policy.action_net.weight.mul_(100)
    model.policy.set_training_mode(False)
    before = policy_output(model.policy, some(200))

    def moved_by(victim: Any) -> float:
        attack = GradientAttack(victim, 0.3, Adversary(KL(), SGLD(n_steps=10)), seed=0)
        seen = th.as_tensor(attack.perturb(some(200).numpy()))
        return (policy_output(model.policy, seen) - before).square().mean().item()

    own, transferred = moved_by(model), moved_by(unsmoothed(model))
    monkeypatch.setattr(smoothing, "_led_by", lambda guide, value: value)
    monkeypatch.setattr(smoothing, "_led_by", lambda guide, value: value)
    assert own > 1.1 * max(transferred, moved_by(model))


def test_evaluation_is_reproduced_and_the_policy_inside_can_be_attacked() -> None:
    env = make_envs(n_envs=2, normalized=True)
    model: Any = SPPO("MlpPolicy", env, **TINY).learn(64)
    learned = SARL(model, 0.1, seed=0, n_steps=8, batch_size=16)
    learned.fit(env, total_timesteps=16)
    transferred = MAD(unsmoothed(model), 0.1)
    transferred.name = "transferred"
    frames = [
        evaluate_robustness(model, env, ["mad", learned, transferred], 0.1, n_eval_episodes=3).to_frame()
        for _ in range(2)
    ]
    assert frames[0].equals(frames[1])
    assert evaluate_robustness(unsmoothed(model), env, ["mad"], 0.1, n_eval_episodes=2).natural < 0


@pytest.mark.parametrize("noise_std", [-1, math.inf, math.nan, "0.2"])
def test_deviations_that_are_none(noise_std: Any) -> None:
    with pytest.raises(ValueError, match="noise_std must be a finite number, at least 0"):
        policy_of(noise_std=noise_std)


@pytest.mark.parametrize("name", ["n_draws", "n_test_draws"])
@pytest.mark.parametrize("number", [0, -2, 3, 2.0])
def test_numbers_that_are_not_even(name: str, number: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must be even, at least 2"):
        policy_of(**{name: number})


@pytest.mark.parametrize(
    "space", [spaces.Discrete(3), spaces.Dict(a=LINE), spaces.Box(0, 255, (36, 36, 3), "uint8")], ids=repr
)
def test_observations_without_smoothing(space: Any) -> None:
    with pytest.raises(TypeError, match="adds noise to Box observations that are no images"):
        PPO(SmoothedMlpPolicy, Still(space), **TINY)


def test_gsde_is_refused() -> None:
    with pytest.raises(TypeError, match="has no median of gSDE's noise"):
        SPPO("MlpPolicy", make_envs(), use_sde=True, **TINY)


@pytest.mark.parametrize("algorithm", [RADIALPPO, ConvexSAPPO, WocaRPPO])
def test_defences_by_bounds_refuse_it(algorithm: Any) -> None:
    with pytest.raises(TypeError, match="SmoothedMlpPolicy is none, or was changed"):
        algorithm(SmoothedMlpPolicy, make_envs(), **TINY)


def test_only_a_smoothed_agent_has_a_policy_inside() -> None:
    with pytest.raises(TypeError, match="takes an agent with a SmoothedMlpPolicy, not with"):
        unsmoothed(PPO("MlpPolicy", make_envs(), **TINY))
