"""The RL Zoo's programs on our agents: training, tuning, playing, sharing."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER
from stable_baselines3.common.vec_env import VecNormalize
from zoo_commands import ENV, TINY, inside, manager, train

from sb3_barpo import BARPO, RecurrentBARPO, zoo
from sb3_barpo.agents.load import load_agent
from sb3_barpo.cli import main
from sb3_barpo.evaluation import RobustnessReport
from sb3_barpo.hyperparams import read
from sb3_barpo.zoo import hub

# Deprecations among the libraries that the Zoo brings together are no business of ours.
pytestmark = pytest.mark.filterwarnings("ignore")

zoo.register()
OPTIMIZE = ["-optimize", "--n-trials", "2", "--n-evaluations", "1", "--no-optim-plots"]
HOPPER = "--env Hopper-v5 -n 20000 --vec-env subproc --seed 1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where an agent has been trained, with two evaluations and two checkpoints."""
    folder = tmp_path_factory.mktemp("zoo")
    with inside(folder):
        train("-params", *TINY, "--eval-freq", "128", "--save-freq", "128", "--eval-episodes", "2", "--seed", "1")
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The storage of a study of two trials, called "it"."""
    storage = tmp_path_factory.mktemp("study") / "study.log"
    with inside(storage.parent):
        # The seed draws quick trials.
        train("-params", *TINY, *OPTIMIZE, "--storage", str(storage), "--study-name", "it", "--seed", "15")
    return storage


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
    last = np.load(folder / "logs" / "barpo" / f"{ENV}_1" / "evaluations.npz")["results"][-1].mean()
    assert re.search(rf"BARPO(.*\n)+\|{ENV} *\|{last:.0f} \+/- 0", capsys.readouterr().out)


def test_model_card() -> None:
    card = "pip install rl_zoo3\npython -m rl_zoo3.enjoy --algo {0} -f logs\n"
    card += "python -m rl_zoo3.load_from_hub --algo {0} -f logs"
    ours = 'pip install "sb3-barpo[zoo]"\npython -m sb3_barpo enjoy --algo {0} -f logs\n'
    ours += "python -m sb3_barpo load_from_hub --algo {0} -f logs"
    for algo in ("arpo", "barpo"):
        assert hub.model_card(card.format(algo)) == ours.format(algo)
    assert hub.model_card(card.format("ppo")) == card.format("ppo")


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
    """The Zoo catches another library's error where an agent has none. Ours have, but for Atari's."""
    import requests
    from huggingface_hub.errors import EntryNotFoundError

    assert not issubclass(EntryNotFoundError, requests.exceptions.HTTPError)
    bare = {env for algo in zoo.ALGORITHMS for env, entry in read(algo).items() if entry["normalize"] is not True}
    assert bare == {"atari"}


def test_an_agent_with_a_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    env = ["--algo", "barpo_lstm", "--env", "CartPoleNoVel-v1"]
    with inside(tmp_path):
        main(["train", *env, "-n", "64", "--num-threads", "1", "--eval-episodes", "1", "-params", *TINY[:3]])
        main(["enjoy", *env, "-n", "10", "--no-render"])
    loaded = load_agent(tmp_path / "logs" / "barpo_lstm" / "CartPoleNoVel-v1_1", "CartPoleNoVel-v1")
    assert type(loaded.model) is RecurrentBARPO


@pytest.mark.slow
def test_hopper_as_a_user_types_it(tmp_path: Path) -> None:
    """The Zoo's main uses, in processes of their own."""
    pytest.importorskip("mujoco")
    path = os.pathsep.join(filter(None, [str(Path(zoo.__file__).parents[2]), os.environ.get("PYTHONPATH", "")]))

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
