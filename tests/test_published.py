"""
Agents in the layouts in which SB3's own are published: the repository rl-trained-agents, and the Hugging Face Hub. The
records are those of its files, in their old form and in the present one.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize, unwrap_vec_normalize

from sb3_barpo import BARPO
from sb3_barpo.agents.load import load_agent
from sb3_barpo.cli import main

contrib = pytest.importorskip("sb3_contrib")
yaml = pytest.importorskip("yaml")
pytest.importorskip("rl_zoo3")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the Zoo's libraries

ENV = "Pendulum-v1"
KINDS: dict[str, Any] = {
    "ppo": PPO,
    "a2c": A2C,
    "trpo": contrib.TRPO,
    "ppo_lstm": contrib.RecurrentPPO,
    "barpo": BARPO,
}
every_kind = pytest.mark.parametrize("algo", KINDS)


def save(algo: str, file: Path, statistics: Path, frame_stack: int = 0) -> Any:
    """An agent of the plain class, saved as SB3 saves it, and its statistics."""
    venv = VecNormalize(make_vec_env(ENV, 1, seed=0))
    kwargs: dict[str, Any] = {"n_steps": 32, "seed": 1, "device": "cpu", "policy_kwargs": {"net_arch": [8]}}
    if algo == "ppo_lstm":
        kwargs["policy_kwargs"]["lstm_hidden_size"] = 8
    env = VecFrameStack(venv, frame_stack) if frame_stack else venv
    model = KINDS[algo]("MlpLstmPolicy" if algo == "ppo_lstm" else "MlpPolicy", env, **kwargs)
    model.learn(32)
    file.parent.mkdir(parents=True, exist_ok=True)
    statistics.parent.mkdir(parents=True, exist_ok=True)
    model.save(file)
    venv.save(str(statistics))
    return model


def pairs(settings: dict[str, Any]) -> str:
    """As PyYAML writes the OrderedDict of the Zoo."""
    rows = "".join(
        f"- - - {key}\n    - {json.dumps(value)}\n".replace("- - -", "  - -") for key, value in settings.items()
    )
    return f"!!python/object/apply:collections.OrderedDict\n- {rows[2:]}"


def records(folder: Path, algo: str, env: str = ENV, **config: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    args = {"algo": algo, "env": env, "env_kwargs": None, "gym_packages": [], "seed": 1, "vec_env": "dummy"}
    (folder / "args.yml").write_text(pairs(args))
    usual = {"n_envs": 1, "n_timesteps": 32.0, "normalize": True, "policy": "MlpPolicy"}
    (folder / "config.yml").write_text(pairs({**usual, **config}))


def trained_agents(root: Path, algo: str, frame_stack: int = 0, **how: Any) -> tuple[Path, Any]:
    """``algo/Env_1/Env.zip`` and ``algo/Env_1/Env/{args.yml,config.yml,vecnormalize.pkl}``, with what lies beside."""
    folder = root / algo / f"{ENV}_1"
    model = save(algo, folder / f"{ENV}.zip", folder / ENV / "vecnormalize.pkl", frame_stack)
    records(folder / ENV, algo, **how, **({"frame_stack": frame_stack} if frame_stack else {}))
    (folder / "0.monitor.csv").write_text("#{}\nr,l,t\n")
    np.savez(folder / "evaluations.npz", timesteps=[32])
    return folder, model


def hub(folder: Path, algo: str, zoo: bool = True) -> Any:
    """``algo-Env.zip``, the same unpacked, ``vec_normalize.pkl``, and what the Zoo or the Hub's own upload adds."""
    name = f"{algo}-{ENV}"
    model = save(algo, folder / f"{name}.zip", folder / "vec_normalize.pkl")
    with zipfile.ZipFile(folder / f"{name}.zip") as archive:
        archive.extractall(folder / name)
    (folder / "config.json").write_text((folder / name / "data").read_text())
    (folder / "results.json").write_text(json.dumps({"mean_reward": -1000.0, "n_eval_episodes": 10}))
    (folder / "README.md").write_text("---\nlibrary_name: stable-baselines3\n---\n")
    if zoo:
        records(folder, algo)
        (folder / "env_kwargs.yml").write_text("{}\n")
        with zipfile.ZipFile(folder / "train_eval_metrics.zip", "w") as archive:
            archive.writestr("0.monitor.csv", "")
    return model


def check(found: Any, model: Any) -> None:
    """The agent's own weights, under its own statistics."""
    assert type(found.model) is type(model)
    for name, value in model.policy.state_dict().items():
        assert (found.model.policy.state_dict()[name] == value).all()
    ours, theirs = unwrap_vec_normalize(found.venv), model.get_vec_normalize_env()
    assert ours is not None
    assert np.array_equal(ours.obs_rms.mean, theirs.obs_rms.mean)
    assert not found.note


@every_kind
def test_rl_trained_agents(algo: str, tmp_path: Path) -> None:
    folder, model = trained_agents(tmp_path, algo)
    found = load_agent(folder)
    check(found, model)
    assert (found.env_id, found.name) == (ENV, f"{ENV}_1")
    check(load_agent(folder / f"{ENV}.zip"), model)


@every_kind
@pytest.mark.parametrize("zoo", [True, False], ids=["the Zoo's upload", "the Hub's own"])
def test_the_hub(algo: str, zoo: bool, tmp_path: Path) -> None:
    model = hub(tmp_path / "downloaded", algo, zoo)
    found = load_agent(tmp_path / "downloaded")
    check(found, model)
    assert (found.env_id, found.name) == (ENV, f"{algo}-{ENV}")
    check(load_agent(tmp_path / "downloaded" / f"{algo}-{ENV}.zip"), model)


@pytest.mark.parametrize(
    ("algo", "layout"),
    [("ppo", "hub"), ("a2c", "agents"), ("trpo", "hub"), ("ppo_lstm", "agents"), ("barpo", "agents")],
)
def test_the_command(algo: str, layout: str, tmp_path: Path) -> None:
    """Without one flag that the folder could have told."""
    folder = tmp_path / "downloaded"
    if layout == "hub":
        hub(folder, algo)
    else:
        folder, _ = trained_agents(tmp_path, algo)
    quick = ["--attacks", "random", "--episodes", "1", "--n-envs", "1", "--epsilon", "0.1"]
    main(["evaluate", str(folder), *quick, "--output", str(tmp_path / "report")])
    report = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert f"{KINDS[algo].__name__} after 32 steps" in report
    assert "Normalisation: VecNormalize" in report


def test_stacked_frames_of_the_records(tmp_path: Path) -> None:
    folder, model = trained_agents(tmp_path, "ppo", frame_stack=2)
    found = load_agent(folder)
    check(found, model)
    assert isinstance(found.venv, VecFrameStack)


def test_records_of_a_former_name(tmp_path: Path) -> None:
    """SB3's own ``a2c/Pendulum-v1_1`` says that it was trained on ``Pendulum-v0``."""
    folder, model = trained_agents(tmp_path, "a2c", env="Pendulum-v0")
    found = load_agent(folder)
    check(found, model)
    assert found.env_id == ENV


def test_an_agent_of_a_former_version_of_its_environment(tmp_path: Path) -> None:
    """Its statistics are found although they lie in a folder of the former name."""
    folder, model = trained_agents(tmp_path, "ppo")
    for file in (folder / f"{ENV}.zip", folder / ENV):
        file.rename(file.with_name(file.name.replace("v1", "v0")))
    records(folder / "Pendulum-v0", "ppo", env="Pendulum-v0")
    with pytest.raises(ValueError, match=r"no environment 'Pendulum-v0'. Did you mean 'Pendulum-v1'\?"):
        load_agent(folder)
    for path in (folder, folder / "Pendulum-v0.zip"):
        found = load_agent(path, ENV)
        check(found, model)
        assert found.name == f"{ENV}_1"


def test_several_files_of_a_download_are_not_guessed_among(tmp_path: Path) -> None:
    hub(tmp_path, "ppo", zoo=False)
    save("a2c", tmp_path / f"a2c-{ENV}.zip", tmp_path / "vec_normalize.pkl")
    with pytest.raises(ValueError, match="On which environment was"):
        load_agent(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"holds none of agent\.zip"):
        load_agent(tmp_path, ENV)
