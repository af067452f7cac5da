"""What learned attacks refuse, and what they say then."""

import json
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from helpers import Still, make_envs
from learned import EPSILON, STEPS, answers, build, by_policy, clean, fit, learned
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from victims import victim

from sb3_barpo.adversary import LinfBall
from sb3_barpo.attacks import (
    PAAD,
    SARL,
    AttackObservation,
    LearnedAttack,
    Random,
    RobustSarsa,
    SarsaMAD,
    VecAttackObservation,
)

fitted = cache(fit)


@pytest.fixture
def stored(tmp_path: Path) -> Callable[[Any], Path]:
    """Writes the file of a fitted attack."""

    def store(kind: Any) -> Path:
        fitted(kind).save(tmp_path / kind.name)
        return tmp_path / kind.name

    return store


# --- before the fit


@learned
@pytest.mark.parametrize(
    "use",
    [
        lambda attack: attack.perturb(clean()),
        lambda attack: attack.at(0.0).perturb(clean()),
        lambda attack: attack.save("never.zip"),
        lambda attack: attack.check_victim(victim()),
        lambda attack: attack.check_fitted(),
    ],
    ids=["perturb", "perturb at strength 0", "save", "check_victim", "check_fitted"],
)
def test_not_fitted(kind: Any, use: Callable[[LearnedAttack], Any]) -> None:
    match = (
        rf"{kind.__name__} must learn before it can attack: call fit\(.*or load .*{kind.__name__}.load\(path, model\)"
    )
    with pytest.raises(ValueError, match=match):
        use(build(kind))


def test_mad_mixed_with_a_sarsa_that_is_not_fitted() -> None:
    with pytest.raises(ValueError, match="RobustSarsa must learn before it can attack"):
        SarsaMAD.from_sarsa(build(RobustSarsa))


# --- settings


@pytest.mark.parametrize("kind", [RobustSarsa, SarsaMAD])
@pytest.mark.parametrize("setting", ["sarsa_epsilon", "regularization"])
@pytest.mark.parametrize("value", [-0.1, np.inf, np.nan])
def test_a_regulariser_out_of_range(kind: Any, setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{setting} must be finite and at least 0, but it is {value}"):
        build(kind, **{setting: value})


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("learning_rate", 0),
        ("learning_rate", np.inf),
        ("learning_rate", np.nan),
        ("gamma", 1),
        ("gamma", -0.1),
        ("n_epochs", 0),
        ("batch_size", 0),
    ],
)
def test_sarsa_settings_out_of_range(setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"Sarsa needs a learning_rate above 0, gamma in .*{setting}={value}"):
        build(RobustSarsa, **{setting: value})


@pytest.mark.parametrize("rho", [-1e-3, 1.1, np.nan])
def test_share_of_mad_out_of_range(rho: float) -> None:
    with pytest.raises(
        ValueError, match=rf"rho must lie between 0 \(Sarsa alone\) and 1 \(MAD alone\), but it is {rho}"
    ):
        build(SarsaMAD, rho=rho)


@pytest.mark.parametrize("space", [spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2)], ids=["discrete", "binary"])
@pytest.mark.parametrize("kind", [RobustSarsa, SarsaMAD])
def test_sarsa_on_actions_that_have_no_action_value(kind: Any, space: spaces.Space[Any]) -> None:
    model = PPO("MlpPolicy", Still(spaces.Box(-1.0, 1.0, (4,)), space), device="cpu")
    with pytest.raises(TypeError, match="An action value needs Box or Discrete actions, but the action space is Multi"):
        build(kind, model)


@by_policy
@pytest.mark.parametrize("algorithm", ["PPO", Random, victim(), None], ids=["name", "attack", "object", "none"])
def test_an_algorithm_that_is_none(kind: Any, algorithm: Any) -> None:
    with pytest.raises(TypeError, match="The adversary's algorithm must be a class of SB3 or sb3-contrib, not "):
        kind(victim(), EPSILON, algorithm)


@by_policy
def test_an_algorithm_with_memory(kind: Any) -> None:
    attack = build(kind, algorithm=RecurrentPPO, policy="MlpLstmPolicy")
    with pytest.raises(TypeError, match="RecurrentPPO keeps a memory between steps, which an attack cannot carry"):
        attack.fit(make_envs(), STEPS)
    assert attack.origin is None


@learned
def test_a_ball_of_another_shape(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"have the observation's shape \(3,\), but its shape is \(2,\)"):
        build(kind, ball=LinfBall([1.0, 2.0]))


def test_an_actor_without_steps() -> None:
    with pytest.raises(ValueError, match="PGD's n_steps is 0"):
        build(PAAD, actor_steps=0)


# --- the fit


@learned
@pytest.mark.parametrize("total_timesteps", [0, -1, 1.5, True])
def test_a_number_of_steps_that_is_none(kind: Any, total_timesteps: Any) -> None:
    with pytest.raises(
        ValueError, match=f"total_timesteps must be a whole number, at least 1, but it is {total_timesteps}"
    ):
        build(kind).fit(make_envs(), total_timesteps)


@learned
def test_nothing_to_learn_at_strength_0(kind: Any) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__} has nothing to learn at epsilon = 0"):
        build(kind, epsilon=0).fit(make_envs(), STEPS)


@learned
def test_environments_under_attack_already(kind: Any) -> None:
    other = Random(victim(), 0.1)
    one = DummyVecEnv([lambda: AttackObservation(gym.make("Pendulum-v1"), other)])
    for venv in (VecAttackObservation(make_envs(), other), one, VecNormalize(VecAttackObservation(make_envs(), other))):
        with pytest.raises(ValueError, match="The environment must not be under attack already"):
            build(kind).fit(venv, STEPS)


@learned
def test_environments_of_other_spaces(kind: Any) -> None:
    with pytest.raises(ValueError, match="The environment's observation_space must be the model's, but it is"):
        build(kind).fit(make_envs("CartPole-v1"), STEPS)
    smaller = DummyVecEnv([lambda: gym.wrappers.RescaleAction(gym.make("Pendulum-v1"), np.float32(-1), np.float32(1))])
    with pytest.raises(ValueError, match="The environment's action_space must be the model's, but it is"):
        build(kind).fit(smaller, STEPS)


# --- the victim


def another_victim() -> OnPolicyAlgorithm:
    return victim(seed=1)


@learned
def test_another_victim(kind: Any, stored: Callable[[Any], Path]) -> None:
    attack = fitted(kind)
    attack.check_victim(victim())
    match = f"{kind.__name__} was fitted on another victim, or before this one learned more. .* set transfer=True"
    with pytest.raises(ValueError, match=match):
        attack.check_victim(another_victim())
    with pytest.raises(ValueError, match=match):
        kind.load(stored(kind), another_victim())
    transferred = kind.load(stored(kind), another_victim(), transfer=True)
    transferred.check_victim(another_victim(), make_envs(normalized=True))
    assert transferred.model is another_victim()
    assert 0 < np.abs(answers(transferred) - clean()).max() <= EPSILON + 1e-6


def test_a_victim_that_learned_more() -> None:
    model = PPO("MlpPolicy", make_envs(), n_steps=16, batch_size=16, n_epochs=1, device="cpu")
    attack = fit(SARL, model)
    model.learn(16)
    with pytest.raises(ValueError, match="or before this one learned more"):
        attack.check_victim(model)


@learned
def test_other_statistics_of_the_observations(kind: Any) -> None:
    venv, other = make_envs(normalized=True), make_envs(normalized=True)
    assert isinstance(other, VecNormalize)
    other.training = False
    attack = build(kind).fit(venv, STEPS)
    venv.training = False  # the reset below must leave the statistics
    venv.reset()
    attack.check_victim(victim(), venv)
    other.obs_rms.mean = other.obs_rms.mean + 1e-3
    for wrong in (other, make_envs()):
        with pytest.raises(ValueError, match=f"{kind.__name__} was fitted under other statistics of VecNormalize"):
            attack.check_victim(victim(), wrong)
    with pytest.raises(ValueError, match="was fitted under other statistics of VecNormalize"):
        fitted(kind).check_victim(victim(), venv)
    unscaled = VecNormalize(make_envs(), norm_obs=False)  # what scales rewards alone is of no account
    fitted(kind).check_victim(victim(), unscaled)


# --- files


def edited(path: Path, **changes: Any) -> Path:
    """A copy whose record says something else."""
    with zipfile.ZipFile(path) as archive:
        record, weights = json.loads(archive.read("attack.json")), archive.read("weights")
    with zipfile.ZipFile(path.with_suffix(".edited"), "w") as archive:
        archive.writestr("attack.json", json.dumps(record | changes))
        archive.writestr("weights", weights)
    return path.with_suffix(".edited")


@learned
def test_a_file_that_is_no_attack(kind: Any, tmp_path: Path) -> None:
    text, model, garbled = tmp_path / "text.zip", tmp_path / "model.zip", tmp_path / "garbled.zip"
    text.write_text("no zip")
    victim().save(model)
    with zipfile.ZipFile(garbled, "w") as archive:
        archive.writestr("attack.json", "no JSON")
    older = tmp_path / "older.zip"
    with zipfile.ZipFile(older, "w") as archive:
        archive.writestr("attack.json", '{"attack": "sarl"}')
        archive.writestr("weights", b"")
    for path in (text, model, garbled, older):
        with pytest.raises(ValueError, match=rf"'.*{path.name}' is no stored attack \(.*\)\. Give the file"):
            kind.load(path, victim())


@learned
def test_a_file_that_is_not_there(kind: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.zip"):
        kind.load(tmp_path / "nowhere.zip", victim())


@pytest.mark.parametrize(("kind", "wanted"), [(SARL, PAAD), (PAAD, RobustSarsa), (RobustSarsa, SarsaMAD)])
def test_a_file_of_another_kind(kind: Any, wanted: Any, stored: Callable[[Any], Path]) -> None:
    with pytest.raises(ValueError, match=f"holds the attack '{kind.name}', not {wanted.__name__}. Load it by its own"):
        wanted.load(stored(kind), victim())


def test_a_file_of_an_unknown_kind(stored: Callable[[Any], Path]) -> None:
    with pytest.raises(ValueError, match="holds the attack 'hypnosis', not LearnedAttack"):
        LearnedAttack.load(edited(stored(SARL), attack="hypnosis"), victim())


@by_policy
def test_an_algorithm_that_is_not_installed(kind: Any, stored: Callable[[Any], Path]) -> None:
    path = edited(stored(kind), settings={"algorithm": "no_such_package.Algorithm"})
    with pytest.raises(ValueError, match=r"trained by no_such_package\.Algorithm, which is not installed here"):
        kind.load(path, victim())


@learned
@pytest.mark.parametrize("transfer", [False, True])
def test_a_file_of_other_spaces(kind: Any, transfer: bool, stored: Callable[[Any], Path]) -> None:
    """Also where the features of observation and action are as many together: 3 and 1, or 2 and 2."""
    alike = PPO("MlpPolicy", Still(spaces.Box(-1.0, 1.0, (2,)), spaces.Discrete(2)), device="cpu")
    for model in (victim("CartPole-v1"), alike):
        with pytest.raises(ValueError, match=r"was fitted on a victim with observations Box.*, but this one has"):
            kind.load(stored(kind), model, transfer=transfer)


@learned
def test_a_ball_that_cannot_be_stored(kind: Any, tmp_path: Path) -> None:
    class Lopsided(LinfBall):
        pass

    attack = fit(kind, ball=Lopsided())
    with pytest.raises(
        TypeError, match=r"Only attacks with LinfBall or L2Ball can be stored, but the ball is Lopsided\("
    ):
        attack.save(tmp_path / "attack.zip")
    assert not (tmp_path / "attack.zip").exists()
