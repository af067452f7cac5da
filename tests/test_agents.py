"""Agents as they lie in folders: which algorithm, which statistics, which name; and what is refused."""

import zipfile
from pathlib import Path
from typing import Any

import pytest
from helpers import TINY
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize, unwrap_vec_normalize

from sb3_barpo import ARPO, BARPO
from sb3_barpo.agents import load_agent

ENV = "Pendulum-v1"


def stored(path: Path, algorithm: Any = PPO, statistics: str | None = None, env: str = ENV) -> Path:
    venv = VecNormalize(make_vec_env(env))
    venv.obs_rms.mean += 5
    algorithm("MlpPolicy", venv, device="cpu", seed=0).save(path)
    if statistics is not None:
        (path.parent / statistics).parent.mkdir(exist_ok=True)
        venv.save(str(path.parent / statistics))
    return path


@pytest.mark.parametrize(
    ("algorithm", "expected"), [(PPO, PPO), (A2C, A2C), (BARPO, BARPO), (ARPO, BARPO)], ids=lambda kind: kind.__name__
)
def test_the_file_tells_the_algorithm(algorithm: Any, expected: Any, tmp_path: Path) -> None:
    """ARPO's agent acts the same as a BARPO."""
    agent = load_agent(stored(tmp_path / "one.zip", algorithm), ENV, n_envs=2)
    assert type(agent.model) is expected
    assert agent.venv.num_envs == 2
    assert agent.model.get_env() is agent.venv


def test_trpo_of_sb3_contrib(tmp_path: Path) -> None:
    contrib = pytest.importorskip("sb3_contrib")
    assert type(load_agent(stored(tmp_path / "one.zip", contrib.TRPO), ENV).model) is contrib.TRPO


def test_one_may_name_the_algorithm(tmp_path: Path) -> None:
    path = stored(tmp_path / "one.zip", BARPO)
    assert type(load_agent(path, ENV, algo="ppo").model) is PPO
    assert type(load_agent(path, ENV, algo="arpo").model) is ARPO


@pytest.mark.parametrize(
    ("file", "asked", "name"),
    [
        ("one.zip", "one.zip", "one"),
        ("one.zip", "one", "one"),
        ("agent.zip", "agent.zip", "folder"),
        ("agent.zip", ".", "folder"),
        ("best_model.zip", ".", "folder"),
        (f"{ENV}.zip", f"{ENV}.zip", "folder"),
    ],
)
def test_where_it_lies_and_what_it_is_called(file: str, asked: str, name: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    stored(folder / file)
    assert load_agent(folder / asked, ENV).name == name


@pytest.mark.parametrize(
    "statistics", ["vecnormalize.pkl", "vec_normalize.pkl", "one-vecnormalize.pkl", f"{ENV}/vecnormalize.pkl"]
)
def test_the_statistics_beside_it(statistics: str, tmp_path: Path) -> None:
    """The last is the RL Zoo's layout, imitated by hand."""
    venv = load_agent(stored(tmp_path / "one.zip", statistics=statistics), ENV).venv
    assert isinstance(venv, VecNormalize)
    assert venv.obs_rms.mean == pytest.approx([5, 5, 5])  # type: ignore[union-attr]
    assert not venv.training
    assert not venv.norm_reward


def test_the_statistics_may_be_elsewhere_or_nowhere(tmp_path: Path) -> None:
    path = stored(tmp_path / "one.zip", statistics="vecnormalize.pkl")
    assert unwrap_vec_normalize(load_agent(path, ENV, vec_normalize="none").venv) is None
    (tmp_path / "vecnormalize.pkl").rename(tmp_path / "elsewhere.pkl")
    assert unwrap_vec_normalize(load_agent(path, ENV).venv) is None
    assert unwrap_vec_normalize(load_agent(path, ENV, vec_normalize=tmp_path / "elsewhere.pkl").venv) is not None


CONFIG = """!!python/object/apply:collections.OrderedDict
- - - batch_size
    - 64
  - - {key}
    - {value}
  - - n_envs
    - 1
"""


@pytest.mark.parametrize(
    ("key", "value"), [("env_wrapper", "package.Wrapper"), ("vec_env_wrapper", "package.Wrapper"), ("frame_stack", "4")]
)
def test_wrappers_of_the_rl_zoo_are_not_rebuilt(key: str, value: str, tmp_path: Path) -> None:
    path = stored(tmp_path / f"{ENV}.zip", statistics=f"{ENV}/vecnormalize.pkl")
    (tmp_path / ENV / "config.yml").write_text(CONFIG.format(key=key, value=value))
    with pytest.raises(ValueError, match=rf"with {key} \({value}\), which is not rebuilt"):
        load_agent(path, ENV)


@pytest.mark.parametrize(("key", "value"), [("env_wrapper", "null"), ("normalize", "true")])
def test_an_ordinary_configuration_of_the_rl_zoo(key: str, value: str, tmp_path: Path) -> None:
    path = stored(tmp_path / f"{ENV}.zip", statistics=f"{ENV}/vecnormalize.pkl")
    (tmp_path / ENV / "config.yml").write_text(CONFIG.format(key=key, value=value))
    assert load_agent(path, ENV).name == tmp_path.name


# --- refusals


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no agent at .*nothing"):
        load_agent(tmp_path / "nothing", ENV)
    with pytest.raises(FileNotFoundError, match=r"holds none of agent.zip, best_model.zip, model.zip"):
        load_agent(tmp_path, ENV)


def test_no_model(tmp_path: Path) -> None:
    (tmp_path / "one.zip").write_text("no archive")
    with pytest.raises(ValueError, match="is no model of SB3"):
        load_agent(tmp_path / "one.zip", ENV)
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("letter", "dear reader")
    with pytest.raises(ValueError, match="is no model of SB3: it holds no settings"):
        load_agent(tmp_path / "two.zip", ENV)


def test_an_algorithm_that_is_not_known(tmp_path: Path) -> None:
    DQN("MlpPolicy", "CartPole-v1", device="cpu", buffer_size=1).save(tmp_path / "one.zip")
    with pytest.raises(ValueError, match=r"no on-policy algorithm that is known here \(ppo, a2c, trpo, arpo, barpo\)"):
        load_agent(tmp_path / "one.zip", "CartPole-v1")
    with pytest.raises(ValueError, match=r"Unknown algorithm 'dqn'. Choose from ppo, a2c"):
        load_agent(tmp_path / "one.zip", "CartPole-v1", algo="dqn")


def test_trpo_without_sb3_contrib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stored(tmp_path / "one.zip")
    monkeypatch.setitem(__import__("sys").modules, "sb3_contrib", None)
    with pytest.raises(ValueError, match=r"needs sb3_contrib: pip install sb3_contrib"):
        load_agent(path, ENV, algo="trpo")


def test_a_recurrent_policy(tmp_path: Path) -> None:
    contrib = pytest.importorskip("sb3_contrib")
    contrib.RecurrentPPO("MlpLstmPolicy", ENV, **TINY).save(tmp_path / "one.zip")
    with pytest.raises(TypeError, match="recurrent policy, which cannot be attacked yet"):
        load_agent(tmp_path / "one.zip", ENV)


def test_another_environment(tmp_path: Path) -> None:
    path = stored(tmp_path / "one.zip")
    with pytest.raises(ValueError, match=r"does not fit CartPole-v1: Observation spaces do not match"):
        load_agent(path, "CartPole-v1")


def test_statistics_of_another_environment(tmp_path: Path) -> None:
    stored(tmp_path / "other.zip", statistics="vecnormalize.pkl", env="CartPole-v1")
    with pytest.raises(ValueError, match=r"statistics in .*vecnormalize.pkl' do not fit Pendulum-v1"):
        load_agent(stored(tmp_path / "one.zip"), ENV)
