"""The one table of algorithms: rows agree with their classes, and saved files are told by what they hold."""

import dataclasses
import importlib
import inspect
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from gymnasium import spaces
from helpers import TINY

import sb3_barpo
from sb3_barpo import BARPO, agents, zoo
from sb3_barpo.agents.load import load_agent
from sb3_barpo.algorithms import ALGORITHMS, OURS, Algorithm, algorithm, find, recognize
from sb3_barpo.schedules import as_schedule
from sb3_barpo.training.robust import RobustUpdate

pytest.importorskip("sb3_contrib")
ENV = "Pendulum-v1"


class Mine(BARPO):
    """A user's subclass."""


@pytest.mark.parametrize("row", ALGORITHMS.values(), ids=ALGORITHMS)
def test_a_row_says_what_its_class_is(row: Algorithm) -> None:
    kind = row.load_class()
    assert (kind.__name__, getattr(importlib.import_module(row.module), row.class_name)) == (row.class_name, kind)
    assert issubclass(kind, RobustUpdate) == (row.name in OURS)
    assert ("MlpLstmPolicy" in kind.policy_aliases) == row.memory
    if row.base:
        base = find(row.base)
        assert issubclass(kind, base.load_class())
        assert base.memory == row.memory
        assert row.settings == tuple(field.name for field in dataclasses.fields(kind.defence.loss))


def test_every_algorithm_of_the_package_has_a_row() -> None:
    rooms = [importlib.import_module(f"sb3_barpo.training.{name}") for name in ("presets", "alternating", "recurrent")]
    written = {
        name
        for module in rooms
        for name, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, RobustUpdate) and hasattr(kind, "defence")
    }
    assert {row.class_name for row in OURS.values()} == written
    assert all(hasattr(sb3_barpo, name) for name in written)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_file_is_loaded_as_what_was_saved(name: str, tmp_path: Path) -> None:
    kind, memory = algorithm(name), ALGORITHMS[name].memory
    kind("MlpLstmPolicy" if memory else "MlpPolicy", ENV, n_steps=128, device="cpu").save(tmp_path / "agent")
    assert type(load_agent(tmp_path, ENV).model) is kind


def strip(file: Path, *names: str) -> None:
    """Take settings out of a file, as it was before they were written."""
    with zipfile.ZipFile(file) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    data = json.loads(content["data"])
    for name in names:
        del data[name]
    with zipfile.ZipFile(file, "w") as archive:
        for name, value in {**content, "data": json.dumps(data).encode()}.items():
            archive.writestr(name, value)


@pytest.mark.parametrize(("name", "loaded"), [("arpo", "barpo"), ("barpo", "barpo"), ("arpo_lstm", "barpo_lstm")])
def test_files_from_before_they_named_their_algorithm(name: str, loaded: str, tmp_path: Path) -> None:
    policy = "MlpLstmPolicy" if ALGORITHMS[name].memory else "MlpPolicy"
    algorithm(name)(policy, ENV, n_steps=128, device="cpu").save(tmp_path / "agent.zip")
    strip(tmp_path / "agent.zip", "algorithm")
    assert type(load_agent(tmp_path, ENV).model) is algorithm(loaded)
    assert type(load_agent(tmp_path, ENV, algo=name).model) is algorithm(name)


def test_a_subclass_of_a_user_is_taken_for_the_class_most_like_it(tmp_path: Path) -> None:
    Mine("MlpPolicy", ENV, **TINY).save(tmp_path / "agent")
    assert type(load_agent(tmp_path, ENV).model) is BARPO
    strip(tmp_path / "agent.zip", "kappa")  # as with a loss that has none
    assert type(load_agent(tmp_path, ENV).model) is BARPO


@pytest.mark.parametrize(
    ("settings", "memory", "name"),
    [
        (["clip_range", "normalize_advantage", "batch_size"], False, "ppo"),
        (["clip_range"], True, "ppo_lstm"),
        (["normalize_advantage"], False, "a2c"),
        (["normalize_advantage", "batch_size"], False, None),
        (["cg_max_steps", "normalize_advantage", "batch_size"], False, "trpo"),
        (["clip_range", "epsilon", "adversary", "kappa"], True, "barpo_lstm"),
        (["clip_range", "epsilon", "adversary"], False, "barpo"),
        (["clip_range", "epsilon"], False, "ppo"),  # SB3's DQN has an epsilon of its own
        (["tau"], False, None),
    ],
)
def test_recognition_by_settings(settings: list[str], memory: bool, name: str | None) -> None:
    row = recognize(None, settings, memory)
    assert (row and row.name) == name
    assert recognize("SomebodysClass", settings, memory) == row
    assert recognize("RecurrentARPO", settings, memory) is ALGORITHMS["arpo_lstm"]


def test_policy_names() -> None:
    image, vector = spaces.Box(0, 255, (3, 36, 36), "uint8"), spaces.Box(-1, 1, (3,))
    given = [vector, image, spaces.Dict(a=vector)]
    assert [find("barpo").policy(one) for one in given] == ["MlpPolicy", "CnnPolicy", "MultiInputPolicy"]
    assert [find("barpo_lstm").policy(one) for one in given] == [
        "MlpLstmPolicy",
        "CnnLstmPolicy",
        "MultiInputLstmPolicy",
    ]


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"Unknown algorithm 'pop'. Choose from ppo, a2c, trpo, barpo"):
        find("pop")


def test_the_tables_under_their_former_addresses() -> None:
    assert list(agents.ALGORITHMS) == list(ALGORITHMS)
    assert agents.algorithm("barpo") is BARPO
    without = ["barpo", "arpo", "sappo", "sppo", "sappo_convex", "carppo", "radialppo", "wocarppo", "atla"]
    recurrent = ["barpo_lstm", "arpo_lstm", "sappo_lstm", "carppo_lstm", "atla_lstm"]
    assert dict.fromkeys(without, "ppo") | dict.fromkeys(recurrent, "ppo_lstm") == zoo.ALGORITHMS


@pytest.mark.parametrize("name", OURS)
def test_each_algorithm_has_its_settings_for_the_zoo(name: str) -> None:
    pytest.importorskip("yaml")
    module: Any = importlib.import_module(f"sb3_barpo.hyperparams.{name}")
    defaults = algorithm(name).defence.loss.spec()
    assert all(entry.keys() >= defaults.keys() | {"epsilon"} for entry in module.hyperparams.values())
    assert module.hyperparams["default"].items() >= defaults.items()


def test_published_schedules_of_the_worst_case_value_s_weight() -> None:
    """Linear, w·t, or its third power, (w·t)³, not w·t³."""
    pytest.importorskip("yaml")
    module: Any = importlib.import_module("sb3_barpo.hyperparams.wocarppo")
    for env, power in (("Hopper-v5", 1), ("Walker2d-v5", 3)):
        schedule = as_schedule(module.hyperparams[env]["weight"])
        assert [schedule(1 - t) for t in (0, 0.5, 1)] == pytest.approx([(0.8 * t) ** power for t in (0, 0.5, 1)])


@pytest.mark.parametrize("name", OURS)
def test_settings_of_losses_by_environment(name: str) -> None:
    """Every one is of an environment that has an entry, and is what its algorithm takes, in all versions alike."""
    yaml = pytest.importorskip("yaml")
    hyperparams = importlib.import_module("sb3_barpo.hyperparams")
    written = yaml.safe_load((Path(hyperparams.__file__).parent / "losses.yml").read_text("utf-8"))
    assert written.keys() <= OURS.keys()
    for env, own in written.get(name, {}).items():
        entries = [entry for key, entry in hyperparams.read(name).items() if key.partition("-v")[0] == env]
        if own is None:
            assert not entries
            continue
        assert entries
        assert all(entry.items() >= own.items() for entry in entries)
        assert own.keys() <= inspect.signature(algorithm(name)).parameters.keys()
        dataclasses.replace(
            algorithm(name).defence.loss, **{key: value for key, value in own.items() if key in OURS[name].settings}
        )
