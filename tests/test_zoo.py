"""ARPO and BARPO in the RL Zoo: what is registered, completed and refused, and the packaged settings."""

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import rl_zoo3
import yaml
from helpers import spy
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER
from rl_zoo3.utils import ALGOS
from zoo_commands import ENV, inside, manager, train

from sb3_barpo import ARPO, BARPO, RecurrentARPO, RecurrentBARPO, zoo
from sb3_barpo.algorithms import OURS
from sb3_barpo.cli import main
from sb3_barpo.hyperparams import read
from sb3_barpo.schedules import as_schedule

# Deprecations among the libraries that the Zoo brings together are no business of ours.
pytestmark = pytest.mark.filterwarnings("ignore")

zoo.register()
STRENGTH = {"Hopper": 0.075, "Walker2d": 0.05, "HalfCheetah": 0.15, "Ant": 0.15}


# Registration


def test_registration_is_in_place_and_can_be_repeated() -> None:
    before = dict(ALGOS), dict(HYPERPARAMS_SAMPLER), dict(HYPERPARAMS_CONVERTER)
    zoo.register()
    assert before == (ALGOS, HYPERPARAMS_SAMPLER, HYPERPARAMS_CONVERTER)
    assert (ALGOS["arpo"], ALGOS["barpo"]) == (ARPO, BARPO)
    assert (ALGOS["arpo_lstm"], ALGOS["barpo_lstm"]) == (RecurrentARPO, RecurrentBARPO)
    assert HYPERPARAMS_SAMPLER["barpo_lstm"] is HYPERPARAMS_SAMPLER["ppo_lstm"]
    assert rl_zoo3.ALGOS is ALGOS


def test_the_zoo_is_imported_only_when_it_is_needed() -> None:
    code = "import sys, sb3_barpo.cli as c\ntry: c.main(['--help'])\nfinally: assert 'rl_zoo3' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert all(command in done.stdout for command in zoo.COMMANDS)


@pytest.mark.parametrize("missing", ["rl_zoo3", "requests"])
def test_without_the_zoo(missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    with pytest.raises(ValueError, match=rf"commands need {missing}: pip install \"sb3-barpo\[zoo\]\""):
        zoo.register()
    with pytest.raises(SystemExit, match="2"):
        main(["enjoy"])
    assert capsys.readouterr().err.startswith(f"sb3-barpo: The RL Zoo's commands need {missing}")


def test_unknown_command() -> None:
    with pytest.raises(ValueError, match=r"Unknown command 'play'. The RL Zoo's are train, enjoy"):
        zoo.run("play", [])


# Arguments


@pytest.mark.parametrize(
    ("command", "argv", "added"),
    [
        ("train", "--env Hopper-v5", "--algo barpo --conf-file sb3_barpo.hyperparams.barpo"),
        ("train", "--algo arpo --env Hopper-v5", "--conf-file sb3_barpo.hyperparams.arpo"),
        ("train", "--algo barpo -conf sb3_barpo.hyperparams.arpo", ""),
        ("train", "--algo barpo -conf sb3_barpo.hyperparams.arpo -n 20000", "--eval-freq 10000"),
        ("train", "--algo barpo -conf sb3_barpo.hyperparams.arpo -n 64", "--eval-freq 1000"),
        ("train", "--algo barpo -conf sb3_barpo.hyperparams.arpo -n 64 --eval-freq -1", ""),
        ("train", "--algo barpo -conf sb3_barpo.hyperparams.arpo -n 25000", ""),
        ("train", "--algo ppo", ""),
        ("train", "--algo ppo --env brief:Brief-v0", "--env Brief-v0 --gym-packages brief"),
        ("enjoy", "--env brief:Brief-v0", "--algo barpo --env Brief-v0 --gym-packages brief --folder logs"),
        ("record_video", "--env brief:Brief-v0", "--algo barpo --env Brief-v0 --folder logs"),
        ("enjoy", "", "--algo barpo --folder logs"),
        ("enjoy", "--algo arpo -f elsewhere", ""),
        ("enjoy", "--algo ppo", ""),
        ("enjoy", "--help", "--algo barpo"),
        ("load_from_hub", "-orga me", "--algo barpo"),
    ],
)
def test_what_is_completed(command: str, argv: str, added: str) -> None:
    assert zoo.prepare(command, argv.split()) == argv.split() + added.split()


def test_help_is_the_zoo_s(capsys: pytest.CaptureFixture[str]) -> None:
    argv = list(sys.argv)
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
    printed = capsys.readouterr().out
    assert "--optimize-hyperparameters" in printed
    assert f",{','.join(OURS)}}}" in printed
    assert sys.argv == argv


@pytest.mark.parametrize("value", ["ramp_0.05", "'ramp_0.05", "1e"])
def test_values_that_are_no_python(value: str) -> None:
    with pytest.raises(
        ValueError, match=r"as Python, and in one .* there is an error: .*\. A text needs quotes of its"
    ):
        zoo.prepare("train", ["-params", f"epsilon:{value}"])


@pytest.mark.parametrize("argv", [["--env-kwargs", "g:9.0"], []])
def test_env_kwargs_of_a_file_reach_the_evaluation(argv: list[str], tmp_path: Path) -> None:
    """The Zoo keeps them from its evaluation environment, and from the videos."""
    config = tmp_path / "mine.yml"
    config.write_text(
        yaml.safe_dump({ENV: {**read("barpo")[ENV], "env_kwargs": {"g": 5.0, "render_mode": "rgb_array"}}})
    )
    plain = manager(config=str(config))
    settings, _ = plain.read_hyperparameters()
    assert settings["env_kwargs"]["g"] == 5.0
    assert plain.eval_env_kwargs == {}
    prepared = zoo.prepare("train", ["--algo", "barpo", "--env", ENV, "-conf", str(config), *argv])
    if argv:
        assert prepared[-2:] == argv
    else:
        assert prepared[-3:] == ["--env-kwargs", "g:5.0", "render_mode:'rgb_array'"]


@pytest.mark.parametrize("command", ["train", "enjoy", "record_video", "train --algo ppo"])
@pytest.mark.parametrize(
    ("env", "match"),
    [
        ("Pendulumm-v1", "There is no environment 'Pendulumm-v1'. Did you mean 'Pendulum-v1'"),
        ("no.mod:My-v0", "no.mod"),
    ],
)
def test_a_misspelt_environment_is_one_line(
    command: str, env: str, match: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*command.split(), "--env", env])
    printed = capsys.readouterr().err
    assert printed.startswith("sb3-barpo: ")
    assert match in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize("which", [[], ["--load-best"], ["--load-checkpoint", "64"], ["--exp-id", "7"]])
@pytest.mark.parametrize("command", ["enjoy", "record_video"])
def test_a_missing_agent_is_one_line(
    command: str, which: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if command == "record_video" and which[:1] == ["--exp-id"]:
        (tmp_path / "logs" / "barpo" / f"{ENV}_7").mkdir(parents=True)
    with inside(tmp_path), pytest.raises(SystemExit, match="2"):
        main([command, "--env", ENV, *which])
    printed = capsys.readouterr().err
    assert printed.startswith(f"sb3-barpo: There is no such agent of barpo on {ENV}: ")
    assert "sb3-barpo train --algo barpo" in printed
    assert printed.count("\n") == 1


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "logs").write_text("")
    with inside(tmp_path), pytest.raises(SystemExit, match="2"):
        train()
    assert "Cannot write to 'logs': " in capsys.readouterr().err


def test_a_journal_is_named_by_its_absolute_path(tmp_path: Path) -> None:
    with inside(tmp_path):
        argv = zoo.prepare("train", ["--env", ENV, "--storage", "it.log", "--study-name", "it"])
        assert argv[argv.index("--storage", 4) + 1] == str(tmp_path / "it.log")
        url = ["--env", ENV, "--storage", "sqlite:///it.db", "--study-name", "it"]
        assert zoo.prepare("train", url).count("--storage") == 1


# Settings


@pytest.mark.parametrize(
    ("algo", "env"),
    [(algo, env) for algo in ("arpo", "barpo", "arpo_lstm", "barpo_lstm") for env in sorted({*read(algo)} - {"atari"})],
)
def test_every_entry_makes_an_agent(algo: str, env: str, tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    it = manager(algo, "Acrobot-v1" if env == "default" else env, log_folder=str(tmp_path), eval_freq=-1)
    model, saved = it.setup_experiment()
    assert type(model) is ALGOS[algo]
    assert model.get_vec_normalize_env() is not None
    assert model.epsilon == saved["epsilon"]
    assert [as_schedule(model.epsilon)(left) for left in (1, 0)] == [0, STRENGTH.get(env.split("-")[0], 0.05)]
    assert as_schedule(model.kappa)(0.5) == (1 if "barpo" in algo else 0)
    model.env.close()


@pytest.mark.parametrize("env", ["default", "Pendulum-v1", "Hopper-v5"])
@pytest.mark.parametrize("algo", ["sappo", "sppo", "sappo_convex", "carppo", "radialppo", "wocarppo", "atla"])
def test_entries_of_other_defences_make_agents(algo: str, env: str, tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    it = manager(algo, "Acrobot-v1" if env == "default" else env, log_folder=str(tmp_path), eval_freq=-1)
    model, _ = it.setup_experiment()
    assert type(model) is ALGOS[algo]
    assert model.epsilon == read(algo)[env]["epsilon"]
    model.env.close()


@pytest.mark.parametrize("algo", ["sappo_lstm", "carppo_lstm", "atla_lstm"])
def test_entries_of_other_defences_make_agents_with_a_memory(algo: str, tmp_path: Path) -> None:
    it = manager(algo, "PendulumNoVel-v1", log_folder=str(tmp_path), eval_freq=-1)
    model, _ = it.setup_experiment()
    assert type(model) is ALGOS[algo]
    assert model.epsilon == "ramp_0.05"
    model.env.close()


def test_the_atari_entry_is_the_zoos_own_with_a_strength() -> None:
    theirs = yaml.safe_load((Path(rl_zoo3.__file__).parent / "hyperparams" / "ppo.yml").read_text())["atari"]
    strength = {"normalize": False, "epsilon": "ramp_1", "kappa": 1.0}
    assert read("barpo")["atari"] == theirs | strength | {"learning_rate": "lin_0.00025"}  # to us, 2.5e-4 is a text


def test_it_serves_any_atari_game(tmp_path: Path) -> None:
    pytest.importorskip("ale_py")
    pytest.importorskip("cv2")
    quick = {"n_envs": 1, "n_steps": 8}
    it = manager("barpo", "ALE/Pong-v5", log_folder=str(tmp_path), eval_freq=-1, hyperparams=quick)
    model, _ = it.setup_experiment()
    calls = spy(model)
    model.learn(16)
    assert model.observation_space.shape == (4, 84, 84)
    assert calls[-1].epsilon == 1
    shades = calls[-1].perturbed - calls[-1].observations
    assert 0.9 < shades.abs().max() <= 1 + 1e-4
    assert 0 <= calls[-1].perturbed.min() <= calls[-1].perturbed.max() <= 255
    model.env.close()


def test_settings_are_read_anew() -> None:
    """The Zoo takes keys out of what it has read."""
    import sb3_barpo.hyperparams.barpo as module

    module.hyperparams[ENV].clear()
    assert module.hyperparams[ENV]["n_envs"] == 4
    with pytest.raises(AttributeError, match=r"module 'sb3_barpo.hyperparams.barpo' has no attribute 'nothing'"):
        _ = module.nothing
    with pytest.raises(AttributeError, match=r"module 'sb3_barpo.hyperparams' has no attribute 'nothing'"):
        _ = importlib.import_module("sb3_barpo.hyperparams").nothing


@pytest.mark.parametrize(("base", "ours", "least"), [("ppo", "barpo", 30), ("ppo_lstm", "barpo_lstm", 10)])
def test_all_keys_that_the_zoo_uses_with_ppo_are_known(base: str, ours: str, least: int) -> None:
    entries = yaml.safe_load((Path(rl_zoo3.__file__).parent / "hyperparams" / f"{base}.yml").read_text())
    assert len(entries) > least
    for entry in entries.values():
        zoo.check_settings(ours, entry)


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"epsilom": 0.1}, ValueError, r"Unknown setting 'epsilom', .* 0.1. Did you mean 'epsilon'\? .* BARPO and the"),
        ({"zzz": 1}, ValueError, r"Unknown setting 'zzz', with the value 1. Settings are .* own keys: callback, "),
        ({"seed": 1}, ValueError, r"Unknown setting 'seed'"),  # the Zoo gives it
        ({"ent_coef": "1e-3"}, ValueError, r"'ent_coef' is the text '1e-3', not a number.*!!float 1e-3"),
        ({"epsilon": "1e-1"}, ValueError, r"'epsilon' is the text '1e-1'"),
        ({"learning_rate": "ramp_0.1"}, ValueError, r"'learning_rate' is 'ramp_0.1', but .* 'lin_0.001'"),
        ({"clip_range": "lin_x"}, ValueError, r"'clip_range' is 'lin_x', but here"),
        ({"epsilon": "lin_0.1"}, ValueError, r"Unknown schedule 'lin_0.1'"),
        ({"kappa": {"kind": "ramp", "valu": 1}}, ValueError, r"does not fit: 'ramp' takes value"),
        ({"epsilon": [0.1]}, TypeError, r"A strength is a number, a schedule"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        zoo.check_settings("barpo", settings)


def test_settings_that_are_taken() -> None:
    spec = {"kind": "linear", "initial": 0.1, "final": 0}
    zoo.check_settings("arpo", {"epsilon": spec, "kappa": None, "clip_range": "lin_0.2", "target_kl": 0.1})


@pytest.mark.parametrize("more", [[], ["-optimize"], ["-i", "agent.zip"]])
def test_a_wrong_setting_is_one_line_before_anything_is_written(
    more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the Zoo alone, an unknown setting is a traceback, and none at all where an agent is continued."""
    with inside(tmp_path), pytest.raises(SystemExit, match="2"):
        train("-params", "epsilom:0.1", *more)
    printed = capsys.readouterr()
    assert printed.err.startswith("sb3-barpo: Unknown setting 'epsilom'")
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert list(tmp_path.iterdir()) == []


def test_the_zoo_cannot_read_a_number_written_as_text() -> None:
    with pytest.raises(ValueError, match="not enough values to unpack"):
        ExperimentManager._preprocess_schedules({"learning_rate": "1e-3"})
