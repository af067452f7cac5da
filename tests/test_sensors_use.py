"""Sheets in use: wrappers, the attack, the ball and the ranking."""

import pickle
from pathlib import Path

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from tracking import HORIZON, Tracking, normalized, tracker, tracking
from victims import Replay, linear_victim

from sb3_barpo.attacks import AttackObservation, UnderAttack, VecAttackObservation
from sb3_barpo.evaluation import SensorRanking, rank_sensors
from sb3_barpo.sensors import (
    Sensor,
    SensorFaults,
    SensorNoise,
    Sensors,
    VecSensorFaults,
    ball,
    refresh,
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


def test_sensors_go_inside_the_normalisation() -> None:
    with pytest.raises(ValueError, match=r"normalised already. Put the sensors inside: VecNormalize\("):
        VecSensorFaults(normalized(), SHEET)


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


# --- the ball

UNIT = spaces.Box(-np.inf, np.inf, (3,), np.float64)


def test_ball_is_bound_over_deviation() -> None:
    venv = normalized()
    around = ball(Sensors({1: Sensor(bound=0.6), 2: Sensor(noise=1)}), venv.observation_space, venv)
    expected = [0, 0.6 / np.sqrt(venv.obs_rms.var[1] + venv.epsilon), 0]
    np.testing.assert_allclose(around.scale, expected, rtol=1e-6)
    venv.norm_obs = False
    assert ball(Sensors({1: Sensor(bound=0.6)}), UNIT, venv).scale.tolist() == pytest.approx([0, 0.6, 0])


def test_ball_of_proportional_errors() -> None:
    sheet = Sensors({0: Sensor(bound=0.5, proportional=0.1, low=-2, high=4), 1: Sensor(proportional=0.1)})
    box = spaces.Box(np.array([-9, -3.0]), np.array([9, 1.0]), dtype=np.float64)
    assert ball(sheet, box).scale.tolist() == pytest.approx([0.9, 0.3])
    with pytest.raises(ValueError, match="proportional error of 0 has no worst case"):
        ball(Sensors({0: Sensor(proportional=0.1)}), UNIT)


def test_ball_of_keys() -> None:
    space = spaces.Dict({"imu": spaces.Box(-9, 9, (2, 2)), "goal": spaces.Box(-9, 9, (2,))})
    shown = [{"imu": np.full((2, 2), t, np.float32), "goal": np.full(2, t, np.float32)} for t in range(4)]
    venv = VecNormalize(DummyVecEnv([lambda: Replay(shown, space)]), norm_obs_keys=["imu"])
    venv.obs_rms["imu"].var[:] = 4
    around = ball(Sensors({"imu[1]": Sensor(bound=1), "goal": Sensor(bound=0.5)}), space, venv)
    assert {key: scale.tolist() for key, scale in around.scales.items()} == {
        "imu": [[0, pytest.approx(0.5)], [0, 0]],
        "goal": [0.5, 0.5],
    }
    around.check(space)


def test_ball_refuses() -> None:
    with pytest.raises(ValueError, match="No sensor of the sheet has a bound"):
        ball(Sensors({0: Sensor(noise=1)}), UNIT)
    with pytest.raises(ValueError, match="The statistics of VecNormalize are of shape"):
        ball(Sensors({0: Sensor(bound=1)}), spaces.Box(-1, 1, (2,)), normalized())


def test_ball_follows_statistics() -> None:
    venv, sheet = normalized(), Sensors({1: Sensor(bound=0.6)})
    around = ball(sheet, venv.observation_space, venv)
    venv.obs_rms.var[:] = 9
    refresh(around, sheet, venv.observation_space, venv)
    assert around.scale.tolist() == pytest.approx([0, 0.2, 0])


# --- the ranking


def test_ranking_finds_the_planted_sensor() -> None:
    """The agent looks at two values, of which one matters. Its worst case costs the bound's square a step."""
    venv = normalized()
    sheet = Sensors(
        {"ignored": Sensor(bound=0.5, unit="V"), "planted": Sensor(bound=0.2, unit="m"), "idle": Sensor(bound=0.5)},
        ("ignored", "planted", "idle"),
    )
    ranking = rank_sensors(tracker(venv), venv, sheet, strengths=(0.5, 1.0), n_eval_episodes=6)
    assert ranking.sensors[0] == "planted"
    rows = ranking.frame.set_index(["sensor", "strength"])
    assert ranking.natural == pytest.approx(0, abs=1e-8)
    for strength in (0.5, 1.0):
        cost = HORIZON * (0.2 * strength) ** 2
        assert rows.loc[("planted", strength), "return"] == pytest.approx(-cost, rel=1e-3)
        assert rows.loc[("planted", strength), "error"] == 0.2 * strength
        assert rows.loc[("all sensors", strength), "loss"] == pytest.approx(cost, rel=1e-3)
        for harmless in ("ignored", "idle"):
            assert rows.loc[(harmless, strength), "loss"] == pytest.approx(0, abs=1e-6)
    assert rows.loc[("planted", 1.0), "unit"] == "m"
    assert "±0.2 m" in ranking.to_markdown()


def test_tolerated_errors() -> None:
    columns = ["sensor", "unit", "strength", "error", "return", "standard_error", "loss"]
    rows = [("a", "m", s, 2 * s, 100 - loss, 1.0, loss) for s, loss in ((0.5, 5), (1.0, 50), (2.0, 9))]
    rows += [("b", "V", s, s, 100 - loss, 1.0, loss) for s, loss in ((0.5, 20), (1.0, 60), (2.0, 70))]
    tolerated = SensorRanking(pd.DataFrame(rows, columns=columns), 100.0).tolerated(0.1)
    assert tolerated.to_dict("records") == [
        {"sensor": "b", "unit": "V", "tolerated": 0.0, "tried": 2.0},
        {"sensor": "a", "unit": "m", "tolerated": 1.0, "tried": 4.0},
    ]


def test_picture_of_a_ranking() -> None:
    pytest.importorskip("matplotlib")
    venv = normalized()
    sheet = Sensors({"planted": Sensor(bound=0.2, unit="m")}, ("ignored", "planted", "idle"))
    axes = rank_sensors(tracker(venv), venv, sheet, n_eval_episodes=2).plot().axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["planted   ±0.2 m", "all sensors"]


def test_ranking_refuses() -> None:
    venv = normalized()
    with pytest.raises(ValueError, match="strengths must be above 0"):
        rank_sensors(tracker(venv), venv, Sensors({0: Sensor(bound=1)}), strengths=0.0)


def test_wrapper_is_in_the_spec() -> None:
    gym.register("Tracking-v0", Tracking, additional_wrappers=())
    try:
        env = SensorFaults(gym.make("Tracking-v0"), SHEET)
        rebuilt = gym.make(env.spec)
        np.testing.assert_array_equal(rebuilt.reset(seed=1)[0], env.reset(seed=1)[0])
    finally:
        gym.registry.pop("Tracking-v0")
