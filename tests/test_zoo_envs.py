"""Agents of RL Zoo whose environments were wrapped, stacked or given arguments: they get such environments back."""

import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import FrameStackObservation, TimeAwareObservation
from helpers import TINY
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecExtractDictObs, VecFrameStack, VecNormalize

from sb3_barpo import RecurrentBARPO
from sb3_barpo.agents.load import load_agent

yaml = pytest.importorskip("yaml")
pytest.importorskip("rl_zoo3")

ENV = "Pendulum-v1"
STACKED = [{"gymnasium.wrappers.FrameStackObservation": {"stack_size": 2}}]
UNCHANGED = {"env_wrapper": None, "vec_env_wrapper": None, "frame_stack": None, "env_kwargs": None, "n_envs": 1}


class KeepsFirst(gym.ObservationWrapper[Any, Any, Any]):
    """A dictionary with one key, for a wrapper around vector environments to take out."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.observation_space = gym.spaces.Dict(first=env.observation_space)

    def observation(self, observation: Any) -> dict[str, Any]:
        return {"first": observation}


def stored(folder: Path, venv: VecEnv, config: dict[str, Any], args: dict[str, Any] | None = None) -> Path:
    """What RL Zoo leaves of an agent: the model, and below it the records, which PyYAML writes as lists of pairs."""
    PPO("MlpPolicy", venv, **TINY).save(folder / f"{ENV}.zip")
    (folder / ENV).mkdir()
    (folder / ENV / "config.yml").write_text(yaml.dump(OrderedDict(UNCHANGED | config)))
    (folder / ENV / "args.yml").write_text(yaml.dump(OrderedDict(args or {"env_kwargs": None})))
    layer = venv.venv if isinstance(venv, VecFrameStack) else venv
    if isinstance(layer, VecNormalize):
        layer.save(str(folder / ENV / "vecnormalize.pkl"))
    return folder


def seen(venv: VecEnv) -> np.ndarray:
    """Observations of a few steps."""
    venv.seed(3)
    rng = np.random.default_rng(0)
    observations = [venv.reset()]
    for _ in range(5):
        actions = rng.integers(0, 2, (venv.num_envs, *venv.action_space.shape))  # what Box and Discrete allow
        observations.append(venv.step(actions)[0])
    return np.stack(observations)


def normalized(venv: VecEnv) -> VecNormalize:
    layer = VecNormalize(venv, norm_reward=False)
    layer.obs_rms.mean[:] = 0.5
    layer.training = False
    return layer


@pytest.mark.parametrize(
    ("config", "args", "build"),
    [
        ({"env_wrapper": "gymnasium.wrappers.TimeAwareObservation"}, None, lambda n: wrapped(TimeAwareObservation, n)),
        ({"env_wrapper": STACKED}, None, lambda n: wrapped(lambda env: FrameStackObservation(env, 2), n)),
        (
            {
                "env_wrapper": [f"{__name__}.KeepsFirst"],
                "vec_env_wrapper": [{"stable_baselines3.common.vec_env.VecExtractDictObs": {"key": "first"}}],
            },
            None,
            lambda n: VecExtractDictObs(wrapped(KeepsFirst, n), "first"),
        ),
        ({"frame_stack": 3}, None, lambda n: VecFrameStack(make_vec_env(ENV, n), 3)),
        ({"frame_stack": 3, "normalize": True}, None, lambda n: VecFrameStack(normalized(make_vec_env(ENV, n)), 3)),
        ({"env_kwargs": {"g": 5.0}}, None, lambda n: make_vec_env(ENV, n, env_kwargs={"g": 5.0})),
        # The command line's come before the file's.
        (
            {"env_kwargs": {"g": 5.0}},
            {"env_kwargs": {"g": 2.0}},
            lambda n: make_vec_env(ENV, n, env_kwargs={"g": 2.0}),
        ),
    ],
    ids=["wrapper", "wrapper with arguments", "vector wrapper", "stack", "stack of normalised", "arguments", "both"],
)
def test_the_environment_is_built_as_it_was_in_training(
    config: dict[str, Any], args: dict[str, Any] | None, build: Callable[[int], VecEnv], tmp_path: Path
) -> None:
    folder = stored(tmp_path, build(1), config, args)
    agent = load_agent(folder, ENV, n_envs=2)
    expected = seen(build(2))
    np.testing.assert_array_equal(seen(agent.venv), expected)
    # The test could not see a wrapper that changes nothing.
    plain = seen(make_vec_env(ENV, 2))
    assert plain.shape != expected.shape or "vec_env_wrapper" in config or (plain != expected).any()


def wrapped(wrapper: Callable[[Any], Any], n_envs: int) -> VecEnv:
    return make_vec_env(ENV, n_envs, wrapper_class=wrapper)


def test_records_beside_the_agent_in_yaml_s_plain_form(tmp_path: Path) -> None:
    # As an upload to the Hugging Face Hub, or a person, leaves them.
    PPO("MlpPolicy", wrapped(TimeAwareObservation, 1), **TINY).save(tmp_path / "agent.zip")
    (tmp_path / "config.yml").write_text("env_wrapper: gymnasium.wrappers.TimeAwareObservation\nframe_stack: ~\n")
    assert load_agent(tmp_path, ENV).venv.observation_space.shape == (4,)


def test_without_changes_the_zoo_is_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = stored(tmp_path, make_vec_env(ENV), {"vec_env_wrapper": []}, {"eval_env_kwargs": {"g": 1}})
    monkeypatch.setitem(sys.modules, "rl_zoo3.utils", None)
    assert isinstance(load_agent(folder, ENV).venv, DummyVecEnv)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"env_wrapper": "nowhere.Wrapper", "frame_stack": 2}, "env_wrapper, frame_stack"),
        ({"env_kwargs": {"gravity": 5.0}}, "env_kwargs"),
        ({"vec_env_wrapper": STACKED}, "vec_env_wrapper"),
    ],
)
def test_an_environment_that_cannot_be_rebuilt_is_not_taken_for_a_plain_one(
    config: dict[str, Any], named: str, tmp_path: Path
) -> None:
    folder = stored(tmp_path, make_vec_env(ENV), config)
    with pytest.raises(ValueError, match=rf"trained with {named}, says .*config.yml.*evaluate_robustness"):
        load_agent(folder, ENV)


def test_a_wrapped_environment_needs_the_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = stored(tmp_path, make_vec_env(ENV), {"env_wrapper": STACKED})
    monkeypatch.setitem(sys.modules, "rl_zoo3.utils", None)
    with pytest.raises(ValueError, match=r'could not be rebuilt: .*pip install "sb3-barpo\[zoo\]"'):
        load_agent(folder, ENV)


@pytest.mark.filterwarnings("ignore:.*Overriding environment")
def test_the_zoo_s_own_environments_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rl_zoo3 import import_envs  # noqa: F401

    RecurrentBARPO("MlpLstmPolicy", "CartPoleNoVel-v1", **TINY).save(tmp_path / "CartPoleNoVel-v1.zip")
    (tmp_path / "args.yml").write_text("env_kwargs: null\n")
    # As in a program that has not imported the Zoo.
    monkeypatch.delitem(gym.registry, "CartPoleNoVel-v1")
    monkeypatch.delitem(sys.modules, "rl_zoo3.import_envs")
    observations = seen(load_agent(tmp_path, "CartPoleNoVel-v1").venv)
    assert (observations[..., 1::2] == 0).all()
    assert (observations[..., ::2] != 0).all()
