"""Agents from files: found, recognised, normalised as they were, or refused with a word on why."""

import copy
import io
import json
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from helpers import TINY, same
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

import sb3_barpo
from sb3_barpo import ARPO, BARPO
from sb3_barpo.agents.load import load_agent
from sb3_barpo.evaluation import evaluate_robustness

ENV = "Pendulum-v1"
#: As RL Zoo writes it: an OrderedDict, which PyYAML stores as a list of pairs.
CONFIG = """!!python/object/apply:collections.OrderedDict
- - - env_wrapper
    - {env_wrapper}
  - - frame_stack
    - {frame_stack}
  - - n_envs
    - 1
  - - vec_env_wrapper
    - {vec_env_wrapper}
"""
UNCHANGED = {"env_wrapper": "null", "frame_stack": "null", "vec_env_wrapper": "[]"}


def build(algorithm: type[OnPolicyAlgorithm] = PPO, env: Any = ENV) -> OnPolicyAlgorithm:
    settings = {"device": "cpu", "seed": 3} if algorithm is A2C else TINY
    return algorithm("MlpPolicy", env, **settings)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stored agent of PPO, to be copied."""
    file = tmp_path_factory.mktemp("stored") / "agent.zip"
    build().save(file)
    return file


def place(stored: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(stored, target)
    return target


def save_statistics(path: Path, mean: float, env: str = ENV) -> Path:
    """Statistics that can be told by their mean."""
    path.parent.mkdir(parents=True, exist_ok=True)
    layer = VecNormalize(make_vec_env(env))
    layer.obs_rms.mean[:] = mean
    layer.save(str(path))
    return path


def mean_of(path: Path, **settings: Any) -> float | None:
    """By which statistics the environments are normalised."""
    venv = load_agent(path, ENV, **settings).venv
    return float(venv.obs_rms.mean[0]) if isinstance(venv, VecNormalize) else None


@pytest.mark.parametrize("algorithm", [PPO, A2C, ARPO, BARPO])
def test_the_algorithm_is_recognised_and_the_weights_are_the_file_s(
    algorithm: type[OnPolicyAlgorithm], tmp_path: Path
) -> None:
    model = build(algorithm)
    model.save(tmp_path / "it.zip")
    name, loaded, venv = load_agent(tmp_path / "it.zip", ENV, n_envs=3)
    assert name == "it"
    assert type(loaded) is algorithm
    assert same(loaded.policy.state_dict(), model.policy.state_dict())
    assert loaded.get_env() is venv
    assert venv.num_envs == 3
    assert len(evaluate_robustness(loaded, venv, "random", n_eval_episodes=1).to_frame()) == 2


def test_trpo_with_and_without_sb3_contrib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contrib = pytest.importorskip("sb3_contrib")
    contrib.TRPO("MlpPolicy", ENV, n_steps=32, batch_size=16, device="cpu").save(tmp_path / "agent")
    assert type(load_agent(tmp_path, ENV).model) is contrib.TRPO
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    with pytest.raises(ValueError, match="TRPO needs sb3_contrib: pip install sb3-contrib"):
        load_agent(tmp_path, ENV)


@pytest.mark.parametrize("name", ["RecurrentPPO", "RecurrentBARPO"])
def test_agents_with_a_memory(name: str, tmp_path: Path) -> None:
    contrib = pytest.importorskip("sb3_contrib")
    kind = contrib.RecurrentPPO if name == "RecurrentPPO" else sb3_barpo.RecurrentBARPO
    kind("MlpLstmPolicy", ENV, n_steps=8, device="cpu").save(tmp_path / "agent")
    _, loaded, venv = load_agent(tmp_path, ENV)
    assert type(loaded) is kind
    assert len(evaluate_robustness(loaded, venv, "random", n_eval_episodes=1).to_frame()) == 2
    assert type(load_agent(tmp_path, ENV, algo="arpo_lstm").model) is sb3_barpo.RecurrentARPO


@pytest.mark.parametrize("recurrent", [True, False])
def test_a_memory_is_not_made_up_nor_forgotten(recurrent: bool, tmp_path: Path) -> None:
    contrib = pytest.importorskip("sb3_contrib")
    if recurrent:
        contrib.RecurrentPPO("MlpLstmPolicy", ENV, n_steps=8, device="cpu").save(tmp_path / "agent")
    else:
        build().save(tmp_path / "agent")
    own, other = ("ppo_lstm", "ppo") if recurrent else ("ppo", "ppo_lstm")
    with pytest.raises(ValueError, match=rf"agent.zip' holds an agent of {own}, .* but algo is '{other}'"):
        load_agent(tmp_path, ENV, algo=other)


def test_an_agent_without_a_policy_gradient(tmp_path: Path) -> None:
    SAC("MlpPolicy", ENV, buffer_size=10, device="cpu").save(tmp_path / "agent")
    with pytest.raises(ValueError, match=r"does not look like an agent of ppo, a2c, trpo, barpo, arpo.*by algo"):
        load_agent(tmp_path, ENV)
    with pytest.raises(ValueError, match=r"Cannot load .* as PPO for Pendulum-v1: .*its algorithm by algo"):
        load_agent(tmp_path, ENV, algo="ppo")


@pytest.mark.parametrize(
    ("file", "given", "name"),
    [
        ("mine-1.5.zip", "mine-1.5.zip", "mine-1.5"),
        ("mine-1.5.zip", "mine-1.5", "mine-1.5"),
        ("ann/agent.zip", "ann", "ann"),
        ("ann/best_model.zip", "ann", "ann"),
        ("ann/model.zip", "ann/model", "ann"),
        (f"{ENV}_1/{ENV}.zip", f"{ENV}_1", f"{ENV}_1"),
    ],
)
def test_where_an_agent_may_lie_and_how_it_is_called(
    file: str, given: str, name: str, stored: Path, tmp_path: Path
) -> None:
    place(stored, tmp_path / file)
    assert load_agent(tmp_path / given, ENV).name == name
    assert load_agent(str(tmp_path / given), ENV).name == name


def test_a_relative_path_has_a_folder_too(stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place(stored, tmp_path / "ann" / "agent.zip")
    monkeypatch.chdir(tmp_path / "ann")
    assert load_agent("agent.zip", ENV).name == "ann"


@pytest.mark.parametrize("final", ["agent", "model", ENV])
def test_of_a_folder_the_final_agent_counts_unless_the_best_is_asked_for(
    final: str, stored: Path, tmp_path: Path
) -> None:
    place(stored, tmp_path / "best_model.zip")
    assert load_agent(tmp_path, ENV).file == tmp_path / "best_model.zip"  # there is no other
    build(A2C).save(tmp_path / f"{final}.zip")
    for which, kind, file in ((None, A2C, final), ("last", A2C, final), ("best", PPO, "best_model")):
        agent = load_agent(tmp_path, ENV, which=which)
        assert type(agent.model) is kind
        assert agent.file == tmp_path / f"{file}.zip"
    with pytest.raises(ValueError, match="which must be one of last, best, but it is 'worst'"):
        load_agent(tmp_path, ENV, which="worst")
    with pytest.raises(ValueError, match=r"which='best' chooses among the files of a folder, but '.*best_model.zip'"):
        load_agent(tmp_path / "best_model.zip", ENV, which="best")
    (tmp_path / "best_model.zip").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds none of best_robust_model.zip, best_model.zip\. Name"):
        load_agent(tmp_path, ENV, which="best")


@pytest.mark.parametrize(
    "name",
    [
        "vecnormalize.pkl",
        "vec_normalize.pkl",
        "rl_model_100_steps-vecnormalize.pkl",
        "rl_model_100_steps_vecnormalize.pkl",
        "rl_model_vecnormalize_100_steps.pkl",  # SB3's CheckpointCallback
        f"{ENV}/vecnormalize.pkl",  # RL Zoo
    ],
)
def test_statistics_are_found_and_frozen(name: str, stored: Path, tmp_path: Path) -> None:
    file = place(stored, tmp_path / "rl_model_100_steps.zip")
    assert mean_of(file) is None
    save_statistics(tmp_path / name, 7.0)
    venv = load_agent(file, ENV).venv
    assert isinstance(venv, VecNormalize)
    assert (venv.obs_rms.mean == 7.0).all()
    assert not venv.training
    assert not venv.norm_reward


def test_the_agent_s_own_statistics_come_first_and_the_caller_s_before_them(stored: Path, tmp_path: Path) -> None:
    file = place(stored, tmp_path / "it.zip")
    save_statistics(tmp_path / "vecnormalize.pkl", 1.0)
    save_statistics(tmp_path / "it-vecnormalize.pkl", 2.0)
    assert mean_of(file) == 2.0
    assert mean_of(file, vec_normalize=save_statistics(tmp_path / "others.pkl", 3.0)) == 3.0
    assert mean_of(file, vec_normalize="none") is None


def zoo_folder(stored: Path, tmp_path: Path, config: str) -> Path:
    """RL Zoo's layout, imitated by hand: agent and best model above, statistics and settings in a folder below."""
    folder = tmp_path / "logs" / "ppo" / f"{ENV}_1"
    for name in (ENV, "best_model"):
        place(stored, folder / f"{name}.zip")
    save_statistics(folder / ENV / "vecnormalize.pkl", 5.0)
    (folder / ENV / "config.yml").write_text(config)
    return folder


@pytest.mark.parametrize("name", ["", ENV, f"{ENV}.zip", "best_model.zip"])
def test_rl_zoo_s_layout(name: str, stored: Path, tmp_path: Path) -> None:
    folder = zoo_folder(stored, tmp_path, CONFIG.format(**UNCHANGED))
    assert load_agent(folder / name, ENV).name == f"{ENV}_1"
    assert mean_of(folder / name) == 5.0


def test_a_slash_in_the_environment_s_id_is_a_dash_in_rl_zoo_s_files(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = copy.copy(gym.spec(ENV))
    spec.namespace = "Tests"
    monkeypatch.setitem(gym.registry, "Tests/Pendulum-v1", spec)
    place(stored, tmp_path / "run" / "Tests-Pendulum-v1.zip")
    save_statistics(tmp_path / "run" / "Tests-Pendulum-v1" / "vecnormalize.pkl", 5.0)
    name, _, venv = load_agent(tmp_path / "run", "Tests/Pendulum-v1")
    assert name == "run"
    assert isinstance(venv, VecNormalize)


def test_no_agent_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no agent '.*nobody'. Name a .zip file"):
        load_agent(tmp_path / "nobody", ENV)
    with pytest.raises(
        FileNotFoundError,
        match=rf"holds none of agent.zip, .*{ENV}.zip, best_robust_model.zip, best_model.zip. Name the agent's file",
    ):
        load_agent(tmp_path, ENV)


def zipped(**files: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in files.items():
            archive.writestr(name.replace("_", "."), text)
    return content.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"text",
        zipped(readme_txt=b"hello"),
        zipped(data=b"{broken", policy_pth=b""),
        zipped(data=json.dumps({"clip_range": 1}).encode()),
    ],
    ids=["text", "no data", "no JSON", "no weights"],
)
def test_a_file_that_is_no_model(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "it.zip").write_bytes(content)
    with pytest.raises(ValueError, match=r"it.zip' is no model of Stable-Baselines3: .*model.save"):
        load_agent(tmp_path / "it.zip", ENV)


def test_unknown_algorithm(stored: Path) -> None:
    with pytest.raises(ValueError, match=r"Unknown algorithm 'pop'. Choose from ppo, a2c, trpo, barpo, arpo"):
        load_agent(stored, ENV, algo="pop")


def test_another_environment_than_the_agent_s(stored: Path) -> None:
    with pytest.raises(ValueError, match=r"for CartPole-v1: Observation spaces do not match: .*\(3,\).* != .*\(4,\)"):
        load_agent(stored, "CartPole-v1")


def test_statistics_that_do_not_fit(stored: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There are no statistics '.*absent.pkl'.*or 'none'"):
        load_agent(stored, ENV, vec_normalize=tmp_path / "absent.pkl")
    others = save_statistics(tmp_path / "others.pkl", 0.0, env="CartPole-v1")
    with pytest.raises(ValueError, match=rf"others.pkl' do not fit {ENV}: .*\(4,\) != \(3,\).*by vec_normalize"):
        load_agent(stored, ENV, vec_normalize=others)
    others.write_bytes(b"text")
    with pytest.raises(ValueError, match=f"others.pkl' do not fit {ENV}: "):
        load_agent(stored, ENV, vec_normalize=others)


def test_observations_are_normalised_as_in_training(stored: Path, tmp_path: Path) -> None:
    statistics = save_statistics(tmp_path / "statistics.pkl", 2.0)
    venv = load_agent(stored, ENV, vec_normalize=statistics).venv
    raw = make_vec_env(ENV)
    for one in (venv, raw):
        one.seed(4)
    np.testing.assert_allclose(venv.reset(), raw.reset() - 2.0, rtol=1e-5)
