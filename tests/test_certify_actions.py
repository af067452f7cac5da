"""Certificates of actions: no attack and no search leaves them, over thousands of networks, bit for bit."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import Still, make_envs
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn
from victims import linear_victim, victim

from sb3_barpo.adversary import LinfBall, bounds_of
from sb3_barpo.attacks import ATTACKS, LearnedAttack
from sb3_barpo.certify import CertifiedChoice, CertifiedMean, certify_actions


def taken(model: PPO, observations: np.ndarray) -> np.ndarray:
    return model.predict(observations, deterministic=True)[0]


def searched(model: PPO, seen: np.ndarray, epsilon: float, tries: int, seed: int) -> Iterator[np.ndarray]:
    """Corners, points inside, and signed ascent of each output from there, in single precision."""
    draw = th.Generator().manual_seed(seed)
    clean = th.as_tensor(seen)
    policy: Any = model.policy
    for i in range(tries):
        noise = 2 * th.rand(clean.shape, generator=draw) - 1
        delta = epsilon * (noise.sign() if i % 2 else noise)
        yield (clean + delta).numpy()
        point = (clean + delta).requires_grad_()
        output = policy.action_net(policy.mlp_extractor.forward_actor(point))
        weights = th.randn(output.shape, generator=draw)
        (gradient,) = th.autograd.grad((weights * output).sum(), point)
        yield (clean + epsilon * gradient.sign()).numpy()


def agent(actions: spaces.Space[Any], activation: type[nn.Module], layers: list[int]) -> PPO:
    env = DummyVecEnv([lambda: Still(spaces.Box(-np.inf, np.inf, (5,)), actions)])
    return PPO("MlpPolicy", env, device="cpu", policy_kwargs={"net_arch": layers, "activation_fn": activation})


def redraw(model: PPO, draw: th.Generator) -> None:
    """Weights of all sizes: outputs that hardly move, and units that saturate."""
    size = float(10 ** (2 * th.rand(1, generator=draw) - 1))
    with th.no_grad():
        for module in [*model.policy.mlp_extractor.policy_net, model.policy.action_net]:
            if isinstance(module, nn.Linear):
                module.weight.normal_(std=size / module.in_features**0.5, generator=draw)
                module.bias.normal_(std=0.3, generator=draw)


def check(model: PPO, n_networks: int, seed: int) -> tuple[int, int]:
    """:return: How many states were certified, and in how many an action was made to change."""
    draw = th.Generator().manual_seed(seed)
    certified = changed = 0
    for i in range(n_networks):
        redraw(model, draw)
        seen = th.randn(1, 5, generator=draw).numpy()
        epsilon = float(10 ** (3 * th.rand(1, generator=draw) - 3))
        found = certify_actions(model, seen, epsilon)
        for perturbed in searched(model, seen, epsilon, 8, i):
            actions = taken(model, perturbed)
            if isinstance(found, CertifiedMean):
                assert (found.low <= actions).all()
                assert (actions <= found.high).all()
            else:
                assert not (found.certified & (actions != found.actions)).any()
                changed += int((actions != found.actions).any())
        if isinstance(found, CertifiedChoice):
            certified += int(found.certified.sum())
            for perturbed in searched(model, seen, float(found.radius[0]), 4, i):
                assert (taken(model, perturbed) == found.actions).all()
    return certified, changed


def models() -> list[PPO]:
    continuous = spaces.Box(-1e9, 1e9, (2,))
    return [
        agent(continuous, nn.Tanh, [32, 32]),
        agent(continuous, nn.ReLU, [16, 16, 16]),
        agent(spaces.Discrete(4), nn.Tanh, [32, 32]),
        agent(spaces.Discrete(4), nn.ReLU, [16, 16, 16]),
    ]


@pytest.mark.parametrize("kind", range(4))
def test_nothing_leaves_the_certificates(kind: int) -> None:
    """40 random networks, states and ε; no tolerance, since rounding is part of the bounds."""
    certified, changed = check(models()[kind], 40, seed=kind)
    if kind >= 2:
        assert certified > 10
        assert changed > 10


@pytest.mark.slow
@pytest.mark.parametrize("kind", range(4))
def test_nothing_leaves_the_certificates_of_10_000_networks(kind: int) -> None:
    check(models()[kind], 2_500, seed=100 + kind)


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
@pytest.mark.parametrize("name", list(ATTACKS))
def test_no_attack_leaves_the_certificates(name: str, env_id: str) -> None:
    model, kind = victim(env_id), ATTACKS[name]
    space: Any = model.observation_space
    limits = bounds_of(space, model.get_env())
    seen = np.stack([space.sample() for _ in range(64)]).clip(-5, 5)
    for epsilon in (0.01, 0.2):
        attack: Any = kind(model, epsilon, seed=0, **({"n_steps": 64} if name in ("sarl", "paad") else {}))
        if isinstance(attack, LearnedAttack):
            attack.fit(make_envs(env_id), 64)
        found = certify_actions(model, seen, epsilon)
        actions = taken(model, attack.perturb(seen, limits))
        if isinstance(found, CertifiedMean):
            assert (found.low <= actions).all()
            assert (actions <= found.high).all()
            assert (np.abs(actions - found.actions) <= found.shift).all()
        else:
            assert (actions == found.actions)[found.certified].all()
            at_its_own = np.stack(
                [
                    attack.at(radius).perturb(one[None], limits)[0]
                    for radius, one in zip(found.radius, seen, strict=True)
                ]
            )
            assert (taken(model, at_its_own) == found.actions)[found.radius > 0].all()


def test_a_linear_policy_is_certified_exactly() -> None:
    """``w · s`` moves by ``ε Σ|w|``."""
    model = linear_victim([3.0, -4.0])
    seen = np.array([[0.01, 0.02], [0.0, 0.0]])
    found = certify_actions(model, seen, 0.05)
    assert isinstance(found, CertifiedMean)
    np.testing.assert_allclose(found.shift, [[0.35], [0.35]], rtol=1e-5)
    np.testing.assert_allclose(found.low, [[-0.05 - 0.35], [-0.35]], rtol=1e-4)


def test_actions_are_clipped_as_the_environment_takes_them() -> None:
    found = certify_actions(linear_victim([3.0, -4.0]), np.array([[0.4, 0.0]]), 0.05)
    assert isinstance(found, CertifiedMean)
    assert found.high.item() == found.actions.item() == 1.0
    assert found.low.item() == pytest.approx(0.85, abs=1e-4)


def two_choices(first: list[float], second: list[float]) -> PPO:
    model = agent(spaces.Discrete(2), nn.Tanh, [])
    with th.no_grad():
        model.policy.action_net.weight.copy_(th.tensor([first, second]))
        model.policy.action_net.bias.zero_()
    return model


def test_the_certified_strength_of_a_linear_choice() -> None:
    """Logits ``x`` and ``-x + y``: the difference ``2 x - y`` is 0 at a distance of ``|2 x - y| / 3``."""
    model = two_choices([1, 0, 0, 0, 0], [-1, 1, 0, 0, 0])
    seen = np.array([[0.3, 0, 0, 0, 0], [0.1, 0.5, 9, 9, 9], [0.0, 0, 0, 0, 0], [3e4, 0, 0, 0, 0]], dtype=np.float32)
    found = certify_actions(model, seen, 0.15)
    assert isinstance(found, CertifiedChoice)
    assert found.actions.tolist() == [0, 1, 0, 0]
    np.testing.assert_allclose(found.radius, [0.2, 0.1, 0.0, 64 * 0.15], rtol=1e-3, atol=1e-12)
    assert found.certified.tolist() == [True, False, False, True]
    assert found.share == 0.5
    np.testing.assert_allclose(found.margin[:2], [0.6 - 0.45, 0.3 - 0.45], rtol=1e-3)


def test_a_scale_keeps_features_clean() -> None:
    model, seen = two_choices([1, 0, 0, 0, 0], [-1, 1, 0, 0, 0]), np.float32([[0.3, 0, 0, 0, 0]])
    found = certify_actions(model, seen, 0.15, LinfBall([0, 1, 1, 1, 1]))
    assert isinstance(found, CertifiedChoice)
    assert found.radius.item() == pytest.approx(0.6, rel=1e-3)


def test_limits_under_normalisation() -> None:
    """At its limit an observation moves one way only: half of the shift that it has without the environment."""
    env = make_envs(normalized=True)
    assert isinstance(env, VecNormalize)
    env.obs_rms.mean, env.obs_rms.var = np.array([0.5, 0, 0]), np.array([4.0, 1, 1])  # type: ignore[union-attr]
    model = PPO("MlpPolicy", env, device="cpu", seed=0, policy_kwargs={"net_arch": []})
    with th.no_grad():
        model.policy.action_net.weight.copy_(th.tensor([[1.0, 0, 0]]))
        model.policy.action_net.bias.zero_()
    seen = env.normalize_obs(np.array([[1.0, 0.0, 0.0]], dtype=np.float32))
    found = certify_actions(model, seen, 0.1)
    assert isinstance(found, CertifiedMean)
    assert found.actions.item() == pytest.approx(0.25)
    assert [found.low.item(), found.high.item()] == pytest.approx([0.15, 0.25], abs=1e-5)
    model.env = None
    unlimited = certify_actions(model, seen, 0.1)
    assert isinstance(unlimited, CertifiedMean)
    assert unlimited.high.item() == pytest.approx(0.35, abs=1e-5)


def test_how_tight_they_are() -> None:
    """A 32-32 tanh actor with outputs of size 1 at ε = 0.05: CROWN is near the search, intervals are far."""
    model, draw = models()[0], th.Generator().manual_seed(0)
    with th.no_grad():
        for module in [*model.policy.mlp_extractor.policy_net[::2], model.policy.action_net]:
            module.weight.normal_(std=module.in_features**-0.5, generator=draw)
            module.bias.zero_()
    seen = th.randn(300, 5, generator=draw).numpy()
    tight, loose = (certify_actions(model, seen, 0.05, method=method) for method in ("crown", "intervals"))
    assert isinstance(tight, CertifiedMean)
    assert isinstance(loose, CertifiedMean)
    moved = np.max([np.abs(taken(model, one) - tight.actions) for one in searched(model, seen, 0.05, 60, 0)], axis=0)
    assert moved.mean() < tight.shift.mean() < 1.3 * moved.mean()
    assert loose.shift.mean() > 5 * moved.mean()


def refused() -> dict[str, tuple[Any, str]]:
    pixels = spaces.Box(0, 255, (3, 36, 36), np.uint8)
    parts = spaces.Dict({"a": spaces.Box(-1, 1, (2,))})

    def ppo(policy: str, observations: spaces.Space[Any], actions: Any = None, **kwargs: Any) -> PPO:
        return PPO(policy, DummyVecEnv([lambda: Still(observations, actions)]), device="cpu", **kwargs)

    flat, box = spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (1,))
    squashed = {"use_sde": True, "policy_kwargs": {"squash_output": True}}
    return {
        "cnn": (ppo("CnnPolicy", pixels), "its observations are images"),
        "dict": (ppo("MultiInputPolicy", parts), r"its observations are Dict\('a'"),
        "gsde": (ppo("MlpPolicy", flat, box, use_sde=True), r"this one uses gSDE\. "),
        "squashed": (ppo("MlpPolicy", flat, box, **squashed), "gSDE, squashed by a tanh"),
        "several": (ppo("MlpPolicy", flat, spaces.MultiDiscrete([2, 3])), r"its actions are MultiDiscrete\(\[2 3\]\)"),
        "gelu": (ppo("MlpPolicy", flat, policy_kwargs={"activation_fn": nn.GELU}), "are others than SB3's"),
        "other": (object(), "this is NoneType"),
    }


@pytest.mark.parametrize("name", ["cnn", "dict", "gsde", "squashed", "several", "gelu", "other"])
def test_other_policies_are_refused(name: str) -> None:
    model, reason = refused()[name]
    with pytest.raises(TypeError, match=f"Certificates need .*({reason}).*Search for attacks instead"):
        certify_actions(model, np.zeros((1, 3)), 0.1)


def test_a_memory_is_refused() -> None:
    contrib = pytest.importorskip("sb3_contrib")
    model = contrib.RecurrentPPO("MlpLstmPolicy", "Pendulum-v1", device="cpu", policy_kwargs={"lstm_hidden_size": 4})
    with pytest.raises(TypeError, match="this one is recurrent"):
        certify_actions(model, np.zeros((1, 3)), 0.1)


@pytest.mark.parametrize("shape", [(3,), (2, 4), (0, 3)])
def test_observations_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"of shape \(B, 3\), but their shape is"):
        certify_actions(victim(), np.zeros(shape), 0.1)


def test_bad_settings() -> None:
    seen = np.zeros((1, 3), np.float32)
    with pytest.raises(ValueError, match="Observations must be finite"):
        certify_actions(victim(), seen * np.nan, 0.1)
    with pytest.raises(ValueError, match=r"epsilon is -0\.1, but a strength"):
        certify_actions(victim(), seen, -0.1)
    with pytest.raises(ValueError, match=r"Unknown method 'alpha'\. Choose from crown, intervals"):
        certify_actions(victim(), seen, 0.1, method="alpha")
    with pytest.raises(ValueError, match="The scale of a ball must be a number or have the observation's shape"):
        certify_actions(victim(), seen, 0.1, LinfBall([1, 2]))


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
def test_against_auto_lirpa(activation: type[nn.Module]) -> None:
    """The reference implementation (Xu et al., NeurIPS 2020): bounds of the same width, or looser ones."""
    try:
        import auto_LiRPA as lirpa
    except ImportError as error:  # also where it is too old for the installed torch
        pytest.skip(f"auto_LiRPA cannot be imported: {error}")
    model, draw = agent(spaces.Box(-1e9, 1e9, (2,)), activation, [16, 16]), th.Generator().manual_seed(0)
    redraw(model, draw)
    seen = th.randn(40, 5, generator=draw)
    network = nn.Sequential(*model.policy.mlp_extractor.policy_net, model.policy.action_net)
    bounded = lirpa.BoundedModule(network, seen)
    box = lirpa.BoundedTensor(seen, lirpa.PerturbationLpNorm(norm=np.inf, eps=0.05))
    low, high = (end.detach().numpy() for end in bounded.compute_bounds(x=(box,), method="CROWN"))
    found = certify_actions(model, seen.numpy(), 0.05)
    assert isinstance(found, CertifiedMean)
    assert ((found.low <= found.actions) & (low <= found.actions + 1e-5)).all()
    ours, theirs = (found.high - found.low).mean(), (high - low).mean()
    assert ours < 1.05 * theirs
    np.testing.assert_allclose(found.low, low, atol=0.25 * theirs)
    np.testing.assert_allclose(found.high, high, atol=0.25 * theirs)
