"""Limits over the steps of an episode: rates, moments, features; the same in all three wrappers."""

import json
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv
from test_wrappers import CARTPOLE, PENDULUM, normalized, returns, statistics, under_attack, venv
from victims import Replay, linear_victim, victim

from sb3_barpo import BARPO
from sb3_barpo.adversary import (
    KL,
    SGLD,
    Adversary,
    L2Ball,
    LinfBall,
    ReachableBall,
    Timing,
    as_ball,
    observation_bounds,
)
from sb3_barpo.attacks import ATTACKS, MAD, SARL, AttackObservation, Critic, LearnedAttack, Random, VecAttackObservation
from sb3_barpo.attacks.attack import Attack
from sb3_barpo.evaluation import evaluate_robustness

TIMINGS = {
    "rate": Timing(rate=0.05),
    "every": Timing(every=3),
    "moments": Timing(moments=4),
    "chosen": Timing(moments=5, trigger=0.1, every=2),
}
BALLS = {"linf": LinfBall, "l2": L2Ball}


def perturbations(attack: Attack, clean: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Of steps of environments, shape ``(steps, B, *obs)``, with what starts where, shape ``(steps, B)``."""
    attack.seed(0)
    found = []
    for seen, new in zip(clean, starts, strict=True):
        attack.begin(new)
        found.append(attack.perturb(seen) - seen)
    return np.array(found)


def steps(n_steps: int, n_envs: int = 2, size: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Random observations; the second environment starts a new episode after a third of the steps."""
    clean = np.random.default_rng(0).standard_normal((n_steps, n_envs, size)).astype(np.float32)
    starts = np.zeros((n_steps, n_envs), dtype=bool)
    starts[0] = starts[n_steps // 3, 1] = True
    return clean, starts


@pytest.mark.parametrize("ball", [LinfBall, L2Ball])
@pytest.mark.parametrize("name", list(ATTACKS))
def test_no_attack_exceeds_its_rate(name: str, ball: type[LinfBall | L2Ball]) -> None:
    model, rate, epsilon = victim(), 0.03, 0.1
    clean, starts = steps(12)
    limited = ball([1.0, 0.5, 2.0], Timing(rate=rate))
    kind: Any = ATTACKS[name]
    attack: Attack = kind(model, epsilon, ball=limited, seed=0, **({"n_steps": 64} if name in ("sarl", "paad") else {}))
    if isinstance(attack, LearnedAttack):
        attack.fit(venv(PENDULUM), 64)
    delta = perturbations(attack, clean, starts)
    before = np.concatenate([np.zeros_like(delta[:1]), delta[:-1]])
    before[starts] = 0
    for t in range(len(delta)):
        assert (limited.norm(th.as_tensor(delta[t] - before[t])) <= rate * 1.0001 + 1e-6).all()
        assert (limited.norm(th.as_tensor(delta[t])) <= epsilon * 1.0001 + 1e-6).all()
    assert np.abs(delta).max() > 0


def test_a_limited_attack_drifts_to_where_it_wants_to_be() -> None:
    """Against a value of ``2 x - y`` it goes by ``rate`` a step to the corner ``(-ε, ε)``, and starts anew with 0."""
    clean, starts = steps(12, size=2)
    attack = Critic(linear_victim([2.0, -1.0]), 0.1, ball=LinfBall(1.0, Timing(rate=0.03)))
    delta = perturbations(attack, clean.astype(float), starts)
    ramp = np.minimum(0.03 * np.arange(1, 13), 0.1)
    np.testing.assert_allclose(delta[:, 0], ramp[:, None] * [-1, 1], atol=1e-6)
    again = np.concatenate([ramp[:4], ramp[:8]])
    np.testing.assert_allclose(delta[:, 1], again[:, None] * [-1, 1], atol=1e-6)


def test_every_n_steps_and_a_budget_of_moments() -> None:
    clean, starts = steps(12)
    for timing, moments in [
        (Timing(every=3), ({0, 3, 6, 9}, {0, 3, 4, 7, 10})),
        (Timing(moments=2), ({0, 1}, {0, 1, 4, 5})),
        (Timing(every=2, moments=3), ({0, 2, 4}, {0, 2, 4, 6, 8})),
    ]:
        delta = perturbations(Random(victim(), 0.1, ball=LinfBall(1.0, timing)), clean, starts)
        acts = np.abs(delta).max(2) > 0
        assert tuple(set(np.flatnonzero(acts[:, i]).tolist()) for i in range(2)) == moments
        free = perturbations(Random(victim(), 0.1), clean, starts)
        np.testing.assert_array_equal(delta[acts], free[acts])


def test_an_attack_chooses_its_moments() -> None:
    """
    The mean is ``x``, so ``D_KL = δ²/2``, at most 0.005; where ``|x| = 1`` is the limit of the space and the attack
    pushes outwards, it achieves nothing, and saves the moment.
    """
    space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    model = linear_victim([1.0], space)
    clean = np.float32([[[-1.0]], [[0.5]], [[-1.0]], [[0.0]], [[0.9]]])
    starts = np.eye(5, 1, dtype=bool)
    attack = Critic(model, 0.1, ball=LinfBall(1.0, Timing(moments=2, trigger=0.004)))
    found = []
    for seen, new in zip(clean, starts, strict=True):
        attack.begin(new)
        found.append((attack.perturb(seen, observation_bounds(space)) - seen).item())
    np.testing.assert_allclose(found, [0, -0.1, 0, -0.1, 0], atol=0.011)  # from its random start it goes ε in 10 steps
    assert np.flatnonzero(found).tolist() == [1, 3]
    too_much = Critic(model, 0.1, ball=LinfBall(1.0, Timing(trigger=0.006)))
    assert not perturbations(too_much, clean[1:2], starts[:1]).any()


@pytest.mark.parametrize("name", list(TIMINGS))
@pytest.mark.parametrize("kind", [Random, MAD])
def test_all_wrappers_give_the_same_returns(kind: Any, name: str) -> None:
    for env_id, epsilon in ((PENDULUM, 0.3), (CARTPOLE, 1.0)):
        model = victim(env_id)
        attack = kind(model, epsilon, ball=LinfBall(1.0, TIMINGS[name]))
        inside = returns(model, venv(env_id, wrap=lambda env, attack=attack: AttackObservation(env, attack)))
        outside = returns(model, VecAttackObservation(venv(env_id), attack))
        assert inside == outside == returns(under_attack(model, attack), venv(env_id))
        assert inside != returns(under_attack(model, kind(model, epsilon)), venv(env_id))
        assert env_id == CARTPOLE or inside != returns(model, venv(env_id))


def test_the_same_under_vec_normalize_and_for_several_environments() -> None:
    model = victim(PENDULUM)
    attack = Critic(model, 0.3, ball=LinfBall(1.0, TIMINGS["rate"]))
    frozen = statistics(PENDULUM)
    inside, _ = returns(model, normalized(PENDULUM, wrap=lambda env: AttackObservation(env, attack, frozen)))
    outside, _ = returns(model, VecAttackObservation(normalized(PENDULUM), attack))
    at_model, _ = returns(under_attack(model, attack, vec_normalize=frozen), normalized(PENDULUM))
    assert outside == at_model
    np.testing.assert_allclose(inside, outside, rtol=1e-4)
    both = [
        returns(model, VecAttackObservation(venv(PENDULUM, 3), attack)),
        returns(under_attack(model, attack), venv(PENDULUM, 3)),
    ]
    assert both[0] == both[1]


def test_keys_of_a_dict() -> None:
    """The rate is limited for all keys that move, in units of their scales."""
    space = spaces.Dict({"a": spaces.Box(-9, 9, (2,), np.float32), "b": spaces.Box(-9, 9, (3,), np.float32)})
    env = DummyVecEnv([lambda: Replay([space.sample() for _ in range(3)], space)])
    model = PPO("MultiInputPolicy", env, device="cpu", seed=0)
    attack = MAD(model, 0.1, ball=LinfBall({"a": 1.0, "b": 2.0}, Timing(rate=0.04)), seed=0)
    last = {"a": np.zeros((1, 2)), "b": np.zeros((1, 3))}
    for t in range(5):
        attack.begin(np.array([t == 0]))
        seen = {key: part[None] for key, part in space.sample().items()}
        delta = {key: part - seen[key] for key, part in attack.perturb(seen).items()}
        for key, scale in (("a", 1.0), ("b", 2.0)):
            assert np.abs(delta[key] - last[key]).max() <= 0.04 * scale + 1e-5
            assert np.abs(delta[key]).max() > 0
        last = delta


def test_a_memory_can_be_attacked_at_chosen_moments() -> None:
    contrib = pytest.importorskip("sb3_contrib")
    model = contrib.RecurrentPPO("MlpLstmPolicy", PENDULUM, device="cpu", seed=0)
    attack = MAD(model, 0.5, ball=LinfBall(1.0, Timing(moments=2, trigger=1e-9)))
    inside = returns(model, venv(PENDULUM, wrap=lambda env: AttackObservation(env, attack)))
    assert inside == returns(under_attack(model, attack), venv(PENDULUM))


def test_what_can_be_reached_is_a_ball() -> None:
    """What it projects lies in both balls; what lies in both stays where it is."""
    draw = th.Generator().manual_seed(0)
    for ball in (LinfBall([1.0, 2.0, 0.0]), L2Ball([1.0, 2.0, 0.5])):
        last = 0.5 * ball.sample(th.zeros(200, 3), draw)
        reachable = ReachableBall(ball, last, 0.1)
        found = reachable.project(3 * th.randn(200, 3, generator=draw), 0.5)
        assert (ball.norm(found) <= 0.5 + 1e-6).all()
        assert (ball.norm(found - last) <= 0.1 + 1e-6).all()
        assert (reachable.norm(found) == ball.norm(found)).all()
        th.testing.assert_close(reachable.project(found, 0.5), found)


def test_files_and_specs_hold_the_timing(tmp_path: Any) -> None:
    for timing in [None, *TIMINGS.values()]:
        ball = L2Ball([1.0, 0.0, 2.0], timing)
        again = as_ball(json.loads(json.dumps(ball.spec())))
        assert repr(again) == repr(ball)
        assert again.timing == timing
    assert repr(LinfBall(1.0, Timing())) == "LinfBall(scale=1.0)"
    assert repr(LinfBall(1.0, TIMINGS["chosen"])) == (
        "LinfBall(scale=1.0, timing=Timing(every=2, moments=5, trigger=0.1))"
    )
    attack = SARL(victim(), 0.1, ball=LinfBall(1.0, TIMINGS["every"]), n_steps=64, seed=0)
    attack.fit(venv(PENDULUM), 64).save(tmp_path / "attack.zip")
    assert LearnedAttack.load(tmp_path / "attack.zip", victim()).ball.timing == TIMINGS["every"]


def test_fits_are_limited_too() -> None:
    """An adversary that may act in one step of an episode learns from other rewards than a free one."""
    free, limited = (
        SARL(victim(), 0.5, ball=LinfBall(1.0, timing), n_steps=64, seed=0) for timing in (None, Timing(moments=1))
    )
    shown: list[Any] = []
    respond = limited.shown
    limited.shown = lambda *args, **kwargs: shown.append((args[1], respond(*args, **kwargs))) or shown[-1][1]  # type: ignore[method-assign, func-returns-value]
    for attack in (free, limited):
        attack.fit(venv(PENDULUM), 128)
    moved = [bool((seen != clean).any()) for clean, seen in shown]
    assert [i for i, one in enumerate(moved) if one][:3] == [0, 25, 50]
    assert free.adversary_model is not None
    assert limited.adversary_model is not None
    some, other = (next(iter(one.adversary_model.policy.parameters())) for one in (free, limited))
    assert not th.equal(some, other)


def test_a_report_names_the_timing() -> None:
    ball = LinfBall(1.0, Timing(every=5))
    report = evaluate_robustness(victim(), venv(PENDULUM), ["mad"], 0.3, n_eval_episodes=2, ball=ball)
    assert "timing=Timing(every=5)" in str(report.judged["agents"]["PPO"]["ball"])


def test_features() -> None:
    space = spaces.Box(-1, 1, (4,))
    assert LinfBall().only([1, 3], space).plain_scale() == [0, 1, 0, 1]
    assert L2Ball([1, 2, 3, 4], Timing(every=2)).only([1, 2], space).spec() == {
        "kind": "L2Ball",
        "scale": [0, 2, 3, 0],
        "timing": {"every": 2},
    }
    seen = np.zeros((5, 3), np.float32)
    moved = Random(victim(), 0.1, ball=LinfBall().only([2], victim().observation_space)).perturb(seen)
    assert not moved[:, :2].any()
    assert moved[:, 2].all()


def test_bad_settings() -> None:
    for rate in (0, -0.1, np.inf, True, "1"):
        with pytest.raises(ValueError, match="but a limit of the change from step to step must be finite and above 0"):
            Timing(rate=rate)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"every is 0, but an attack acts every 1, 2, 3, \.\.\. steps"):
        Timing(every=0)
    with pytest.raises(ValueError, match="moments is 0, but an attack without a moment does nothing"):
        Timing(moments=0)
    with pytest.raises(ValueError, match="trigger is -1, but it is a divergence, finite and at least 0"):
        Timing(trigger=-1)
    for other in ({"every": 2}, {"moments": 3}, {"trigger": 0.1}):
        with pytest.raises(
            ValueError, match=r"contradicts itself: between its moments .* Limit the rate or the moments"
        ):
            Timing(rate=0.1, **other)
    space = spaces.Box(-1, 1, (2,))
    with pytest.raises(ValueError, match="There are features 0 to 1, but not 2, -1"):
        LinfBall().only([0, 2, -1], space)
    with pytest.raises(ValueError, match=r"Nothing may move: of the features \[0\], LinfBall.* moves none"):
        LinfBall([0, 1]).only([0], space)
    with pytest.raises(ValueError, match="Nothing may move"):
        LinfBall().only([], space)
    with pytest.raises(ValueError, match="Features are numbered in a Box"):
        LinfBall().only([0], spaces.Dict({"a": space}))
    with pytest.raises(ValueError, match=r"Unknown ball 'L1Ball'\. Choose from LinfBall, L2Ball"):
        as_ball({"kind": "L1Ball", "scale": 1.0})


def test_whole_numbers_have_no_rate() -> None:
    pixels = spaces.Box(0, 255, (2,), np.uint8)
    with pytest.raises(ValueError, match="rate of change can be limited for floating-point observations"):
        LinfBall(1.0, Timing(rate=1.0)).check(pixels)
    with pytest.raises(ValueError, match="rate of change can be limited"):
        LinfBall({"a": 1.0}, Timing(rate=1.0)).check(spaces.Dict({"a": pixels}))
    LinfBall(1.0, Timing(every=2)).check(pixels)
    LinfBall({"b": 1.0}, Timing(rate=1.0)).check(spaces.Dict({"a": pixels, "b": spaces.Box(-1, 1, (2,))}))


def test_training_takes_no_timing() -> None:
    ball = LinfBall(1.0, Timing(every=2))
    with pytest.raises(ValueError, match=r"shuffles steps, so its adversary cannot keep Timing\(every=2\)"):
        BARPO("MlpPolicy", PENDULUM, epsilon=0.1, adversary=Adversary(KL(), SGLD(), ball), device="cpu")
