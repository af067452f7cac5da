"""An episode step by step: what it shows, that it is the report's, and its picture."""

import sys
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import Still, make_envs
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize
from victims import Replay, linear_victim, victim

from sb3_barpo.attacks import MAD, Attack, Random, RobustSarsa, VecAttackObservation
from sb3_barpo.evaluation import evaluate_robustness
from sb3_barpo.evaluation.plots import plot_trace
from sb3_barpo.evaluation.trace import Trace, feature_names, trace_episode

SHOWN = [np.array([height]) for height in (0.5, -1.0, 2.0, 7.0)]


class Lower(Attack):
    """Every observation looks lower by ε."""

    name = "lower"

    def _perturb(self, observations: th.Tensor, policy: Any) -> th.Tensor:
        return observations - self.epsilon


def replay(shift: float = 0.0) -> Monitor[Any, Any]:
    return Monitor(Replay([one + shift for one in SHOWN]))


def trace_of(values: Any, rewards: list[float], attack: str = "mad", epsilon: float = 0.5, seed: int = 1) -> Trace:
    """An episode with these perturbations, in units of ε."""
    perturbations = epsilon * np.asarray(values)
    return Trace(attack, epsilon, seed, np.zeros_like(perturbations), perturbations, np.array(rewards))


def natural_of(rewards: list[float]) -> Trace:
    return trace_of(np.zeros((len(rewards), 2)), rewards, "natural", 0.0)


def test_the_first_environment_is_followed_up_to_the_last_action() -> None:
    model = linear_victim([1.0])
    venv = DummyVecEnv([replay, lambda: replay(shift=9.0)])
    trace = trace_episode(model, venv, Lower(model, 0.25), seed=3)
    assert trace[:3] == ("lower", 0.25, 3)
    np.testing.assert_array_equal(trace.observations, SHOWN[:-1])
    np.testing.assert_array_equal(trace.perturbations, [[-0.25]] * 3)
    np.testing.assert_array_equal(trace.rewards, [0.0] * 3)


def test_observations_are_in_units_of_what_the_policy_sees() -> None:
    model, venv = linear_victim([1.0]), VecNormalize(DummyVecEnv([replay]), epsilon=0.0)
    venv.obs_rms.mean, venv.obs_rms.var = np.array([1.0]), np.array([4.0])
    trace = trace_episode(model, venv, Lower(model, 0.25), seed=0)
    np.testing.assert_allclose(trace.observations[:, 0], [-0.25, -1.0, 0.5])
    np.testing.assert_allclose(trace.perturbations[:, 0], -0.25)


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("kind", [None, MAD, Random])
def test_it_is_the_episode_of_the_report(kind: type[Attack] | None, deterministic: bool) -> None:
    model, venv = victim(), make_envs(normalized=True)
    venv.reset()  # the first statistics
    attack = MAD(model, 0.3) if kind is None else kind(model, 0.3)
    report = evaluate_robustness(model, venv, attack, n_eval_episodes=1, seed=11, deterministic=deterministic)
    row = report.to_frame().iloc[0 if kind is None else 1]
    trace = trace_episode(model, venv, None if kind is None else attack, 11, deterministic)
    assert (trace.attack, trace.epsilon) == (row["attack"], row["epsilon"])
    assert len(trace.rewards) == len(trace.observations) == len(trace.perturbations) == row["length"]
    assert trace.rewards.sum() == pytest.approx(row["return"], abs=1e-5)  # Monitor rounds to 6 decimals
    size = np.abs(trace.perturbations).max()
    assert size == 0 if kind is None else 0.1 < size <= 0.3 + 1e-6


def test_statistics_and_switches_are_as_before() -> None:
    model, venv = victim(), make_envs(normalized=True)
    venv.reset()
    before = venv.obs_rms.mean.copy(), venv.obs_rms.count
    trace_episode(model, venv, None, seed=0)
    np.testing.assert_array_equal(venv.obs_rms.mean, before[0])
    assert (venv.obs_rms.count, venv.training, venv.norm_reward) == (before[1], True, True)


def test_an_environment_alone_will_do() -> None:
    model = linear_victim([1.0])
    np.testing.assert_array_equal(trace_episode(model, replay(), None, seed=0).observations, SHOWN[:-1])


def under_attack(model: PPO) -> VecEnv:
    return VecAttackObservation(DummyVecEnv([replay]), Lower(model, 0.1))


def test_what_cannot_be_traced() -> None:
    model = linear_victim([1.0])
    with pytest.raises(ValueError, match="must not be under attack already"):
        trace_episode(model, under_attack(model), None, seed=0)
    with pytest.raises(ValueError, match="observation_space must be the model's"):
        trace_episode(linear_victim([1.0, 2.0]), replay(), None, seed=0)
    with pytest.raises(ValueError, match="fit"):
        trace_episode(model, replay(), RobustSarsa(model, 0.1), seed=0)
    still = Still(spaces.Discrete(3))
    with pytest.raises(TypeError, match="no neighbours"):
        trace_episode(PPO("MlpPolicy", still, device="cpu"), still, None, seed=0)


def test_the_picture_shows_shares_of_epsilon_and_sums_of_rewards() -> None:
    shares = [[1.0, -0.5], [0.0, 0.25], [-1.0, 0.75]]
    figure = plot_trace(natural_of([1, 2, 3, 4]), trace_of(shares, [1, -2, 0.5]), "A under mad")
    top, bottom, bar = figure.axes
    assert top.get_title(loc="left") == "A under mad"
    (picture,) = top.images
    np.testing.assert_allclose(picture.get_array(), np.transpose(shares))
    assert picture.get_clim() == (-1, 1)
    assert picture.get_extent() == [0, 3, 1.5, -0.5]
    assert bar.get_ylabel() == "δ / ε"
    natural, mad, end = bottom.lines
    assert (end.get_xdata(), end.get_ydata()) == ([3], [-0.5])  # the natural episode ends beyond the picture
    np.testing.assert_allclose(natural.get_ydata(), [0, 1, 3, 6])
    np.testing.assert_allclose(mad.get_ydata(), [0, 1, -1, -0.5])
    labels = [text.get_text() for text in bottom.get_legend().get_texts()]
    assert labels == ["natural: 10.0 in 4 steps", "MAD: −0.500 in 3 steps"]
    assert top.get_xlim() == bottom.get_xlim() == (0, 3)  # the attacked episode
    assert [label.get_text() for label in top.get_yticklabels()] == ["feature 0", "feature 1"]


def test_the_picture_shows_what_the_agent_saw_and_did() -> None:
    attacked = trace_of([[1.0, -0.5], [0.0, 0.25], [-1.0, 0.75]], [1, -2, 0.5])._replace(
        observations=np.array([[1.0, 0], [2, 0], [3, 0]]),
        features=["angle", "speed"],
        actions=np.array([[0.0, 1], [0, 1], [0, 1]]),
        clean_actions=np.array([[0.0, -1], [0, 1], [0, 2]]),
    )
    top, saw, did, *_ = plot_trace(natural_of([1]), attacked, "").axes
    assert [label.get_text() for label in top.get_yticklabels()] == ["angle", "speed"]
    assert saw.get_ylabel() == "angle"  # the one that moved most
    np.testing.assert_allclose([line.get_ydata() for line in saw.lines], [[1, 2, 3], [1.5, 2, 2.5]])
    assert did.get_ylabel() == "action 1"
    np.testing.assert_allclose([line.get_ydata() for line in did.lines], [[-1, 1, 2], [1, 1, 1]])


def test_the_actions_are_those_on_what_is_shown_and_those_on_what_is() -> None:
    model = linear_victim([1.0])
    trace = trace_episode(model, replay(), Lower(model, 0.25), seed=3)
    np.testing.assert_allclose(trace.clean_actions, np.clip(SHOWN[:-1], -1, 1))
    np.testing.assert_allclose(trace.actions, np.clip(np.subtract(SHOWN[:-1], 0.25), -1, 1))


def test_features_have_names_where_they_are_known() -> None:
    joints = ["rootz", "rooty", "thigh_joint", "leg_joint", "foot_joint"]
    rates = [f"{joint} velocity" for joint in ["rootx", *joints]]
    assert feature_names(make_vec_env("Hopper-v5")) == [*joints, *rates]
    assert len(feature_names(make_vec_env("HalfCheetah-v5"))) == 17
    assert feature_names(make_vec_env("Pendulum-v1")) == []
    space = spaces.Dict(b=spaces.Box(0, 1, (2,)), a=spaces.Box(0, 1, ()))
    names = feature_names(DummyVecEnv([lambda: Still(space)]))
    assert sorted(names) == ["a", "b 0", "b 1"]


def test_observations_of_several_dimensions_are_flattened() -> None:
    shares = np.arange(-6, 6).reshape(2, 2, 3) / 6
    (picture,) = plot_trace(natural_of([1, 1]), trace_of(shares, [1, 1]), "").axes[0].images
    np.testing.assert_allclose(picture.get_array(), [shares[:, i, j] for i in range(2) for j in range(3)])


def test_at_strength_0_the_picture_is_empty_and_not_broken() -> None:
    (picture,) = plot_trace(natural_of([1]), trace_of([[0, 0]], [1], epsilon=0.0), "").axes[0].images
    np.testing.assert_array_equal(picture.get_array(), [[0], [0]])


@pytest.mark.parametrize("features", [1, 41, 400])
def test_nothing_is_cut_off_or_overlaps(features: int) -> None:
    rng = np.random.default_rng(0)
    attacked = trace_of(rng.uniform(-1, 1, (30, features)), list(-1e5 * rng.random(30)))
    figure = plot_trace(natural_of([-1] * 90), attacked, "barpo-seed0 under paad at ε = 0.075, seed 10000")
    figure.draw_without_rendering()
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    for i, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[:i])


def test_two_episodes_make_no_picture() -> None:
    with pytest.raises(ValueError, match="of one episode, but their seeds are 1 and 2"):
        plot_trace(natural_of([1]), trace_of([[0, 0]], [1], seed=2), "")


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"sb3-barpo\[plots\]"):
        plot_trace(natural_of([1]), natural_of([1]), "")
