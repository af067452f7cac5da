"""The worst case of a sheet: its ball, and the ranking of its sensors."""

import numpy as np
import pandas as pd
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from tracking import HORIZON, normalized, tracker
from victims import Replay

from sb3_barpo.evaluation import SensorRanking, rank_sensors
from sb3_barpo.sensors import (
    Sensor,
    Sensors,
    ball,
    refresh,
)

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


def test_ball_of_a_region_of_an_image() -> None:
    """In pixels' values, however the image lies."""
    sheet = Sensors({"camera[0:2, 1]": Sensor(bound=8), "imu": Sensor(bound=0.5)})
    for shape in ((4, 5, 3), (3, 4, 5)):
        space = spaces.Dict({"camera": spaces.Box(0, 255, shape, np.uint8), "imu": spaces.Box(-9, 9, (2,))})
        scale = ball(sheet, space).scales["camera"]
        scale = scale if shape == (4, 5, 3) else scale.transpose(1, 2, 0)
        assert (scale[:2, 1] == 8).all()
        assert scale.sum() == 8 * 2 * 3
        ball(sheet, space).check(space)
