"""Environments by id and the RL Zoo's settings, the same in every command: train, tune, evaluate."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import TimeAwareObservation
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecFrameStack,
    VecNormalize,
    VecTransposeImage,
    unwrap_vec_normalize,
)
from zoo_commands import inside, manager

from sb3_barpo import zoo
from sb3_barpo.adversary import bounds_of
from sb3_barpo.agents.load import load_agent
from sb3_barpo.cli import main
from sb3_barpo.environments import around, build, find_env
from sb3_barpo.experiment import Agent, Evaluation, attack, make_env, make_model, train

tuning = pytest.importorskip("sb3_barpo.tuning")
yaml = pytest.importorskip("yaml")
pytest.importorskip("rl_zoo3")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries that the Zoo brings together

ENV = "Pendulum-v1"
OWN = "own_env:Tests/Own-v0"
TIME = "gymnasium.wrappers.TimeAwareObservation"
TINY = {"n_steps": 32, "batch_size": 32, "n_epochs": 1}


# Ids


def test_the_module_is_taken_apart_from_the_id() -> None:
    assert find_env(OWN) == find_env("Tests/Own-v0", ["own_env"]) == "Tests/Own-v0"
    assert find_env("brief:Brief-v0", ["own_env"]) == "Brief-v0"
    assert find_env("Pendulum") == "Pendulum"  # gymnasium finds the version
    assert find_env("CartPoleNoVel-v1") == "CartPoleNoVel-v1"  # the Zoo's own


def test_atari_with_and_without_its_module() -> None:
    pytest.importorskip("ale_py")
    assert find_env("ale_py:ALE/Pong-v5") == find_env("ALE/Pong-v5", ["ale_py"]) == "ALE/Pong-v5"


@pytest.mark.parametrize(
    ("env_id", "packages", "match"),
    [
        ("Pendulun-v1", (), r"no environment 'Pendulun-v1'. Did you mean 'Pendulum-v1'\? Name a .*--gym-packages"),
        ("Xyz-v0", (), r"no environment 'Xyz-v0'. Name a registered"),
        ("own_env:Xyz-v0", (), r"no environment 'Xyz-v0'"),
        ("nowhere:My-v0", (), r"The module 'nowhere' of the environment 'nowhere:My-v0' cannot be imported: No module"),
        (ENV, ("nowhere",), r"The module 'nowhere' .* cannot be imported"),
    ],
)
def test_an_id_that_names_nothing(env_id: str, packages: tuple[str, ...], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        find_env(env_id, packages)


# Building


def seen(venv: VecEnv) -> np.ndarray:
    """Observations of a few steps."""
    venv.seed(3)
    rng = np.random.default_rng(0)
    observations = [venv.reset()]
    for _ in range(5):
        observations.append(venv.step(rng.uniform(-1, 1, (venv.num_envs, *venv.action_space.shape)))[0])
    return np.stack(observations)


def timed(n: int) -> VecEnv:
    return make_vec_env(ENV, n, wrapper_class=TimeAwareObservation)


@pytest.mark.parametrize(
    ("settings", "normalize", "expected"),
    [
        ({}, False, lambda n: make_vec_env(ENV, n)),
        ({"env_kwargs": {"g": 2.0}}, False, lambda n: make_vec_env(ENV, n, env_kwargs={"g": 2.0})),
        ({"env_kwargs": "dict(g=2.0)"}, False, lambda n: make_vec_env(ENV, n, env_kwargs={"g": 2.0})),
        ({"env_wrapper": TIME}, False, timed),
        ({"env_wrapper": [TIME], "frame_stack": 2}, False, lambda n: VecFrameStack(timed(n), 2)),
        ({"frame_stack": 3}, True, lambda n: VecFrameStack(VecNormalize(make_vec_env(ENV, n)), 3)),
        ({}, {"clip_obs": 0.5}, lambda n: VecNormalize(make_vec_env(ENV, n), clip_obs=0.5)),
        ({}, "dict(norm_obs=False)", lambda n: make_vec_env(ENV, n)),
    ],
)
def test_an_agent_s_environments(settings: dict[str, Any], normalize: Any, expected: Callable[[int], VecEnv]) -> None:
    agent = Agent("it", "barpo", ENV, 0, 64, 2, kwargs={**TINY, **settings}, normalize=normalize)
    np.testing.assert_array_equal(seen(make_env(agent, 2)), seen(expected(2)))


def test_it_is_what_the_zoo_builds(tmp_path: Path) -> None:
    """One path for ``train`` and for all else: the Zoo's own manager as the reference."""
    zoo.register()
    settings = {"env_wrapper": [TIME], "env_kwargs": {"g": 2.0}, "frame_stack": 2, "gamma": 0.8, "n_envs": 2}
    it = manager("barpo", ENV, log_folder=str(tmp_path), eval_freq=-1, hyperparams=settings)
    theirs, _ = it.setup_experiment()
    own = {key: value for key, value in settings.items() if key != "n_envs"}
    ours = make_model(Agent("it", "barpo", ENV, 0, 64, 2, kwargs=TINY | own))
    np.testing.assert_array_equal(seen(theirs.env), seen(ours.env))
    theirs.env.close()  # with the Zoo's files of returns
    assert [unwrap_vec_normalize(model.env).gamma for model in (theirs, ours)] == [0.8, 0.8]


class Picture(gym.Env[Any, Any]):
    """A camera, or a camera beside numbers and a switch."""

    action_space = spaces.Box(-1, 1, (1,))

    def __init__(self, numbers: bool) -> None:
        self.observation_space: Any = spaces.Box(0, 255, (40, 36, 3), np.uint8)
        if numbers:
            self.observation_space = spaces.Dict(
                camera=self.observation_space, numbers=spaces.Box(-1, 1, (2,)), switch=spaces.Discrete(2)
            )

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        super().reset(**kwargs)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 1.0, False, False, {}


def test_images_are_never_normalised() -> None:
    alone, beside = (around(DummyVecEnv([partial(Picture, numbers)]), True, None) for numbers in (False, True))
    assert isinstance(alone, VecTransposeImage)
    assert alone.reset().dtype == np.uint8
    layer = unwrap_vec_normalize(alone)
    assert layer is not None
    assert not layer.norm_obs
    assert layer.norm_reward
    observation: Any = beside.reset()
    assert observation["camera"].dtype == np.uint8
    assert unwrap_vec_normalize(beside).norm_obs_keys == ["numbers"]


def test_wrappers_come_back_when_the_agent_is_attacked(tmp_path: Path) -> None:
    kwargs = {**TINY, "env_wrapper": TIME, "env_kwargs": {"g": 2.0}}
    agent = Agent("it", "barpo", ENV, 0, 32, kwargs=kwargs)
    folder = train(agent, tmp_path)
    venv = load_agent(folder, ENV).venv
    assert venv.observation_space.shape == (4,)
    assert venv.get_attr("g") == [2.0]
    assert attack(agent, Evaluation([0.1], ["random"], n_eval_episodes=1), tmp_path).natural < 0


def test_callbacks_run(tmp_path: Path) -> None:
    arguments = {"save_freq": 32, "save_path": str(tmp_path)}
    checkpoint = {"stable_baselines3.common.callbacks.CheckpointCallback": arguments}
    train(Agent("it", "ppo", ENV, 0, 32, kwargs={**TINY, "callback": [checkpoint]}), tmp_path / "agents")
    assert (tmp_path / "rl_model_32_steps.zip").is_file()


# The commands


def test_tune_s_task_takes_what_an_entry_takes() -> None:
    own = {"n_envs": 2, "frame_stack": 2, "normalize": "dict(norm_reward=False)", "n_timesteps": 64, "gamma": 0.5}
    agent, epsilon = tuning.task("barpo", OWN, kwargs=own)
    assert (agent.n_envs, agent.steps, agent.normalize) == (2, 64, "dict(norm_reward=False)")
    assert agent.kwargs == {"frame_stack": 2, "gamma": 0.5}
    assert epsilon == 0.05
    assert tuning.task("barpo", OWN, steps=32, kwargs=own)[0].steps == 32


def test_tune_takes_atari_s_entry_for_a_game() -> None:
    pytest.importorskip("ale_py")
    agent, epsilon = tuning.task("barpo", "ale_py:ALE/Pong-v5")
    assert (agent.normalize, agent.kwargs["frame_stack"], epsilon) == (False, 4, 1.0)


@pytest.mark.parametrize("named", [["--env", OWN], ["--env", "Tests/Own-v0", "--gym-packages", "own_env"]])
def test_from_tune_to_train_to_evaluate(named: list[str], tmp_path: Path) -> None:
    """An environment of one's own, with a wrapper and arguments, by both of its names."""
    settings = ["-params", "n_steps:32", "batch_size:32", "n_epochs:1", f"env_wrapper:{TIME}", "env_kwargs:{'g':2.0}"]
    short = ["--trials", "1", "--confirm", "0", "--steps", "64", "--attacks", "random", "--episodes", "1"]
    with inside(tmp_path):
        main(["tune", *named, *settings, *short, "--epsilon", "0.1"])
        assert list(yaml.safe_load(Path("tuning/best.yml").read_text())) == ["Tests/Own-v0"]
        tiny = ["--eval-freq", "-1", "--num-threads", "1", "--device", "cpu"]
        main(["train", *named, "-conf", "tuning/best.yml", *tiny])
        agent = load_agent("logs/barpo/Tests-Own-v0_1", named[1], gym_packages=["own_env"])
        assert isinstance(agent.venv, VecNormalize)
        assert agent.venv.get_attr("g") == [2.0]
        assert agent.venv.observation_space.shape == (4,)
        done = subprocess.run([sys.executable, "tuning/best.py"], env={"PYTHONPATH": ":".join(sys.path)})
        assert done.returncode == 0
        assert Path("vecnormalize.pkl").is_file()


def test_the_zoo_s_record_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(Agent("it", "barpo", OWN, 0, 64, kwargs=TINY, normalize=False))
    model.save(tmp_path / "agent")
    (tmp_path / "args.yml").write_text("gym_packages:\n- own_env\nenv_kwargs: null\n")
    monkeypatch.delitem(gym.registry, "Tests/Own-v0")
    monkeypatch.delitem(sys.modules, "own_env")
    assert load_agent(tmp_path, "Tests/Own-v0").venv.num_envs == 1


def test_plain_environments_need_nothing_of_the_zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rl_zoo3", None)
    monkeypatch.setitem(sys.modules, "rl_zoo3.utils", None)
    assert build(ENV, 2).num_envs == 2


@pytest.mark.parametrize("named", [[], ["--env", "Tests/Own-v0", "--gym-packages", "own_env"]], ids=["found", "named"])
def test_stacked_frames_from_train_to_evaluate(named: list[str], tmp_path: Path) -> None:
    """By commands alone; what is stacked outside the statistics is attacked within its limits."""
    settings = ["n_steps:32", "batch_size:32", "n_epochs:1", "n_envs:1", "frame_stack:2", "epsilon:0.1"]
    quick = ["--eval-freq", "-1", "--num-threads", "1", "--device", "cpu", "-conf", str(tmp_path / "own.yml")]
    entry = {"Tests/Own-v0": {"n_timesteps": 64, "policy": "MlpPolicy", "normalize": True}}
    (tmp_path / "own.yml").write_text(yaml.dump(entry))
    with inside(tmp_path):
        own = ["--env", "Tests/Own-v0", "--gym-packages", "own_env"] if named else ["--env", OWN]
        main(["train", *own, *quick, "-params", *settings])
        few = ["--attacks", "random", "mad", "--episodes", "1", "--n-envs", "1", "--output", "report"]
        main(["evaluate", "logs/barpo/Tests-Own-v0_1", *named, *few])
        told = Path("report/report.md").read_text(encoding="utf-8")
        found = load_agent("logs/barpo/Tests-Own-v0_1", gym_packages=["own_env"])
    assert "within VecFrameStack, VecNormalize" in told
    bounds: Any = bounds_of(found.venv.observation_space, found.venv)
    assert bounds.low.shape == (6,)
    assert bounds.low[:3].tolist() == bounds.low[3:].tolist()  # frame by frame
    assert bounds.high[2] != bounds.high[0]
