"""The limits of what a policy sees, under every order of wrappers, in training and in the wrappers of attacks."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import Still
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecCheckNan,
    VecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
)

from sb3_barpo import BARPO
from sb3_barpo.adversary import DictBounds, SpaceWarning, bounds_of
from sb3_barpo.attacks import Attack, AttackObservation, UnderAttack, VecAttackObservation

BOX = spaces.Box(-1.0, np.array([1.0, 3.0], np.float32))
EVEN = spaces.Box(-1.0, 1.0, (2,))
AWAY = spaces.Box(np.array([1.0, -3.0], np.float32), np.array([2.0, -1.0], np.float32))
PAIR = spaces.Dict({"a": spaces.Box(-1.0, 1.0, (2,)), "b": spaces.Box(0.0, 4.0, (1,))})
MEAN, STD = 0.5, 2.0


class Reversed(VecEnvWrapper):
    """Turns the order of the features around: the shape stays."""

    def reset(self) -> Any:
        return self.venv.reset()[:, ::-1].copy()

    def step_wait(self) -> Any:
        observations, *rest = self.venv.step_wait()
        return observations[:, ::-1].copy(), *rest


class OwnNormalize(VecNormalize):
    """May do anything."""


def base(space: spaces.Space[Any] = BOX) -> VecEnv:
    return DummyVecEnv([lambda: Still(space, spaces.Box(-1.0, 1.0, (1,)))])


def normalized(venv: VecEnv, kind: type[VecNormalize] = VecNormalize, **settings: Any) -> VecNormalize:
    """Its statistics are frozen at a mean of 0.5 and a standard deviation of 2."""
    layer = kind(venv, training=False, **settings)
    statistics = layer.obs_rms.values() if isinstance(layer.obs_rms, dict) else [getattr(layer, "obs_rms", None)]
    for one in statistics:
        if one is not None:
            one.mean[...], one.var[...] = MEAN, STD**2
    return layer


def seen(raw: Any) -> Any:
    return (np.asarray(raw, np.float32) - MEAN) / STD


RAW: Any = ([-1, -1], [1, 3])
NORMAL: Any = (seen(RAW[0]), seen(RAW[1]))
ORDERS: dict[str, tuple[Callable[[], VecEnv], Any]] = {
    "plain": (base, RAW),
    "normalised": (lambda: normalized(base()), NORMAL),
    "rewards alone": (lambda: VecNormalize(base(), norm_obs=False), RAW),
    "monitor outside": (lambda: VecMonitor(normalized(base())), NORMAL),
    "rewards again outside": (lambda: VecNormalize(VecCheckNan(normalized(base())), norm_obs=False), NORMAL),
    "monitor inside": (lambda: normalized(VecMonitor(base())), NORMAL),
    "frames inside": (lambda: normalized(VecFrameStack(base(), 2)), (seen(RAW[0] * 2), seen(RAW[1] * 2))),
    "even frames inside": (lambda: normalized(VecFrameStack(base(EVEN), 2)), (seen([-1] * 4), seen([1] * 4))),
    "frames outside": (lambda: VecFrameStack(normalized(base()), 2), (seen(RAW[0] * 2), seen(RAW[1] * 2))),
    "frames alone": (lambda: VecFrameStack(base(), 2), (RAW[0] * 2, RAW[1] * 2)),
    "frames without 0": (lambda: VecFrameStack(base(AWAY), 3), ([0, -3, 0, -3, 1, -3], [2, 0, 2, 0, 2, -1])),
    "even frames alone": (lambda: VecMonitor(VecFrameStack(base(EVEN), 2)), ([-1] * 4, [1] * 4)),
    "reversed outside": (lambda: Reversed(normalized(base())), None),
    "reversed inside": (lambda: normalized(Reversed(base(EVEN))), (seen([-1, -1]), seen([1, 1]))),
    "reversed frames": (lambda: Reversed(VecFrameStack(base(), 2)), None),
    "even frames outside, rewards alone": (
        lambda: VecFrameStack(VecNormalize(base(EVEN), norm_obs=False), 2),
        ([-1] * 4, [1] * 4),
    ),
    "normalised twice": (lambda: normalized(normalized(base())), (seen(NORMAL[0]), seen(NORMAL[1]))),
    "own normalisation": (lambda: normalized(base(), OwnNormalize), None),
}
HIDING = {"reversed outside": "Reversed", "reversed frames": "Reversed", "own normalisation": "OwnNormalize"}
each_order = pytest.mark.parametrize("order", ORDERS)


class Outwards(Attack):
    """Goes up by 100, out of every limit."""

    name = "outwards"

    def _perturb(self, observations: th.Tensor, policy: Any) -> th.Tensor:
        return observations + 100


def agent(venv: VecEnv) -> BARPO:
    policy = "MultiInputPolicy" if isinstance(venv.observation_space, spaces.Dict) else "MlpPolicy"
    return BARPO(policy, venv, n_steps=8, batch_size=8, n_epochs=1, epsilon=0.5, seed=0, device="cpu")


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    """What is said of wrappers that hide limits is looked at by one test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SpaceWarning)
        yield


@each_order
def test_what_hides_the_limits_is_named_once(order: str) -> None:
    venv = ORDERS[order][0]()
    model, clean = agent(venv), venv.reset()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(2):
            UnderAttack(model, Outwards(model, 1.0), venv).predict(clean)
            model._bounds()
    names = [str(one.message).split(" does to")[0] for one in told]
    assert names == ([f"What {HIDING[order]}"] if order in HIDING else [])


@pytest.mark.parametrize("order", ["frames outside", "frames alone", "frames inside"])
def test_stacked_observations_keep_their_limits(order: str) -> None:
    """What environments return lies within, which it does not in the order that SB3 declares."""
    venv = ORDERS[order][0]()
    bounds: Any = bounds_of(venv.observation_space, venv)
    seen_now = [venv.reset(), *(venv.step(np.zeros((1, 1)))[0] for _ in range(50))]
    assert (np.concatenate(seen_now) >= bounds.low.numpy() - 1e-6).all()
    assert (np.concatenate(seen_now) <= bounds.high.numpy() + 1e-6).all()


@each_order
def test_in_training(order: str) -> None:
    make, expected = ORDERS[order]
    model = agent(make())
    bounds = model._bounds()
    if expected is None:
        assert bounds is None
    else:
        for found, wanted in zip(bounds, expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-5)
    model.learn(8)


@each_order
def test_around_environments(order: str) -> None:
    make, expected = ORDERS[order]
    venv = make()
    clean = venv.observation_space.sample()[None] if expected is None else None
    shown = VecAttackObservation(venv, Outwards(agent(make()), 1.0)).reset()
    if clean is None:
        np.testing.assert_allclose(shown[0], expected[1], rtol=1e-5)
    else:
        assert (shown > 50).all()


@each_order
@pytest.mark.parametrize("given", [True, False], ids=["its environments given", "the model's own"])
def test_in_front_of_a_model(order: str, given: bool) -> None:
    make, expected = ORDERS[order]
    model, heard = agent(make()), list[Any]()
    model.predict = lambda observations, *rest: (heard.append(observations), None)  # type: ignore[method-assign]
    UnderAttack(model, Outwards(model, 1.0), make() if given else None).predict(model.env.reset())
    if expected is None:
        assert (heard[0] > 50).all()
    else:
        np.testing.assert_allclose(heard[0][0], expected[1], rtol=1e-5)


@pytest.mark.parametrize("order", ["plain", "normalised"])
def test_around_one_environment(order: str) -> None:
    """In raw units, whatever the normalisation behind it."""
    venv = ORDERS[order][0]()
    layer = venv if isinstance(venv, VecNormalize) else None
    env = AttackObservation(Still(BOX, spaces.Box(-1.0, 1.0, (1,))), Outwards(agent(venv), 1.0), layer)
    np.testing.assert_allclose(env.reset(seed=0)[0], RAW[1], rtol=1e-5)


def test_key_by_key() -> None:
    layer = normalized(base(PAIR), norm_obs_keys=["a"])
    bounds = agent(VecMonitor(layer))._bounds()
    assert isinstance(bounds, DictBounds)
    for key, (low, high) in {"a": (seen([-1, -1]), seen([1, 1])), "b": ([0], [4])}.items():
        np.testing.assert_allclose(bounds[key].low, low, rtol=1e-5)
        np.testing.assert_allclose(bounds[key].high, high, rtol=1e-5)
    stacked = VecFrameStack(layer, 2)
    both: Any = bounds_of(stacked.observation_space, stacked)
    for key, (low, high) in {"a": (seen([-1] * 4), seen([1] * 4)), "b": ([0] * 2, [4] * 2)}.items():
        np.testing.assert_allclose(both[key].low, low, rtol=1e-5)
        np.testing.assert_allclose(both[key].high, high, rtol=1e-5)


def test_an_image_that_is_normalised_has_the_limits_of_its_pixels() -> None:
    image = spaces.Box(0, 255, (36, 36, 1), np.uint8)
    layer = normalized(base(image), clip_obs=1000.0)
    bounds = bounds_of(layer.observation_space, layer)
    assert bounds.low.unique().tolist() == pytest.approx([seen(0)])
    assert bounds.high.unique().tolist() == pytest.approx([seen(255)])
