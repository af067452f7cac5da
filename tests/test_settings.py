"""What ARPO and BARPO take, and what they refuse, with which words."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import TINY, Still, learn, make_envs, same, spy, weights
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack

from sb3_barpo import ARPO, BARPO
from sb3_barpo.adversary import KL, PGD, SGLD, Adversary, LinfBall, Perturbation, Surrogate, WarmStart, as_adversary
from sb3_barpo.schedules import Constant, Join, Linear, Ramp, Schedule

BOTH = pytest.mark.parametrize("algorithm", [ARPO, BARPO])


def still(observation_space: spaces.Space[Any], action_space: spaces.Space[Any] | None = None) -> DummyVecEnv:
    return DummyVecEnv([lambda: Still(observation_space, action_space)])


@pytest.mark.parametrize(("algorithm", "kappa", "objective"), [(ARPO, 0.0, Surrogate), (BARPO, 1.0, KL)])
def test_defaults(algorithm: type[PPO], kappa: float, objective: type) -> None:
    model = algorithm("MlpPolicy", make_envs())
    assert isinstance(model, PPO)
    assert (model.epsilon, model.kappa, model.adversary) == ("ramp_0.075", kappa, None)
    adversary = model.default_adversary()
    assert isinstance(adversary.objective, objective)
    assert adversary.solver == WarmStart(SGLD(n_steps=10, beta=1e-5), SGLD(n_steps=1, beta=1e-5))
    assert isinstance(adversary.ball, LinfBall)
    assert adversary.ball.scale == 1


def test_the_default_adversary_can_be_spelled_out() -> None:
    models = [
        BARPO("MlpPolicy", make_envs(), epsilon=0.1, adversary=adversary, **TINY).learn(32)
        for adversary in (None, Adversary(KL(), WarmStart(SGLD(n_steps=10), SGLD(n_steps=1)), LinfBall()))
    ]
    assert same(weights(models[0]), weights(models[1]))


def test_ppo_arguments_by_position() -> None:
    model = BARPO("MlpPolicy", make_envs(), 1e-3, 64, 16, 2, epsilon=0.1)
    assert (model.learning_rate, model.n_steps, model.batch_size, model.n_epochs) == (1e-3, 64, 16, 2)


class Halves(Schedule):
    """A schedule that this package does not know."""

    def at(self, time: float) -> float:
        return 0.1 if time <= 0.5 else 0.2


@BOTH
@pytest.mark.parametrize(
    ("strength", "expected"),
    [
        (0.1, [0.1] * 4),
        (np.float32(0.5), [0.5] * 4),
        ("ramp_0.3", [0.1, 0.2, 0.3, 0.3]),
        ({"kind": "linear", "initial": 0.4, "final": 0}, [0.3, 0.2, 0.1, 0.0]),
        (Ramp(0.3, power=2), [0.3 / 9, 0.3 * 4 / 9, 0.3, 0.3]),
        (Join((Linear(0, 0.2), Constant(0.3)), (np.float64(0.5),)), [0.1, 0.3, 0.3, 0.3]),
        (Halves(), [0.1, 0.1, 0.2, 0.2]),
        (lambda left: 0.4 * left, [0.3, 0.2, 0.1, 0.0]),
        (lambda left: np.array(0.4 * left), [0.3, 0.2, 0.1, 0.0]),
    ],
    ids=["number", "numpy", "string", "spec", "ramp", "join", "own", "callable", "array"],
)
def test_strength_over_four_updates(algorithm: type[PPO], strength: Any, expected: list[float]) -> None:
    model = algorithm("MlpPolicy", make_envs(), epsilon=strength, kappa=strength, **TINY)
    calls = spy(model)
    book = learn(model, 4 * 32)
    assert book.column("adversary/epsilon") == pytest.approx(expected)
    assert book.column("adversary/kappa") == pytest.approx(expected)
    # At strength 0 nobody is asked.
    assert [call.epsilon for call in calls[::4]] == pytest.approx([strength for strength in expected if strength])


@BOTH
@pytest.mark.parametrize("name", ["epsilon", "kappa"])
@pytest.mark.parametrize(
    ("value", "error", "match"),
    [
        (-0.1, ValueError, "-0.1, but a strength is a finite number, at least 0"),
        (float("nan"), ValueError, "nan, but a strength is a finite number"),
        (float("inf"), ValueError, "inf, but a strength is a finite number"),
        ("nonsense", ValueError, "Unknown schedule 'nonsense'.*ramp_0.075"),
        ("ramp_high", ValueError, "'high' is no number"),
        ({"value": 0.1}, ValueError, "Unknown schedule"),
        ([0.1], TypeError, "A strength is a number, a schedule, a spec or a string"),
        (True, TypeError, "A strength is a number"),
    ],
)
def test_wrong_strength(algorithm: type[PPO], name: str, value: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        algorithm("MlpPolicy", make_envs(), **{name: value})


@BOTH
@pytest.mark.parametrize(
    ("adversary", "error", "match"),
    [
        ("KL", TypeError, r"adversary must be an Adversary, a spec .* or None .* 'KL'"),
        (Adversary, TypeError, "adversary must be an Adversary"),
        (KL(), TypeError, "adversary must be an Adversary"),
        (Adversary(KL(), SGLD(), LinfBall([1, 1])), ValueError, r"shape \(3,\), but its shape is \(2,\)"),
        ({"solver": "cg"}, ValueError, r"Unknown solver 'cg' in \{'solver': 'cg'\}. Choose from sgld, pgd"),
        ({"objective": "q"}, ValueError, r"Unknown objective 'q' in .*. Choose from kl, surrogate, value"),
        ({"steps": 3}, ValueError, r"\{'steps': 3\} does not fit: .* SGLD takes n_steps, beta"),
        ({"n_steps": 0}, ValueError, "SGLD's n_steps is 0"),
        ({"later_steps": -1}, ValueError, "SGLD's n_steps is -1"),
    ],
    ids=["name", "class", "objective", "ball", "solver", "unknown objective", "argument", "steps", "later steps"],
)
def test_wrong_adversary(algorithm: type[PPO], adversary: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        algorithm("MlpPolicy", make_envs(), adversary=adversary)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, Adversary(KL(), WarmStart())),
        ({"n_steps": 3}, Adversary(KL(), WarmStart(SGLD(n_steps=3)))),
        ({"n_steps": 1}, Adversary(KL(), WarmStart(SGLD(n_steps=1), SGLD(n_steps=1)))),
        ({"solver": "pgd", "restarts": 2}, Adversary(KL(), WarmStart(PGD(restarts=2), PGD(n_steps=1, restarts=2)))),
        ({"later_steps": 5}, Adversary(KL(), WarmStart(later=SGLD(n_steps=5)))),
        ({"later_steps": 0}, Adversary(KL(), SGLD())),
        (
            {"objective": "surrogate", "later_steps": 0, "solver": "sgld", "beta": 0.1},
            Adversary(Surrogate(), SGLD(beta=0.1)),
        ),
    ],
    ids=str,
)
def test_a_spec_says_what_differs_from_the_default(spec: dict[str, Any], expected: Adversary, tmp_path: Path) -> None:
    model = BARPO("MlpPolicy", make_envs(), adversary=spec, **TINY)
    assert repr(model._adversary) == repr(expected)
    model.save(tmp_path / "agent")
    assert repr(BARPO.load(tmp_path / "agent")._adversary) == repr(expected)


def test_a_spec_keeps_a_warm_start_unless_it_says_otherwise() -> None:
    default = Adversary(KL(), WarmStart(SGLD(), SGLD(n_steps=3)))
    assert as_adversary({"n_steps": 5}, default).solver == WarmStart(SGLD(n_steps=5), SGLD(n_steps=3))
    assert as_adversary({"solver": "pgd"}, default).solver == WarmStart(PGD(), PGD(n_steps=3))
    assert as_adversary({"later_steps": 0}, default).solver == SGLD()


def test_a_spec_keeps_what_else_the_default_has() -> None:
    default = Adversary(KL(), PGD(n_steps=7, restarts=3), LinfBall([1.0, 0.5]))
    changed = as_adversary({"solver": "pgd", "restarts": 1}, default)
    assert changed.solver == PGD(n_steps=7)
    assert changed.ball is default.ball


@BOTH
@pytest.mark.parametrize(
    ("policy", "space"),
    [
        ("MlpPolicy", spaces.Discrete(3)),
        ("MlpPolicy", spaces.MultiBinary(3)),
        ("MultiInputPolicy", spaces.Dict({"a": spaces.Discrete(3), "b": spaces.MultiBinary(3)})),
    ],
    ids=["discrete", "binary", "dict"],
)
def test_spaces_without_neighbours_are_refused(algorithm: type[PPO], policy: str, space: spaces.Space[Any]) -> None:
    with pytest.raises(TypeError, match="no neighbours at a small distance"):
        algorithm(policy, still(space))


@pytest.mark.parametrize("space", [spaces.Box(-1, 1, (3,), np.float64), spaces.Box(0, 1, (4, 5)), spaces.Box(-9, 9)])
def test_spaces_that_are_supported(space: spaces.Box) -> None:
    model = BARPO("MlpPolicy", still(space), epsilon=0.1, **TINY)
    calls = spy(model)
    model.learn(32)
    delta = calls[0].perturbed - calls[0].observations
    assert delta.shape[1:] == space.shape
    assert 0 < delta.abs().max() <= 0.1 * (1 + 1e-4)


@BOTH
@pytest.mark.parametrize(
    "actions",
    [spaces.Discrete(3), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3), spaces.Box(-1, 1, (2,))],
    ids=["discrete", "multi-discrete", "binary", "box"],
)
def test_every_action_space_of_ppo(algorithm: type[PPO], actions: spaces.Space[Any]) -> None:
    model = algorithm("MlpPolicy", still(spaces.Box(-1, 1, (3,)), actions), epsilon=0.3, **TINY)
    before, book = weights(model), learn(model, 64)
    assert not same(before, weights(model))
    assert min(book.column("adversary/radius_used")) > 0
    assert all(np.isfinite(book.column("train/loss")))


@pytest.mark.parametrize("name", ["epsilon", "kappa"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_a_callable_that_gives_no_strength(name: str, value: float) -> None:
    model = BARPO("MlpPolicy", make_envs(), **{name: lambda _: value}, **TINY)
    with pytest.raises(ValueError, match=f"{name} must be finite and at least 0, but its schedule gave {value}"):
        model.learn(32)


@BOTH
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_observation_that_is_no_number(algorithm: type[PPO], value: float) -> None:
    model = algorithm("MlpPolicy", make_envs(), epsilon=0.1, **TINY)
    model.learn(32)
    model.rollout_buffer.observations[5, 1] = value
    with pytest.raises(ValueError, match=r"NaN or infinite.*VecCheckNan"):
        model.train()


class Lazy(Adversary):
    """An adversary of one's own."""

    def search(self, policy: Any, observations: th.Tensor, *_: Any) -> Perturbation:
        return Perturbation(observations, th.zeros_like(observations))


def test_an_adversary_of_ones_own() -> None:
    """It is used as it is, not taken apart."""
    lazy = BARPO("MlpPolicy", make_envs(), epsilon=0.1, adversary=Lazy(KL(), SGLD()), **TINY)
    assert learn(lazy, 32).column("adversary/radius_used") == [0.0]


def test_an_adversary_that_training_would_not_call() -> None:
    with pytest.raises(TypeError, match=r"Eager overrides perturb\(\), which training does not call. Override search"):

        class Eager(Adversary):
            def perturb(self, policy: Any, observations: th.Tensor, *_: Any) -> th.Tensor:
                return observations


def test_models_do_not_share_the_randomness_of_an_adversary() -> None:
    adversary = Adversary(KL(), PGD())
    models = [BARPO("MlpPolicy", make_envs(), epsilon=0.1, adversary=adversary, **TINY) for _ in range(2)]
    for model in models:
        th.manual_seed(0)
        np.random.seed(0)
        model.learn(32)
    assert same(weights(models[0]), weights(models[1]))


def test_frames_stacked_around_vec_normalize() -> None:
    """The statistics do not fit the stacked frames, so the limits of the space are not known; the ball is."""
    model = BARPO("MlpPolicy", VecFrameStack(make_envs(normalized=True), 3), epsilon=0.1, **TINY)
    assert 0 < learn(model, 32).column("adversary/radius_used")[0] <= 0.1 * (1 + 1e-4)
