"""Spec sheets in training: the adversary's ball through moving statistics, files, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecNormalize
from tracking import Tracking, tracking

from sb3_barpo import ARPO, ATLA, BARPO, CARPPO, RADIALPPO, SAPPO, ConvexSAPPO, RecurrentBARPO, WocaRPPO
from sb3_barpo.adversary import KL, SGLD, Adversary, L2Ball, LinfBall, Uniform
from sb3_barpo.attacks import VecAttackObservation
from sb3_barpo.evaluation.episodes import run_episodes
from sb3_barpo.sensors import Sensor, SensorFaults, SensorNoise, Sensors, VecSensorFaults, ball

SHEET = Sensors({1: Sensor(bound=0.6, noise=0.1, unit="m"), 2: Sensor(bound=0.05)})
SMALL: dict[str, Any] = {"n_steps": 32, "batch_size": 32, "n_epochs": 1, "seed": 0, "device": "cpu"}


def radii(venv: VecNormalize) -> list[float]:
    return [0, *(np.array([0.6, 0.05]) / np.sqrt(venv.obs_rms.var[1:] + venv.epsilon))]


@pytest.mark.parametrize(
    "algorithm", [BARPO, ARPO, SAPPO, CARPPO, ConvexSAPPO, RADIALPPO, WocaRPPO, ATLA, RecurrentBARPO]
)
def test_every_algorithm_stays_within_the_sheet(algorithm: type[BARPO]) -> None:
    venv = VecNormalize(tracking(2))
    policy = "MlpLstmPolicy" if algorithm is RecurrentBARPO else "MlpPolicy"
    model = algorithm(policy, venv, sensors=SHEET, **SMALL)
    assert model.epsilon == "ramp_1.0"
    ours, before = model._adversary.ball, model._adversary.ball.scale.copy()
    model.learn(128)
    assert model._adversary.ball is ours
    np.testing.assert_allclose(ours.scale, radii(venv), rtol=1e-6)
    assert (ours.scale[1:] != before[1:]).all()


def test_each_update_sees_the_statistics_of_its_rollout() -> None:
    venv = VecNormalize(tracking(2))
    seen: list[tuple[list[float], float, th.Tensor]] = []

    class Watched(Adversary):
        def search(self, policy: Any, observations: th.Tensor, epsilon: float, *args: Any) -> Any:
            found = super().search(policy, observations, epsilon, *args)
            seen.append((radii(venv), epsilon, found.delta.abs().amax(0)))
            return found

    model = BARPO("MlpPolicy", venv, 3e-4, epsilon=0.5, adversary=Watched(None, Uniform()), sensors=SHEET, **SMALL)
    model.learn(192)
    assert len({tuple(scale) for scale, _, _ in seen}) == 3
    for scale, epsilon, moved in seen:
        assert epsilon == 0.5
        assert moved[0] == 0
        assert (moved.numpy() <= 0.5 * np.array(scale) * (1 + 1e-5) + 1e-6).all()
        assert (moved.numpy()[1:] > 0.45 * np.array(scale)[1:]).all()


def test_the_same_as_with_the_ball_given() -> None:
    """Weights bit for bit, where the statistics do not move."""

    def weights(**settings: Any) -> dict[str, th.Tensor]:
        venv = VecNormalize(tracking(2), training=False)
        venv.obs_rms.var[:] = [1, 4, 0.01]
        return BARPO("MlpPolicy", venv, **settings, **SMALL).learn(64).policy.state_dict()

    venv = VecNormalize(tracking(2), training=False)
    venv.obs_rms.var[:] = [1, 4, 0.01]
    given = Adversary(KL(), BARPO.defence.solver, ball(SHEET, venv.observation_space, venv))
    first, second = weights(sensors=SHEET), weights(epsilon="ramp_1.0", adversary=given)
    assert all(th.equal(first[name], second[name]) for name in first)


def test_strength_zero_is_ppo_bit_for_bit() -> None:
    ours = BARPO("MlpPolicy", VecNormalize(tracking(2)), sensors=SHEET, epsilon=0, **SMALL).learn(128).policy
    theirs = PPO("MlpPolicy", VecNormalize(tracking(2)), **SMALL).learn(128).policy
    assert all(th.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())


def test_forms_of_a_sheet(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    SHEET.save(tmp_path / "sensors.yml")
    for form in (SHEET, SHEET.spec(), tmp_path / "sensors.yml", str(tmp_path / "sensors.yml")):
        model = BARPO("MlpPolicy", tracking(1), sensors=form, device="cpu")
        assert model.sensors == SHEET.spec()
        assert model._adversary.ball.scale.tolist() == pytest.approx([0, 0.6, 0.05])


def test_files_hold_the_sheet_as_data(tmp_path: Path) -> None:
    venv = VecNormalize(tracking(2))
    sheet = Sensors({1: Sensor(bound=np.float32(0.5), delay=np.int64(2)), "2:": Sensor(bound=0.05)})
    model = BARPO("MlpPolicy", venv, sensors=sheet, **SMALL).learn(64)
    model.save(tmp_path / "model")
    loaded = BARPO.load(tmp_path / "model", env=venv)
    assert Sensors.from_spec(loaded.sensors) == sheet
    np.testing.assert_array_equal(loaded._adversary.ball.scale, ball(sheet, venv.observation_space, venv).scale)
    assert BARPO.load(tmp_path / "model")._sheet == sheet  # without environments
    plain = PPO.load(tmp_path / "model", device="cpu")
    # Index 1 is a key of JSON, so a string.
    assert plain.sensors == {"sensors": {"1": {"bound": 0.5, "delay": 2}, "2:": {"bound": 0.05}}}
    other = BARPO.load(tmp_path / "model", env=venv, sensors=None, epsilon=0.1)
    assert repr(other._adversary.ball) == repr(LinfBall())


def test_training_sees_what_the_wrappers_report() -> None:
    """The same faults in a rollout through each environment, around all, around VecNormalize, and as an attack."""
    faulty = Sensors({0: Sensor(noise=0.3, bias=0.2, delay=2), 1: Sensor(drift=0.5, hold=0.3)})

    def rollout(venv: VecEnv) -> np.ndarray:
        model = BARPO("MlpPolicy", venv, epsilon=0.1, **{**SMALL, "seed": 5})
        model.learn(64)
        seen: np.ndarray = model.rollout_buffer.observations
        return seen

    seen = rollout(VecSensorFaults(make_vec_env(Tracking, 2), faulty))
    assert (seen != rollout(make_vec_env(Tracking, 2)))[:, :2].any(axis=0).all()
    np.testing.assert_array_equal(rollout(make_vec_env(lambda: SensorFaults(Tracking(), faulty), 2)), seen)
    blind = VecNormalize(make_vec_env(Tracking, 2), norm_obs=False)
    np.testing.assert_array_equal(rollout(VecSensorFaults(blind, faulty)), seen)
    noise = SensorNoise(PPO("MlpPolicy", tracking(2), device="cpu"), 1.0, faulty)
    np.testing.assert_array_equal(rollout(VecAttackObservation(make_vec_env(Tracking, 2), noise)), seen)


def test_a_memory_remembers_what_the_sensors_reported() -> None:
    """A recurrent agent in front of faulty sensors, and the same faults as an attack on it: the same returns."""
    sheet = Sensors({":": Sensor(noise=0.5, delay=1, dropout=0.2)})
    model = RecurrentPPO("MlpLstmPolicy", tracking(2), n_steps=32, seed=0, device="cpu").learn(64)
    sensed = run_episodes(model, None, VecSensorFaults(tracking(2), sheet), 6, 3, True)
    attacked = run_episodes(model, SensorNoise(model, 1.0, sheet), tracking(2), 6, 3, True)
    assert [episode[0] for episode in sensed] == [episode[0] for episode in attacked]
    assert sensed != run_episodes(model, None, tracking(2), 6, 3, True)


def test_sheets_that_are_refused() -> None:
    def make(env: Any = None, **settings: Any) -> None:
        BARPO("MlpPolicy", tracking(1) if env is None else env, device="cpu", **settings)

    for adversary in (Adversary(KL(), SGLD(), LinfBall([1, 2, 3])), Adversary(KL(), SGLD(), L2Ball())):
        with pytest.raises(ValueError, match="Both the sensors and the adversary say how far"):
            make(sensors=SHEET, adversary=adversary)
    with pytest.raises(TypeError, match=r"sensors must be a Sensors, a YAML file, or .* plain data, but it is 5"):
        make(sensors=5)
    with pytest.raises(ValueError, match=r"This is no spec sheet: it needs the entry `sensors`"):
        make(sensors={"z": {"bound": 1}})
    with pytest.raises(OSError, match=r"missing.yml"):
        make(sensors="missing.yml")
    with pytest.raises(ValueError, match=r"No sensor of the sheet has a bound"):
        make(sensors=Sensors({0: Sensor(noise=1)}))
    with pytest.raises(ValueError, match=r"7 is out of range: there are 3 values"):
        make(sensors=Sensors({7: Sensor(bound=1)}))
    with pytest.raises(ValueError, match=r"statistics of VecNormalize are of shape \(3,\)"):
        make(VecFrameStack(VecNormalize(tracking(1)), 2), sensors=SHEET)
