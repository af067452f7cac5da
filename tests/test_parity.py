"""At strength 0 ARPO and BARPO are the installed PPO, bit for bit: weights, optimiser and every logged value."""

from functools import cache
from typing import Any

import pytest
from helpers import TINY, LogBook, assert_same_training, learn, make_envs, same, weights
from stable_baselines3 import PPO

from sb3_barpo import ARPO, BARPO
from sb3_barpo.schedules import Constant, Ramp

N_STEPS = 33
UPDATES = 3
EPOCHS = 2

SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "target_kl": {"target_kl": 1e-4, "learning_rate": 3e-3},
    "clip_range_vf": {"clip_range_vf": 0.05},
    "raw_advantage": {"normalize_advantage": False},
    "entropy": {"ent_coef": 0.02, "vf_coef": 0.7, "max_grad_norm": 0.1},
    "truncated": {"batch_size": 16},  # a last minibatch of one sample, or of four with four environments
    "schedules": {"learning_rate": lambda left: 1e-3 * left, "clip_range": lambda left: 0.1 + 0.1 * left},
    "sde": {"use_sde": True, "sde_sample_freq": 4},
}
CROWDS = [(1, False), (4, True)]  # environments, and whether VecNormalize stands between
SCENES = [
    (env_id, setting, n_envs, normalized)
    for env_id in ("Pendulum-v1", "CartPole-v1")
    for setting in SETTINGS
    for n_envs, normalized in (CROWDS if setting != "default" else [*CROWDS, (1, True), (4, False)])
    if not (setting == "sde" and env_id == "CartPole-v1")
]

truncated_is_meant = pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")


def run(algorithm: type[PPO], scene: tuple[str, str, int, bool], **own: Any) -> tuple[PPO, LogBook]:
    """Three updates, out of ten that the schedules are told of."""
    env_id, setting, n_envs, normalized = scene
    rollout = N_STEPS * n_envs
    arguments = {**TINY, "n_steps": N_STEPS, "batch_size": 11 * n_envs, "n_epochs": EPOCHS, **SETTINGS[setting]}
    model = algorithm("MlpPolicy", make_envs(env_id, n_envs, normalized), **arguments, **own)

    def go_on(seen: dict[str, Any], _: dict[str, Any]) -> bool:
        return bool(seen["self"].num_timesteps <= UPDATES * rollout)

    return model, learn(model, 10 * rollout, callback=go_on)


@cache
def plain(scene: tuple[str, str, int, bool]) -> tuple[PPO, LogBook]:
    return run(PPO, scene)


def assert_is_ppo(algorithm: type[PPO], scene: tuple[str, str, int, bool], **own: Any) -> None:
    (ppo, ppo_book), (model, book) = plain(scene), run(algorithm, scene, **own)
    assert_same_training(model, book, ppo, ppo_book)
    assert len(ppo_book.dumps) == UPDATES + 1


@truncated_is_meant
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: "-".join(map(str, scene)))
def test_every_setting(scene: tuple[str, str, int, bool]) -> None:
    assert_is_ppo(BARPO, scene, epsilon=0)


@truncated_is_meant
@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
@pytest.mark.parametrize("setting", ["default", "target_kl", "truncated"])
def test_arpo(env_id: str, setting: str) -> None:
    assert_is_ppo(ARPO, (env_id, setting, 4, True), epsilon=0)


@pytest.mark.parametrize("algorithm", [ARPO, BARPO])
@pytest.mark.parametrize(
    "epsilon",
    [
        0.0,
        "constant_0",
        "ramp_0",
        {"kind": "linear", "initial": 0, "final": 0},
        Constant(0),
        Ramp(0.1, begin=0.9, end=1.0),
        lambda left: 0.0,
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),  # a function's address differs between processes
)
def test_every_way_to_write_zero(algorithm: type[PPO], epsilon: Any) -> None:
    assert_is_ppo(algorithm, ("Pendulum-v1", "default", 1, False), epsilon=epsilon)


@pytest.mark.parametrize("algorithm", [ARPO, BARPO])
@pytest.mark.parametrize("kappa", [0, 0.3, 1, 1e6, "ramp_5"])
def test_guidance_plays_no_part(algorithm: type[PPO], kappa: Any) -> None:
    assert_is_ppo(algorithm, ("CartPole-v1", "default", 4, False), epsilon=0, kappa=kappa)


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
@pytest.mark.parametrize("n_envs", [1, 4])
def test_target_kl_does_stop_early(env_id: str, n_envs: int) -> None:
    """Otherwise the comparison above would say nothing about early stopping."""
    _, book = plain((env_id, "target_kl", n_envs, False))
    assert 0 < book.column("train/n_updates")[-1] < UPDATES * EPOCHS


@pytest.mark.parametrize("algorithm", [ARPO, BARPO])
@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
def test_strength_makes_a_difference(algorithm: type[PPO], env_id: str) -> None:
    """The comparison can fail."""
    scene = (env_id, "default", 1, False)
    model, _ = run(algorithm, scene, epsilon=0.05, kappa=0)
    assert not same(weights(model), weights(plain(scene)[0]))


def test_the_early_stop_is_told_as_ppo_tells_it(capsys: pytest.CaptureFixture[str]) -> None:
    told = []
    for algorithm, own in ((PPO, {}), (BARPO, {"epsilon": 0})):
        model = algorithm("MlpPolicy", make_envs(), verbose=1, target_kl=1e-6, **TINY, **own)
        learn(model, 64)
        told.append(capsys.readouterr().out)
    assert "Early stopping" in told[0]
    assert told[0] == told[1]
