"""What lies beside an agent: its environment's name, its statistics, and whether it needs them."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import TINY
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_barpo import BARPO
from sb3_barpo.agents.load import load_agent

ENV = "Pendulum-v1"
LISTED = "!!python/object/apply:collections.OrderedDict\n- - - {key}\n    - {value}\n  - - seed\n    - 1\n"
MAPPED = "{key}: {value}\nseed: 1\n"


def stored(folder: Path, kind: type[Any] = PPO, normalised: bool = False, name: str = ENV) -> VecNormalize:
    folder.mkdir(parents=True, exist_ok=True)
    venv = VecNormalize(make_vec_env(ENV))
    kind("MlpPolicy", venv if normalised else venv.venv, **TINY).save(folder / name)
    return venv


@pytest.mark.parametrize("text", [LISTED, MAPPED, MAPPED.replace("{value}", "'{value}'")])
def test_the_environment_is_read_from_the_zoo_s_records(text: str, tmp_path: Path) -> None:
    stored(tmp_path)
    with pytest.raises(ValueError, match=r"On which environment was .* trained\? Name it by env: no record"):
        load_agent(tmp_path)
    (tmp_path / ENV).mkdir()
    (tmp_path / ENV / "args.yml").write_text(text.format(key="env", value=ENV))
    for path in (tmp_path, tmp_path / ENV, tmp_path / f"{ENV}.zip"):
        agent = load_agent(path)
        assert (agent.env_id, agent.file) == (ENV, tmp_path / f"{ENV}.zip")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "args.yml").write_text(text.format(key="env", value="Other-v0"))
    with pytest.raises(ValueError, match="the records beside it name Other-v0, Pendulum-v1"):
        load_agent(tmp_path)
    with pytest.raises(FileNotFoundError, match="There is no agent"):
        load_agent(tmp_path / "nowhere" / "agent.zip")


def test_the_environment_is_read_from_our_record(tmp_path: Path) -> None:
    stored(tmp_path, name="agent")
    (tmp_path / "agent.json").write_text(json.dumps({"env": ENV, "normalize": False}))
    assert load_agent(tmp_path).env_id == ENV


def zoo_says(folder: Path, text: str, value: str) -> None:
    (folder / ENV).mkdir()
    (folder / ENV / "config.yml").write_text(text.format(key="normalize", value=value))


@pytest.mark.parametrize("value", ["true", "True", '"{norm_obs: True}"', "dict(norm_obs=True)"])
@pytest.mark.parametrize("text", [LISTED, MAPPED])
def test_an_agent_that_the_zoo_normalised_is_refused_without_statistics(text: str, value: str, tmp_path: Path) -> None:
    venv = stored(tmp_path)
    zoo_says(tmp_path, text, value)
    with pytest.raises(
        ValueError, match=r"was trained under VecNormalize.*none were found.*'none' to evaluate without"
    ):
        load_agent(tmp_path, ENV)
    without = load_agent(tmp_path, ENV, vec_normalize="none")
    assert not isinstance(without.venv, VecNormalize)
    assert without.note == "VecNormalize switched off by the caller, though it was trained with it"
    venv.save(str(tmp_path / ENV / "vecnormalize.pkl"))
    found = load_agent(tmp_path, ENV)
    assert isinstance(found.venv, VecNormalize)
    assert (found.statistics, found.note) == (tmp_path / ENV / "vecnormalize.pkl", "")


@pytest.mark.parametrize("value", ["false", "False", "null", "~"])
def test_an_agent_that_the_zoo_did_not_normalise_needs_none(value: str, tmp_path: Path) -> None:
    stored(tmp_path)
    zoo_says(tmp_path, MAPPED, value)
    assert load_agent(tmp_path, ENV).note == ""


@pytest.mark.parametrize("record", ["agent.zip", "agent.json"])
def test_our_agents_say_themselves_that_they_were_normalised(record: str, tmp_path: Path) -> None:
    venv = stored(tmp_path, BARPO if record == "agent.zip" else PPO, normalised=True, name="agent")
    if record == "agent.json":
        (tmp_path / record).write_text(json.dumps({"env": ENV, "normalize": True}))
    with pytest.raises(ValueError, match="was trained under VecNormalize"):
        load_agent(tmp_path, ENV)
    venv.save(str(tmp_path / "stats-of-mine.pkl"))
    found = load_agent(tmp_path, ENV)
    assert found.statistics == tmp_path / "stats-of-mine.pkl"
    assert "stats-of-mine.pkl beside it was assumed" in found.note
    venv.save(str(tmp_path / "more.pkl"))
    with pytest.raises(ValueError, match=r"several beside it: more.pkl, stats-of-mine.pkl"):
        load_agent(tmp_path, ENV)


def test_a_file_that_says_nothing_is_judged_by_what_lies_beside_it(tmp_path: Path) -> None:
    venv = stored(tmp_path, name="mine")
    assert load_agent(tmp_path / "mine", ENV).note.endswith("assumed to be trained without")
    (tmp_path / "buffer.pkl").write_bytes(b"something else")
    venv.save(str(tmp_path / "other_vecnormalize.pkl"))
    (tmp_path / "other.zip").write_bytes(b"")
    assert load_agent(tmp_path / "mine", ENV).statistics is None  # those are another agent's
    venv.save(str(tmp_path / "stats.pkl"))
    assert load_agent(tmp_path / "mine", ENV).statistics == tmp_path / "stats.pkl"


@pytest.mark.parametrize("normalised", [True, False])
def test_the_record_survives_loading_and_ppo_reads_the_file(normalised: bool, tmp_path: Path) -> None:
    stored(tmp_path, BARPO, normalised, name="agent")
    PPO.load(tmp_path / "agent", env=make_vec_env(ENV), device="cpu")
    model = BARPO.load(tmp_path / "agent", env=make_vec_env(ENV), device="cpu")
    model.num_timesteps = 1  # as after training
    model.save(tmp_path / "trained")
    model = BARPO.load(tmp_path / "trained", env=make_vec_env(ENV), device="cpu")
    assert model.vec_normalize is False  # of an untrained agent, the environment counts
    hardened = stored(tmp_path, PPO, name="ppo")
    assert BARPO.load(tmp_path / "ppo", env=hardened, device="cpu").vec_normalize is True
