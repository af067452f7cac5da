"""ARPO and BARPO in the RL Zoo: what is registered, completed, refused, and the Zoo's programs on our agents."""

import contextlib
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.vec_env import VecNormalize

from sb3_barpo import ARPO, BARPO, zoo
from sb3_barpo.agents import load_agent
from sb3_barpo.cli import main
from sb3_barpo.evaluation import RobustnessReport
from sb3_barpo.hyperparams import read

optuna = pytest.importorskip("optuna")
rl_zoo3 = pytest.importorskip("rl_zoo3")
yaml = pytest.importorskip("yaml")
# Deprecations among the libraries that the Zoo brings together are no business of ours.
pytestmark = pytest.mark.filterwarnings("default")

zoo.register()
from rl_zoo3.exp_manager import ExperimentManager  # noqa: E402
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER  # noqa: E402
from rl_zoo3.utils import ALGOS  # noqa: E402

ENV = "Pendulum-v1"
TINY = ["n_envs:1", "n_steps:64", "n_epochs:1", "use_sde:False"]
OPTIMIZE = ["-optimize", "--n-trials", "2", "--n-evaluations", "1", "--no-optim-plots"]
HOPPER = "--env Hopper-v5 -n 20000 --eval-freq 10000 --vec-env subproc --seed 1"
STRENGTH = {"Hopper": 0.075, "Walker2d": 0.05, "HalfCheetah": 0.15, "Ant": 0.15}


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield


def train(*arguments: str) -> None:
    main(["train", "--env", ENV, "-n", "256", "--num-threads", "1", "--eval-episodes", "1", *arguments])


def manager(algo: str = "barpo", env: str = ENV, **kwargs: Any) -> ExperimentManager:
    kwargs.setdefault("config", f"sb3_barpo.hyperparams.{algo}")
    return ExperimentManager(SimpleNamespace(), algo, env, kwargs.pop("log_folder", "logs"), verbose=0, **kwargs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where an agent has been trained, with two evaluations and two checkpoints."""
    folder = tmp_path_factory.mktemp("zoo")
    with inside(folder):
        train("-params", *TINY, "--eval-freq", "128", "--save-freq", "128", "--seed", "1")
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The storage of a study of two trials, called "it"."""
    storage = tmp_path_factory.mktemp("study") / "study.log"
    with inside(storage.parent):
        train(
            "-params", *TINY, *OPTIMIZE, "--storage", str(storage), "--study-name", "it", "--seed", "15"
        )  # draws quick ones
    return storage


# Registration


def test_registration_is_in_place_and_can_be_repeated() -> None:
    before = dict(ALGOS), dict(HYPERPARAMS_SAMPLER), dict(HYPERPARAMS_CONVERTER)
    zoo.register()
    assert before == (ALGOS, HYPERPARAMS_SAMPLER, HYPERPARAMS_CONVERTER)
    assert (ALGOS["arpo"], ALGOS["barpo"]) == (ARPO, BARPO)
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
        ("train", "--algo ppo", ""),
        ("train", "--env Nowhere-v0", "--algo barpo --conf-file sb3_barpo.hyperparams.barpo"),
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
    assert ",arpo,barpo}" in printed
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


# Settings


@pytest.mark.parametrize("algo", ["arpo", "barpo"])
@pytest.mark.parametrize("env", sorted(read("barpo")))
def test_every_entry_makes_an_agent(algo: str, env: str, tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    it = manager(algo, "Acrobot-v1" if env == "default" else env, log_folder=str(tmp_path), eval_freq=-1)
    model, saved = it.setup_experiment()
    assert type(model) is ALGOS[algo]
    assert model.get_vec_normalize_env() is not None
    assert model.epsilon == saved["epsilon"]
    assert [model._epsilon_schedule(left) for left in (1, 0)] == [0, STRENGTH.get(env.split("-")[0], 0.05)]
    assert model._kappa_schedule(0.5) == {"arpo": 0, "barpo": 1}[algo]
    model.env.close()


def test_the_two_files_differ_in_kappa_alone() -> None:
    ours, theirs = read("barpo"), read("arpo")
    assert {entry.pop("kappa", 1.0) for entry in ours.values()} == {1.0}
    assert {entry.pop("kappa", 0.0) for entry in theirs.values()} == {0.0}
    assert ours == theirs


def test_settings_are_read_anew() -> None:
    """The Zoo takes keys out of what it has read."""
    import sb3_barpo.hyperparams.barpo as module

    module.hyperparams[ENV].clear()
    assert module.hyperparams[ENV]["n_envs"] == 4
    with pytest.raises(AttributeError, match=r"module 'sb3_barpo.hyperparams.barpo' has no attribute 'nothing'"):
        _ = module.nothing
    with pytest.raises(AttributeError, match=r"module 'sb3_barpo.hyperparams.arpo' has no attribute 'nothing'"):
        _ = importlib.import_module("sb3_barpo.hyperparams.arpo").nothing


def test_all_keys_that_the_zoo_uses_with_ppo_are_known() -> None:
    entries = yaml.safe_load((Path(rl_zoo3.__file__).parent / "hyperparams" / "ppo.yml").read_text())
    assert len(entries) > 30
    for entry in entries.values():
        zoo.check_settings("barpo", entry)


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


# Tuning


@given(
    pows=st.tuples(st.integers(2, 10), st.integers(5, 12)),
    unit=st.tuples(st.floats(0.0001, 0.03), st.floats(0.0001, 0.1)),
    rates=st.tuples(st.floats(1e-5, 0.002), st.floats(1e-8, 0.1), st.floats(0.3, 2)),
    clip_range=st.sampled_from([0.1, 0.2, 0.3, 0.4]),
    n_epochs=st.sampled_from([1, 5, 10, 20]),
    net_arch=st.sampled_from(["tiny", "small", "medium"]),
    activation_fn=st.sampled_from(["tanh", "relu"]),
)
def test_a_trial_is_converted_to_what_was_sampled(
    pows: tuple[int, int], unit: tuple[float, float], rates: tuple[float, float, float], **more: Any
) -> None:
    names = ["batch_size_pow", "n_steps_pow", "one_minus_gamma", "one_minus_gae_lambda"]
    names += ["learning_rate", "ent_coef", "max_grad_norm"]
    trial = optuna.trial.FixedTrial(dict(zip(names, [*pows, *unit, *rates], strict=True)) | more)
    sampled = HYPERPARAMS_SAMPLER["barpo"](trial, 1, 1, {})
    assert sampled == HYPERPARAMS_CONVERTER["barpo"](trial.params)
    zoo.check_settings("barpo", sampled)
    # Scored without an attack, they would be tuned away.
    assert not {"epsilon", "kappa"} & sampled.keys()


def test_a_trial_becomes_an_agent(study: Path, tmp_path: Path) -> None:
    """Trial 0, which the Zoo knows only from the end."""
    trials = optuna.load_study(
        storage=optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(study))), study_name="it"
    ).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 2
    it = ["--storage", str(study), "--study-name", "it"]
    with inside(tmp_path):
        train("-params", *TINY, *it, "--trial-id", "-2", "--eval-freq", "-1", "-n", "1")
    agent = load_agent(tmp_path / "logs" / "barpo" / f"{ENV}_1", ENV).model
    assert agent.ent_coef == trials[0].params["ent_coef"] != trials[1].params["ent_coef"]
    assert agent.epsilon == "ramp_0.05"


def test_trial_0(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    it = {"storage": str(study), "study_name": "it"}
    ignored, _ = manager(**it, trial_id=0).read_hyperparameters()
    assert ignored == manager().read_hyperparameters()[0] != manager(**it, trial_id=1).read_hyperparameters()[0]
    with pytest.raises(SystemExit, match="2"):
        train("--storage", str(study), "--study-name", "it", "--trial-id", "0")
    assert "the first of 20 trials is --trial-id -20" in capsys.readouterr().err


def test_what_the_constructor_refuses_is_no_pruned_trial(tmp_path: Path) -> None:
    with inside(tmp_path), pytest.raises(ValueError, match="Policy Nobody unknown"):
        train("-params", *TINY, "policy:'Nobody'", *OPTIMIZE)


# The Zoo's programs on an agent


def test_training_leaves_what_the_zoo_leaves(folder: Path) -> None:
    run = folder / "logs" / "barpo" / f"{ENV}_1"
    names = ["best_model.zip", "evaluations.npz", "0.monitor.csv", "rl_model_128_steps.zip", "rl_model_256_steps.zip"]
    assert all((run / name).is_file() for name in names)
    assert np.load(run / "evaluations.npz")["timesteps"].tolist() == [128, 256]
    args = yaml.unsafe_load((run / ENV / "args.yml").read_text())
    assert (args["algo"], args["conf_file"]) == ("barpo", "sb3_barpo.hyperparams.barpo")
    config = dict(yaml.unsafe_load((run / ENV / "config.yml").read_text()))
    overruled = {"n_envs": 1, "n_steps": 64, "n_epochs": 1, "use_sde": False}
    assert config == read("barpo")[ENV] | overruled


def test_the_agent_is_loaded_with_its_statistics(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = folder / "logs" / "barpo" / f"{ENV}_1"
    agent = load_agent(run / f"{ENV}.zip", ENV)
    assert type(agent.model) is BARPO
    assert (agent.name, agent.model.epsilon, agent.model.num_timesteps) == (f"{ENV}_1", "ramp_0.05", 256)
    assert isinstance(agent.venv, VecNormalize)
    assert agent.venv.obs_rms.count > 256
    short = ["--attacks", "random", "--epsilon", "0.05", "--episodes", "1", "--output", str(folder / "report")]
    main(["evaluate", str(run / f"{ENV}.zip"), "--env", ENV, *short])
    assert RobustnessReport.from_csv(folder / "report" / "report.csv").agents == [f"{ENV}_1"]


@pytest.mark.parametrize(
    ("more", "file"),
    [([], f"{ENV}.zip"), (["--load-best"], "best_model.zip"), (["--load-checkpoint", "128"], "rl_model_128_steps.zip")],
)
def test_enjoy(more: list[str], file: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with inside(folder):
        main(["enjoy", "--env", ENV, "--no-render", "-n", "200", "--exp-id", "1", "--device", "cpu", *more])
    printed = capsys.readouterr().out
    assert f"Loading logs/barpo/{ENV}_1/{file}" in printed
    assert "Mean reward: " in printed


def test_continue(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent = folder / "logs" / "barpo" / f"{ENV}_1" / f"{ENV}.zip"
    with inside(tmp_path):
        train("-i", str(agent), "-params", *TINY, "epsilon:0.05", "--eval-freq", "-1", "-n", "64")
    assert "Loading pretrained agent\n" in capsys.readouterr().out
    again = load_agent(tmp_path / "logs" / "barpo" / f"{ENV}_1", ENV)
    assert again.model.epsilon == 0.05
    assert again.model._n_updates == 5  # four and this one
    assert again.venv.obs_rms.count > 256 + 64


def test_record_video(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("pygame")
    pytest.importorskip("moviepy")
    with inside(folder):
        main(["record_video", "--env", ENV, "-n", "5", "--exp-id", "1", "-o", str(tmp_path)])
    (video,) = tmp_path.glob("*.mp4")
    assert video.name.startswith(f"final-model-barpo-{ENV}")


def test_all_plots(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("seaborn")
    from rl_zoo3.plots import all_plots

    logs = str(folder / "logs")
    argv = ["all_plots", "-a", "barpo", "-e", ENV, "-f", logs, "-min", "0", "--no-display", "-o", str(folder / "it")]
    monkeypatch.setattr(sys, "argv", argv)
    all_plots()
    assert "BARPO" in capsys.readouterr().out.upper()


def test_model_card() -> None:
    card = "pip install rl_zoo3\npython -m rl_zoo3.enjoy -f logs/\npython -m rl_zoo3.load_from_hub -f logs/"
    ours = (
        'pip install "sb3-barpo[zoo]"\npython -m sb3_barpo enjoy -f logs/\npython -m sb3_barpo load_from_hub -f logs/'
    )
    assert zoo.model_card(card) == ours


class FakeHub:
    """The Hub, and what was uploaded to it last."""

    card: str
    files: set[str]

    def create_repo(self, repo_id: str, **kwargs: Any) -> str:
        return repo_id

    def snapshot_download(self, repo_id: str, local_dir: Path) -> None:
        local_dir.mkdir(parents=True)

    def upload_folder(self, repo_id: str, folder_path: Path, commit_message: str) -> None:
        FakeHub.card = (folder_path / "README.md").read_text(encoding="utf-8")
        FakeHub.files = {path.name for path in folder_path.iterdir()}


def test_push_to_hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "HfApi", FakeHub)
    save = huggingface_hub.repocard.metadata_save
    with inside(tmp_path):
        arguments = ["--env", ENV, "-f", str(folder / "logs"), "--exp-id", "1", "-orga", "me", "--no-render"]
        main(["push_to_hub", *arguments])
    assert {f"barpo-{ENV}.zip", "vec_normalize.pkl", "config.yml", "results.json"} <= FakeHub.files
    assert f"python -m sb3_barpo enjoy --algo barpo --env {ENV}" in FakeHub.card
    assert "rl_zoo3." not in FakeHub.card
    assert FakeHub.card.startswith("---\n")  # the figures are there too
    assert huggingface_hub.repocard.metadata_save is save


def test_a_download_without_statistics_fails() -> None:
    """The Zoo catches another library's error where an agent has none. Ours always have."""
    import requests
    from huggingface_hub.errors import EntryNotFoundError

    assert not issubclass(EntryNotFoundError, requests.exceptions.HTTPError)
    assert all(entry["normalize"] is True for algo in zoo.ALGORITHMS for entry in read(algo).values())


@pytest.mark.slow
def test_hopper_as_a_user_types_it(tmp_path: Path) -> None:
    """The Zoo's main uses, in processes of their own."""
    pytest.importorskip("mujoco")
    path = os.pathsep.join(filter(None, [str(Path(zoo.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]))

    def sb3_barpo(line: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "sb3_barpo", *line.split()],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
            capture_output=True,
            encoding="utf-8",
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    sb3_barpo(f"train --algo barpo {HOPPER}")
    run = tmp_path / "logs" / "barpo" / "Hopper-v5_1"
    assert (run / "Hopper-v5" / "command.txt").read_text().endswith("-m sb3_barpo train --algo barpo " + HOPPER)
    returns = [
        float(re.search(r"Mean reward: ([\d.]+)", sb3_barpo(f"enjoy --env Hopper-v5 --no-render {best}"))[1])
        for best in ("", "--load-best")
    ]
    assert min(returns) > 100  # an untrained one falls over at once
    sb3_barpo(f"train --env Hopper-v5 -n 2048 -i {run}/Hopper-v5.zip --eval-freq -1")
    again = load_agent(tmp_path / "logs" / "barpo" / "Hopper-v5_2", "Hopper-v5").model
    assert again._n_updates == 110
    assert "Number of finished trials:  3" in sb3_barpo(
        "train --env Hopper-v5 -n 2000 -optimize --n-trials 3 --seed 15 --eval-episodes 1 --no-optim-plots"
    )
