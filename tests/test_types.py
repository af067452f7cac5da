"""Observations of every type: perturbed within ε, in their own type, whatever was computed in."""

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import TINY, Still, learn, spy
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from sb3_barpo import BARPO
from sb3_barpo.adversary import KL, SGLD, Adversary, LinfBall
from sb3_barpo.attacks import Attack, AttackObservation, UnderAttack, VecAttackObservation
from sb3_barpo.evaluation.judged import too_weak
from sb3_barpo.evaluation.within import Within
from sb3_barpo.policies.spaces import by_parts, in_type_of

WHOLE = [np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]
FLOATING = [np.float16, np.float32, np.float64]
every_type = pytest.mark.parametrize("kind", WHOLE + FLOATING, ids=lambda kind: np.dtype(kind).name)


def box(kind: Any) -> spaces.Box:
    low, high = {"b": (0, 1), "u": (0, 100), "i": (-50, 50), "f": (-1, 1)}[np.dtype(kind).kind]
    return spaces.Box(low, high, (3,), kind)


def envs(space: spaces.Space[Any], normalized: bool = False) -> VecEnv:
    venv = DummyVecEnv([lambda: Still(space, spaces.Box(-1.0, 1.0, (1,)))] * 2)
    return VecNormalize(venv, training=False, clip_obs=1000.0) if normalized else venv


class By(Attack):
    """Moves everything by the same amount."""

    name = "by"

    def __init__(self, model: PPO, epsilon: float, amount: float) -> None:
        super().__init__(model, epsilon)
        self.amount = amount

    def _perturb(self, observations: th.Tensor, policy: Any) -> th.Tensor:
        return observations.double() + self.amount


class Same(Attack):
    """Returns what it was given, in its type."""

    name = "same"

    def _perturb(self, observations: th.Tensor, policy: Any) -> th.Tensor:
        return observations


@every_type
def test_never_further_than_computed(kind: Any) -> None:
    rng = np.random.default_rng(0)
    clean = box(kind).sample()[None].repeat(200, 0)
    values = clean + rng.uniform(-3, 3, clean.shape)
    typed = in_type_of(clean, values)
    assert typed.dtype == clean.dtype
    moved = typed.astype(float) - clean.astype(float)
    if kind is not np.float32:  # whose rounding is that of the computation
        assert (np.abs(moved) <= np.abs(values - clean) + 1e-4 * (kind in WHOLE)).all()
    if kind in FLOATING:
        assert np.abs(typed - values).max() <= 2 * np.finfo(kind).eps * 4
    else:
        low, high = (0, 1) if kind is np.bool_ else (np.iinfo(kind).min, np.iinfo(kind).max)
        assert (typed.astype(float) == np.clip(clean + np.trunc(values - clean), low, high)).all()


@pytest.mark.parametrize(
    ("kind", "epsilon", "amount", "moved"),
    [
        (np.bool_, 0.9, 0.9, 0),  # truth values have no neighbour within less than 1
        (np.bool_, 1.0, 0.9, 1),
        (np.bool_, 1.0, -0.9, -1),
        (np.uint16, 2.5, 2.5, 2),
        (np.int8, 2.5, -2.5, -2),
        (np.uint8, 300.0, 300.0, 155),  # within the space
        (np.float16, 0.1, 0.1, np.float16(0.09998)),  # the largest of half precision within 0.1
    ],
)
@pytest.mark.parametrize("wrapper", ["model", "environments", "environment"])
def test_the_right_value(kind: Any, epsilon: float, amount: float, moved: float, wrapper: str) -> None:
    """From 0, or from 1 where it goes down; at 100 for bytes."""
    start = 100 if kind is np.uint8 else int(amount < 0)
    high = 255 if kind is np.uint8 else 1 if kind is np.bool_ else 100
    space = spaces.Box(-high if np.dtype(kind).kind in "if" else 0, high, (3,), kind)
    model = PPO("MlpPolicy", envs(space), **TINY)
    attack = By(model, epsilon, amount)
    clean = np.full((2, 3), start, kind)
    if wrapper == "model":
        heard = list[Any]()
        model.predict = lambda seen, *rest: (heard.append(seen), None)  # type: ignore[method-assign]
        UnderAttack(model, attack).predict(clean)
        seen = heard[0]
    else:
        env = Still(space, spaces.Box(-1.0, 1.0, (1,)))
        env._look = lambda: clean[0]  # type: ignore[method-assign]
        alone = AttackObservation(env, attack).reset(seed=0)[0]
        around = VecAttackObservation(DummyVecEnv([lambda: env]), attack).reset()
        seen = alone[None] if wrapper == "environment" else around
    assert seen.dtype == kind
    assert (seen.astype(float) - clean[: len(seen)] == moved).all()


@every_type
def test_an_attack_that_changes_nothing(kind: Any) -> None:
    model = PPO("MlpPolicy", envs(box(kind)), **TINY)
    venv = envs(box(kind))
    venv.seed(3)
    clean = venv.reset()
    venv.seed(3)
    shown = VecAttackObservation(venv, Same(model, 1.0)).reset()
    assert shown.dtype == clean.dtype
    assert np.array_equal(shown, clean)


@every_type
def test_one_environment_under_normalisation(kind: Any) -> None:
    """What moves in normalised units moves a raw observation of its own type, by no more."""
    venv = envs(box(kind), normalized=True)
    model = PPO("MlpPolicy", venv, **TINY)
    attack = By(model, 0.4, 0.4)
    env = Still(box(kind), spaces.Box(-1.0, 1.0, (1,)))
    clean, _ = env.reset(seed=1)
    seen, _ = AttackObservation(env, attack, venv).reset(seed=1)  # type: ignore[arg-type]  # a VecNormalize
    assert seen.dtype == clean.dtype
    moved = seen.astype(float) - clean.astype(float)
    assert (moved >= 0).all()
    assert (moved <= 0.4 + 1e-6).all()
    assert moved.any() == (kind in FLOATING)


@every_type
@pytest.mark.parametrize("moves", [True, False], ids=["moves", "stays clean"])
def test_training_with_a_key_of_this_type(kind: Any, moves: bool) -> None:
    space = spaces.Dict({"own": box(kind), "other": spaces.Box(-1.0, 1.0, (2,))})
    ball = LinfBall({"own": 10.0, "other": 1.0} if moves else {"other": 1.0})
    adversary = Adversary(KL(), SGLD(n_steps=2), ball)
    model = BARPO("MultiInputPolicy", envs(space), epsilon=0.1, adversary=adversary, **TINY)
    calls = spy(model)
    learn(model, 64)
    assert calls
    for call in calls:
        perturbed, clean = (by_parts(one)["own"].double() for one in (call.perturbed, call.observations))
        assert (perturbed - clean).abs().max() <= 1 + 1e-5
        assert bool((perturbed != clean).any()) == moves


@pytest.mark.parametrize("kind", WHOLE, ids=lambda kind: np.dtype(kind).name)
def test_a_strength_that_changes_no_whole_number_is_told(kind: Any) -> None:
    model = PPO("MlpPolicy", envs(box(kind)), **TINY)
    assert "an attack of ε = 0.5 changes nothing" in too_weak(model, model.get_env(), 0.5, Within())
    assert not too_weak(model, model.get_env(), 1.0, Within())
