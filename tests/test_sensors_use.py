"""Sheets in use: wrappers, the attack, the ball and the ranking."""

import pickle
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecCheckNan, VecNormalize, VecTransposeImage
from tracking import HORIZON, Tracking, normalized, tracker, tracking
from victims import Replay, linear_victim

from sb3_barpo.attacks import AttackObservation, UnderAttack, VecAttackObservation
from sb3_barpo.sensors import (
    Sensor,
    SensorFaults,
    SensorNoise,
    Sensors,
    VecSensorFaults,
)

FULL = Sensor(1, 0.1, 0.5, 0.2, 0.3, 5, 2, 0.1, 0.05, -1, 0.01, -9, 9)
SHEET = Sensors({0: FULL, "1:3": Sensor(noise=0.1, delay=1)})


def rollout(venv: DummyVecEnv, n_steps: int = 25) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """All observations of three episodes, and the last ones of episodes."""
    venv.seed(5)
    seen, last = [venv.reset()], []
    for _ in range(n_steps):
        observations, _, dones, infos = venv.step(np.zeros((venv.num_envs, 2)))
        seen.append(observations)
        last += [infos[i]["terminal_observation"] for i in np.flatnonzero(dones)]
    return seen, last


def test_both_wrappers_give_the_same_numbers() -> None:
    inside = make_vec_env(lambda: SensorFaults(Tracking(), SHEET), 3)
    outside = VecSensorFaults(make_vec_env(Tracking, 3), SHEET)
    for ours, theirs in zip(rollout(inside), rollout(outside), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert len(rollout(outside)[1]) == 6
    clean = rollout(make_vec_env(Tracking, 3))
    assert not np.any(np.array(clean[0])[:, :, 0] == np.array(rollout(outside)[0])[:, :, 0])
    # Environments draw what they draw without sensors: a delay of 1 shows it.
    delay = VecSensorFaults(make_vec_env(Tracking, 3), Sensors({":": Sensor(delay=1)}))
    np.testing.assert_array_equal(np.array(rollout(delay)[0])[1:10], np.array(clean[0])[:9])


def test_numbers_do_not_depend_on_the_number_of_environments() -> None:
    few, many = (np.array(rollout(VecSensorFaults(make_vec_env(Tracking, n), SHEET))[0]) for n in (2, 4))
    np.testing.assert_array_equal(few, many[:, :2])


def test_strength_zero_changes_no_bit() -> None:
    clean = rollout(make_vec_env(Tracking, 2))
    for venv in (
        VecSensorFaults(make_vec_env(Tracking, 2), SHEET, strength=0),
        make_vec_env(lambda: SensorFaults(Tracking(), SHEET, strength=0), 2),
    ):
        for ours, theirs in zip(rollout(venv), clean, strict=True):
            assert np.array(ours).tobytes() == np.array(theirs).tobytes()


def test_strength_is_a_share_of_the_sheet() -> None:
    half = rollout(VecSensorFaults(make_vec_env(Tracking, 2), SHEET, strength=0.5))
    sheet = rollout(VecSensorFaults(make_vec_env(Tracking, 2), SHEET.at(0.5)))
    np.testing.assert_array_equal(half[0], sheet[0])


def test_wrapper_of_one_environment() -> None:
    env = SensorFaults(Tracking(), SHEET)
    first, again, other = (env.reset(seed=seed)[0] for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
    assert (env.reset()[0] != again).any()  # goes on without a seed


def test_sheets_from_files(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    SHEET.save(tmp_path / "sheet.yml")
    expected = rollout(VecSensorFaults(make_vec_env(Tracking, 2), SHEET))
    assert pickle.loads(pickle.dumps(SHEET)) == SHEET
    venv = make_vec_env(
        Tracking, 2, wrapper_class=SensorFaults, wrapper_kwargs={"sensors": str(tmp_path / "sheet.yml")}
    )
    np.testing.assert_array_equal(rollout(venv)[0], expected[0])


def test_dict_observations() -> None:
    space = spaces.Dict({"imu": spaces.Box(-9, 9, (2,)), "goal": spaces.Box(-9, 9, (2,))})
    shown = [{"imu": np.full(2, t, np.float32), "goal": np.full(2, t, np.float32)} for t in range(4)]
    venv = VecSensorFaults(DummyVecEnv([lambda: Replay(shown, space)]), Sensors({"imu[1]": Sensor(delay=1)}))
    seen = [venv.reset(), *(venv.step(np.zeros((1, 1)))[0] for _ in range(2))]
    assert [step["imu"][0].tolist() for step in seen] == [[0, 0], [1, 0], [2, 1]]
    assert [step["goal"][0].tolist() for step in seen] == [[0, 0], [1, 1], [2, 2]]


def test_sensors_need_raw_observations() -> None:
    with pytest.raises(ValueError, match=r"which VecCheckNan hides: these are normalised already"):
        VecSensorFaults(VecCheckNan(normalized()), SHEET)


def test_around_the_normalisation_its_statistics_are_those_of_the_truth() -> None:
    """The same readings as inside, normalised by the true observations' statistics as they move."""
    inside = rollout(VecSensorFaults(make_vec_env(Tracking, 3), SHEET))[0]
    truth, around = VecNormalize(make_vec_env(Tracking, 3)), VecNormalize(make_vec_env(Tracking, 3))
    sensed = VecSensorFaults(around, SHEET)
    seen: list[np.ndarray] = []
    for venv in (truth, sensed):
        venv.seed(5)
        venv.reset()
    for read in inside[1:]:
        truth.step(np.zeros((3, 2)))
        observations, _, dones, infos = sensed.step(np.zeros((3, 2)))
        np.testing.assert_array_equal(around.obs_rms.mean, truth.obs_rms.mean)
        np.testing.assert_array_equal(observations, around.normalize_obs(read))
        seen += [infos[i]["terminal_observation"] for i in np.flatnonzero(dones)]
    assert len(seen) == 6


def test_around_the_normalisation_last_observations_pass_the_sensors_too() -> None:
    sheet = Sensors({":": Sensor(delay=1)})
    around = VecNormalize(make_vec_env(Tracking, 1), training=False)
    sensed = VecSensorFaults(around, sheet)
    sensed.seed(0)
    sensed.reset()
    for _ in range(HORIZON):
        before = around.get_original_obs()
        _, _, dones, infos = sensed.step(np.zeros((1, 2)))
    assert dones.all()
    np.testing.assert_allclose(around.unnormalize_obs(infos[0]["terminal_observation"]), before[0], rtol=1e-5)


def test_training_around_the_normalisation_at_strength_zero_is_plain_training() -> None:
    def trained(sensors: bool) -> dict:
        venv = VecNormalize(make_vec_env(Tracking, 2, seed=0))
        seen = VecSensorFaults(venv, SHEET, strength=0) if sensors else venv
        model = PPO("MlpPolicy", seen, n_steps=32, batch_size=32, n_epochs=2, seed=0, device="cpu")
        return model.learn(64).policy.state_dict()

    first, again = trained(True), trained(False)
    assert all((value == again[name]).all() for name, value in first.items())


def test_images() -> None:
    """Whole pixels within their range, the same before and after the channels are moved."""
    space = spaces.Box(0, 255, (4, 5, 3), np.uint8)
    shown = [np.full((4, 5, 3), 100 + t, np.uint8) for t in range(6)]
    sheet = Sensors({"[0:2, 1:4]": Sensor(noise=30.0), "[3, :]": Sensor(bias=400.0)})
    seen = []
    for moved in (False, True):
        venv = DummyVecEnv([lambda: Replay(shown, space)])
        venv = VecSensorFaults(VecTransposeImage(venv) if moved else venv, sheet)
        venv.seed(3)
        read = [venv.reset()[0], *(venv.step(np.zeros((1, 1)))[0][0] for _ in range(4))]
        seen.append(np.array([one.transpose(1, 2, 0) if moved else one for one in read]))
    np.testing.assert_array_equal(*seen)
    assert seen[0].dtype == np.uint8
    clean = np.array(shown[:5])
    touched = seen[0] != clean
    assert not touched[:, 2].any()
    assert not touched[:, :2, [0, 4]].any()
    assert touched[:, :2, 1:4].mean() > 0.9
    assert set(np.unique(seen[0][:, 3])) & {0, 255}


def test_training_with_faults_is_seeded() -> None:
    def trained() -> dict:
        venv = VecNormalize(
            make_vec_env(Tracking, 2, seed=0, wrapper_class=SensorFaults, wrapper_kwargs={"sensors": SHEET})
        )
        model = PPO("MlpPolicy", venv, n_steps=32, batch_size=32, n_epochs=2, seed=0, device="cpu")
        return model.learn(64).policy.state_dict()

    first, again = trained(), trained()
    assert all((value == again[name]).all() for name, value in first.items())


# --- the attack


def test_attack_is_the_same_fault_through_all_wrappers() -> None:
    sheet = Sensors({0: Sensor(noise=0.3), 2: Sensor(quantum=0.25)})
    venv = normalized(1)
    model = tracker(venv)
    attack = SensorNoise(model, 1.0, sheet, venv)
    results = []
    venv.seed(3)
    vec = VecAttackObservation(venv, attack)
    vec.seed(3)
    results.append(venv.unnormalize_obs(vec.reset())[0])
    env = AttackObservation(Monitor(Tracking()), attack, venv)
    results.append(env.reset(seed=3)[0])
    venv.seed(3)
    clean = venv.reset()
    attack.seed(3)
    shown = []
    victim = UnderAttack(model, attack, venv)
    model_predict = model.predict
    model.predict = lambda seen, *args: (shown.append(seen), model_predict(seen, *args))[1]
    victim.predict(clean)
    results.append(venv.unnormalize_obs(shown[0])[0])
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5)
    np.testing.assert_allclose(results[0], results[2], rtol=1e-5)
    assert results[0][2] * 4 == pytest.approx(np.round(results[0][2] * 4), abs=1e-4)
    assert abs(results[0] - venv.get_original_obs()[0])[[0, 2]].min() > 0
    assert results[0][1] == pytest.approx(venv.get_original_obs()[0][1], rel=1e-6)


def test_attack_has_the_noise_of_the_sheet_in_its_units() -> None:
    venv = normalized()
    attack = SensorNoise(tracker(venv), 0.5, Sensors({1: Sensor(noise=0.4)}), venv, seed=0)
    clean = np.zeros((4000, 3), np.float32)
    perturbed = attack.perturb(clean)
    moved = (perturbed - clean) * np.sqrt(venv.obs_rms.var + venv.epsilon)
    assert moved[:, 1].std() == pytest.approx(0.2, rel=0.05)
    assert perturbed[:, [0, 2]].tobytes() == clean[:, [0, 2]].tobytes()
    attack.seed(0)
    np.testing.assert_array_equal(attack.perturb(clean), perturbed)
    assert attack.at(0).perturb(clean) is clean
    moved = (attack.at(1).perturb(clean) - clean) * np.sqrt(venv.obs_rms.var + venv.epsilon)
    assert moved[:, 1].std() == pytest.approx(0.4, rel=0.05)


@pytest.mark.parametrize("sheet", [SHEET, SHEET.at(0.5)])
def test_attack_reads_what_the_sensors_of_the_environments_read(sheet: Sensors) -> None:
    """Through all episodes: bias, drift, delay and hold start anew with each, in every wrapper."""
    model = PPO("MlpPolicy", tracking(3), device="cpu")
    expected, _ = rollout(VecSensorFaults(make_vec_env(Tracking, 3), sheet))
    attacked, _ = rollout(VecAttackObservation(make_vec_env(Tracking, 3), SensorNoise(model, 1.0, sheet)))
    np.testing.assert_array_equal(attacked, expected)

    env = AttackObservation(Tracking(), SensorNoise(model, 1.0, sheet))
    seen = [env.reset(seed=5)[0]]
    for _ in range(25):
        observation, _, _, done, _ = env.step(np.zeros(2))
        seen.append(env.reset()[0] if done else observation)
    np.testing.assert_array_equal(np.array(seen), np.array(expected)[:, 0])

    shown: list[np.ndarray] = []
    model.predict = lambda seen, *args: (shown.append(seen), (np.zeros((3, 2)), None))[1]
    victim = UnderAttack(model, SensorNoise(model, 1.0, sheet, seed=5))
    venv = make_vec_env(Tracking, 3)
    venv.seed(5)
    observations, starts = venv.reset(), np.ones(3, dtype=bool)
    for _ in range(26):
        victim.predict(observations, episode_start=starts)
        observations, _, starts, _ = venv.step(np.zeros((3, 2)))
    np.testing.assert_array_equal(shown, expected)


def test_attack_without_word_of_episodes_goes_on() -> None:
    attack = SensorNoise(linear_victim([1.0, 1.0]), 1.0, Sensors({0: Sensor(bias=1), 1: Sensor(delay=1)}), seed=0)
    clean = [np.full((2, 2), t, np.float32) for t in range(4)]
    seen = [attack.perturb(row) - [t, 0] for t, row in enumerate(clean)]
    assert [step[:, 1].tolist() for step in seen] == [[0, 0], [0, 0], [1, 1], [2, 2]]
    np.testing.assert_allclose([step[:, 0] for step in seen], [seen[0][:, 0]] * 4, atol=1e-6)
    attack.begin(np.array([False, True]))
    again = attack.perturb(clean[0])
    assert again[0, 0] == pytest.approx(seen[0][0, 0], abs=1e-6)
    assert again[1, 0] != pytest.approx(seen[0][1, 0], abs=1e-3)
    assert again[:, 1].tolist() == [3, 0]
    assert attack.perturb(clean[2][:1])[0, 1] == 2  # a batch of another size starts anew


def test_wrapper_is_in_the_spec() -> None:
    gym.register("Tracking-v0", Tracking, additional_wrappers=())
    try:
        env = SensorFaults(gym.make("Tracking-v0"), SHEET)
        rebuilt = gym.make(env.spec)
        np.testing.assert_array_equal(rebuilt.reset(seed=1)[0], env.reset(seed=1)[0])
    finally:
        gym.registry.pop("Tracking-v0")
