"""Files: what is kept, what can be changed on loading, and the interchange with PPO."""

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import TINY, learn, make_envs, same, weights
from stable_baselines3 import PPO

from sb3_barpo import ARPO, BARPO
from sb3_barpo.adversary import KL, PGD, Adversary, L2Ball
from sb3_barpo.schedules import Cosine, Join, Ramp, as_schedule

BOTH = pytest.mark.parametrize("algorithm", [ARPO, BARPO])
OBSERVATIONS = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)


def trained(algorithm: type[PPO], **own: Any) -> PPO:
    return algorithm("MlpPolicy", make_envs(), **TINY, **own).learn(64)


def reloaded(model: PPO, path: Path, algorithm: type[PPO] | None = None, **kwargs: Any) -> PPO:
    model.save(path / "agent")
    return (algorithm or type(model)).load(path / "agent", device="cpu", **kwargs)


def actions(model: PPO) -> np.ndarray:
    return model.predict(OBSERVATIONS, deterministic=True)[0]


@BOTH
@pytest.mark.parametrize(
    "strength",
    [
        "ramp_0.2",
        0.1,
        {"kind": "cosine", "initial": 0.0, "final": 0.1},
        Ramp(1 / 3, end=0.6, begin=0.1),
        Join((Ramp(0.1), Cosine(0.1, 0.3)), (0.4,)),
        lambda left: 0.3 * (1 - left),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),  # a function's address differs between processes
)
def test_round_trip(algorithm: type[PPO], strength: Any, tmp_path: Path) -> None:
    model = trained(algorithm, epsilon=strength, kappa=strength)
    again = reloaded(model, tmp_path)
    assert same(weights(again), weights(model))
    assert same(again.policy.optimizer.state_dict(), model.policy.optimizer.state_dict())
    np.testing.assert_array_equal(actions(again), actions(model))
    for progress in (1.0, 0.7, 0.35, 0.0):
        assert as_schedule(again.epsilon)(progress) == as_schedule(model.epsilon)(progress)
        assert as_schedule(again.kappa)(progress) == as_schedule(model.kappa)(progress)
    if not callable(strength):
        assert again.epsilon == again.kappa == strength


def test_round_trip_of_the_adversary(tmp_path: Path) -> None:
    adversary = Adversary(KL(), PGD(n_steps=3, restarts=2), L2Ball([1, 0, 2]))
    again = reloaded(trained(BARPO, epsilon=0.1, adversary=adversary), tmp_path)
    assert repr(again.adversary) == repr(again._adversary) == repr(adversary)


@BOTH
def test_a_loaded_model_trains_on_as_the_saved_one(algorithm: type[PPO], tmp_path: Path) -> None:
    """Its adversary starts with the seed again, so both models are loaded ones."""
    first, second = (reloaded(trained(algorithm, epsilon=0.1), tmp_path, env=make_envs()) for _ in range(2))
    for model in (first, second):
        model.set_random_seed(11)
        model.learn(64, reset_num_timesteps=False)
    assert same(weights(first), weights(second))
    assert first.num_timesteps == 128


def test_arguments_of_load_override(tmp_path: Path) -> None:
    again = reloaded(trained(BARPO), tmp_path, env=make_envs(), epsilon=0.3, kappa=Ramp(2.0), n_epochs=1)
    assert (again.epsilon, again.kappa) == (0.3, "ramp_2.0_0.75_0.0_1.0")
    book = learn(again, 32)
    assert book.column("adversary/epsilon") == [0.3]
    assert book.column("adversary/kappa") == [2.0]


def test_load_refuses_wrong_arguments(tmp_path: Path) -> None:
    model = trained(BARPO)
    with pytest.raises(ValueError, match="a strength is a finite number"):
        reloaded(model, tmp_path, epsilon=-1)


def test_one_algorithm_from_the_files_of_the_other(tmp_path: Path) -> None:
    arpo = reloaded(trained(BARPO), tmp_path, ARPO, env=make_envs(), kappa=None)
    assert arpo.kappa == ARPO.defence.loss.kappa
    assert repr(arpo._adversary) == repr(arpo.default_adversary())
    arpo.learn(32)


@BOTH
def test_ppo_loads_our_files(algorithm: type[PPO], tmp_path: Path) -> None:
    model = trained(algorithm, epsilon=0.1)
    ppo = reloaded(model, tmp_path, PPO, env=make_envs())
    assert type(ppo) is PPO
    np.testing.assert_array_equal(actions(ppo), actions(model))
    assert "train/loss" in learn(ppo, 32).dumps[-1]


@BOTH
def test_we_load_files_of_ppo(algorithm: type[PPO], tmp_path: Path) -> None:
    ppo = trained(PPO)
    model = reloaded(ppo, tmp_path, algorithm, env=make_envs(), epsilon=0.2)
    np.testing.assert_array_equal(actions(model), actions(ppo))
    assert model.kappa == algorithm.defence.loss.kappa
    assert learn(model, 32).column("adversary/epsilon") == [0.2]
    assert not np.array_equal(actions(model), actions(ppo))


@BOTH
def test_no_other_members_than_in_files_of_ppo(algorithm: type[PPO], tmp_path: Path) -> None:
    members = []
    for model in (trained(PPO), trained(algorithm, epsilon=0.1, kappa=Ramp(1.0))):
        model.save(tmp_path / "agent")
        with zipfile.ZipFile(tmp_path / "agent.zip") as file:
            members.append(sorted(file.namelist()))
    assert members[0] == members[1]


WITHOUT_US = """
import sys
sys.modules["sb3_barpo"] = None
import gymnasium as gym
import numpy as np
from stable_baselines3 import PPO
for name in ("arpo", "barpo"):
    model = PPO.load(name, device="cpu", env=gym.make("Pendulum-v1"))
    np.save(name, model.predict(np.load("observations.npy"), deterministic=True)[0])
    model.learn(32)
"""


def test_our_files_where_we_are_not_installed(tmp_path: Path) -> None:
    models = {"arpo": trained(ARPO, epsilon=Ramp(0.1)), "barpo": trained(BARPO, epsilon=Ramp(0.1), kappa=Ramp(1.0))}
    np.save(tmp_path / "observations.npy", OBSERVATIONS)
    for name, model in models.items():
        model.save(tmp_path / name)
    subprocess.run([sys.executable, "-c", WITHOUT_US], cwd=tmp_path, check=True, timeout=120)
    for name, model in models.items():
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), actions(model))


@BOTH
def test_parameters(algorithm: type[PPO]) -> None:
    one, other = trained(algorithm, epsilon=0.1), algorithm("MlpPolicy", make_envs(), **{**TINY, "seed": 4})
    assert one.get_parameters().keys() == {"policy", "policy.optimizer"}
    assert not np.array_equal(actions(one), actions(other))
    other.set_parameters(one.get_parameters())
    np.testing.assert_array_equal(actions(one), actions(other))
