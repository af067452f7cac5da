"""Each fault against its definition: values, moments, correlations and rates."""

import numpy as np
import pytest
from gymnasium import spaces

from sb3_barpo.sensors import Faults, Sensor, Sensors

BOX = spaces.Box(-np.inf, np.inf, (1,), np.float64)


def episode(sensor: Sensor, values: np.ndarray, seed: int = 0, space: spaces.Box = BOX) -> np.ndarray:
    """Readings of values of shape ``(T, n)``, from an episode's start."""
    faults = Faults(Sensors({":": sensor}), space)
    faults.seed(seed)
    return np.array([faults.read(value, start=t == 0) for t, value in enumerate(values)])


def episodes(sensor: Sensor, n_steps: int, n_features: int = 4000, value: float = 0.0) -> np.ndarray:
    """Readings of a constant, shape ``(n_steps, n_features)``: the features of one sensor are independent."""
    space = spaces.Box(-np.inf, np.inf, (n_features,), np.float64)
    return episode(sensor, np.full((n_steps, n_features), value), space=space)


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def test_noise_is_white_and_gaussian() -> None:
    errors = episodes(Sensor(noise=0.3), 10)
    assert errors.mean() == pytest.approx(0, abs=0.3 * 4 / np.sqrt(errors.size))
    assert errors.std() == pytest.approx(0.3, rel=0.02)
    assert ((errors / errors.std()) ** 4).mean() == pytest.approx(3, abs=0.1)
    assert correlation(errors[:-1], errors[1:]) == pytest.approx(0, abs=4 / np.sqrt(errors.size))


def test_bias_stays_for_an_episode() -> None:
    errors = episodes(Sensor(bias=0.5), 5)
    assert (errors == errors[0]).all()
    assert errors[0].std() == pytest.approx(0.5, rel=0.05)
    faults = Faults(Sensors({0: Sensor(bias=0.5)}), BOX)
    faults.seed(0)
    drawn = [faults.read(np.zeros(1), start=True)[0] for _ in range(100)]
    assert len(set(drawn)) == 100


def test_gain_is_uniform_and_stays_for_an_episode() -> None:
    gains = episodes(Sensor(proportional=0.1), 5, value=2.0) / 2
    assert (gains == gains[0]).all()
    assert gains.min() == pytest.approx(0.9, abs=1e-3)
    assert gains.max() == pytest.approx(1.1, abs=1e-3)
    assert gains[0].std() == pytest.approx(0.1 / np.sqrt(3), rel=0.05)


@pytest.mark.parametrize("time", [2.0, 20.0])
def test_drift_is_stationary_and_forgets_with_its_time(time: float) -> None:
    errors = episodes(Sensor(drift=0.2, drift_time=time), 41)
    assert errors[0].std() == pytest.approx(0.2, rel=0.05)
    assert errors[-1].std() == pytest.approx(0.2, rel=0.05)
    for lag in (1, 10, 40):
        assert correlation(errors[0], errors[lag]) == pytest.approx(np.exp(-lag / time), abs=0.06)


def test_delay() -> None:
    values = np.arange(6.0)[:, None] + 10
    assert episode(Sensor(delay=2), values)[:, 0].tolist() == [10, 10, 10, 11, 12, 13]


def test_delays_differ_by_sensor_and_start_anew_with_an_episode() -> None:
    space = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    faults = Faults(Sensors({0: Sensor(delay=1), 1: Sensor(delay=3), 2: Sensor(noise=1).at(0)}), space)
    seen = [faults.read(np.full(3, float(t)), start=t in (0, 5)).tolist() for t in range(9)]
    assert [row[0] for row in seen] == [0, 0, 1, 2, 3, 5, 5, 6, 7]
    assert [row[1] for row in seen] == [0, 0, 0, 0, 1, 5, 5, 5, 5]
    assert [row[2] for row in seen] == list(range(9))


def test_dropout_rate_and_value() -> None:
    seen = episode(Sensor(dropout=0.05, lost=-7), np.arange(20_000.0)[:, None])[:, 0]
    lost = seen == -7
    assert lost.mean() == pytest.approx(0.05, abs=4 * np.sqrt(0.05 * 0.95 / 20_000))
    assert (seen[~lost] == np.arange(20_000.0)[~lost]).all()


def test_hold_repeats_the_last_reading() -> None:
    seen = episode(Sensor(hold=0.3), np.arange(20_000.0)[:, None])[:, 0]
    held = np.diff(seen) == 0
    assert seen[0] == 0
    assert held.mean() == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / 20_000))
    assert (seen[1:][~held] == np.arange(1.0, 20_000.0)[~held]).all()
    assert correlation(held[:-1].astype(float), held[1:].astype(float)) == pytest.approx(0, abs=0.03)
    assert episode(Sensor(hold=1), np.arange(9.0)[:, None])[:, 0].tolist() == [0] * 9


def test_a_held_reading_may_be_the_lost_one() -> None:
    seen = episode(Sensor(hold=0.5, dropout=0.5, lost=-7), np.arange(1, 5001.0)[:, None])[:, 0]
    # A Markov chain: lost with 1/2; else the last one with 1/2; else new.
    assert (seen == -7).mean() == pytest.approx(2 / 3, abs=0.04)


def test_all_values_of_a_sensor_are_lost_together() -> None:
    values = np.random.default_rng(0).uniform(1, 2, (500, 3))
    space = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    faults = Faults(Sensors({"0:2": Sensor(dropout=0.3), 2: Sensor(dropout=0.3)}), space)
    faults.seed(0)
    lost = np.array([faults.read(value, start=t == 0) for t, value in enumerate(values)]) == 0
    assert (lost[:, 0] == lost[:, 1]).all()
    assert correlation(lost[:, 0].astype(float), lost[:, 2].astype(float)) == pytest.approx(0, abs=0.18)


def test_quantisation_and_saturation() -> None:
    values = np.array([[-3.0], [-0.13], [0.12], [0.37], [3.0]])
    assert episode(Sensor(quantum=0.25), values)[:, 0].tolist() == [-3, -0.25, 0, 0.25, 3]
    assert episode(Sensor(low=-1, high=0.3), values)[:, 0].tolist() == [-1, -0.13, 0.12, 0.3, 0.3]
    spread = np.random.default_rng(0).uniform(-5, 5, (20_000, 1))
    error = episode(Sensor(quantum=0.1), spread) - spread
    assert np.abs(error).max() <= 0.05 + 1e-12
    assert error.std() == pytest.approx(0.1 / np.sqrt(12), rel=0.02)


def test_independent_faults_add_their_variances() -> None:
    errors = episodes(Sensor(noise=0.3, bias=0.4, drift=1.2), 3)
    assert errors[-1].std() == pytest.approx(1.3, rel=0.05)


def test_seeds() -> None:
    sensor, values = Sensor(noise=1, bias=1, hold=0.2), np.zeros((20, 1))
    assert (episode(sensor, values, 1) == episode(sensor, values, 1)).all()
    assert (episode(sensor, values, 1) != episode(sensor, values, 2)).any()


def test_numbers_are_those_of_no_environment() -> None:
    """An environment's own generator, seeded alike, must not move with the sensors' noise."""
    noise = episode(Sensor(noise=1), np.zeros((200, 1)), seed=3)[:, 0]
    own = np.random.default_rng(3).standard_normal(1000)
    assert not np.isin(noise, own).any()


def test_shares_have_the_same_random_numbers() -> None:
    sensor = Sensor(noise=1, bias=1, drift=1)
    whole, half = (episode(sensor.at(strength), np.zeros((20, 1))) for strength in (1, 0.5))
    np.testing.assert_allclose(half, whole / 2, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_strength_zero_changes_no_bit(dtype: type) -> None:
    space = spaces.Box(-1, 1, (3, 2), dtype)
    sensor = Sensor(1, 1, 1, 1, 1, 5, 3, 0.5, 0.5, 1, 1, -0.1, 0.1)
    faults = Faults(Sensors({"1:5": sensor}).at(0), space)
    space.seed(0)
    values = [space.sample() for _ in range(20)] + [np.full((3, 2), -0.0, dtype), np.full((3, 2), 5, dtype)]
    for t, value in enumerate(values):
        read = faults.read(value, start=t % 7 == 0)
        assert read.dtype == dtype
        assert read.tobytes() == value.tobytes()


def test_unnamed_values_and_keys_stay_as_they_are() -> None:
    space = spaces.Dict({"imu": spaces.Box(-9, 9, (3,)), "goal": spaces.Box(-9, 9, (2,)), "mode": spaces.Discrete(3)})
    clean = {"imu": np.ones(3, np.float32), "goal": np.ones(2, np.float32), "mode": 2}
    read = Faults(Sensors({"imu[1]": Sensor(noise=1)}), space).read(clean, start=True)
    assert (read["imu"] == clean["imu"]).tolist() == [True, False, True]
    assert read["imu"].dtype == np.float32
    assert read["goal"].tolist() == [1, 1]
    assert read["mode"] == 2
    assert clean["imu"].tolist() == [1, 1, 1]


def test_readings_keep_the_bounds_of_the_space() -> None:
    space = spaces.Box(-1, 1, (1,), np.float64)
    seen = episode(Sensor(noise=5), np.array([[0.5]] * 50 + [[1.5]] * 50), space=space)
    assert seen[:50].min() == -1
    assert seen[:50].max() == 1
    assert seen[50:].max() == 1.5  # the value itself lies outside
