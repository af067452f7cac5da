"""Spec sheets: what they say, how they are stored, and which are refused."""

import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from sb3_barpo.sensors import FEATURES, Sensor, Sensors, as_sensors
from sb3_barpo.sensors.places import places
from sb3_barpo.sensors.units import unit_of

HOPPER = "Hopper-v5"
SPACE = spaces.Box(-np.inf, np.inf, (6,), np.float32)
DICT = spaces.Dict({"imu": spaces.Box(-1, 1, (2, 3)), "goal": spaces.Box(-1, 1, (2,)), "mode": spaces.Discrete(3)})


def lie(sheet: Sensors, space: spaces.Space) -> list[tuple[str, list[int]]]:
    return [(place.key, place.indices.tolist()) for place in places(sheet, space)]


def test_names_indices_and_slices() -> None:
    sheet = Sensors({"c": Sensor(), 0: Sensor(), -1: Sensor(), "3:5": Sensor()}, tuple("abcdef"))
    assert lie(sheet, SPACE) == [("", [2]), ("", [0]), ("", [5]), ("", [3, 4])]


def test_text_of_an_index_is_an_index() -> None:
    """JSON knows no numbers as keys."""
    assert Sensors({"3": Sensor(), "-1": Sensor()}) == Sensors({3: Sensor(), -1: Sensor()})
    with pytest.raises(ValueError, match=r"Each feature has one sensor, but some are named twice: \['0', 0\]"):
        Sensors({"0": Sensor(), 0: Sensor()})


def test_names_may_be_a_list() -> None:
    assert Sensors({"a": Sensor()}, ["a", "b"]) == Sensors({"a": Sensor()}, ("a", "b"))  # type: ignore[arg-type]


def test_keys() -> None:
    sheet = Sensors({"goal": Sensor(), "imu[0]": Sensor(), "imu[2:6:2]": Sensor()})
    assert lie(sheet, DICT) == [("goal", [0, 1]), ("imu", [0]), ("imu", [2, 4])]


def test_regions() -> None:
    sheet = Sensors({"imu[0, 1:]": Sensor(), "imu[1, -1]": Sensor()})
    assert lie(sheet, DICT) == [("imu", [1, 2]), ("imu", [5])]
    assert lie(Sensors({"[1, :]": Sensor()}), DICT["imu"]) == [("", [3, 4, 5])]


def test_images_count_rows_columns_channels() -> None:
    """However they lie: the same sensors see the same pixels in the same order."""
    image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    shapes = {(4, 5, 3): image, (3, 4, 5): image.transpose(2, 0, 1)}
    for feature, pixels in {
        "[1:3, 2]": image[1:3, 2].ravel(),
        "[0, :, 1]": image[0, :, 1],
        "7": image.ravel()[7:8],
        ":": image.ravel(),
    }.items():
        for shape, lying in shapes.items():
            (place,) = places(Sensors({feature: Sensor()}), spaces.Box(0, 255, shape, np.uint8))
            np.testing.assert_array_equal(lying.ravel()[place.indices], pixels)


@pytest.mark.parametrize("env_id", FEATURES)
def test_names_fit_the_tasks_of_mujoco(env_id: str) -> None:
    pytest.importorskip("mujoco")
    env = gym.make(env_id)
    assert env.observation_space.shape == (len(FEATURES[env_id]),)
    assert len(set(FEATURES[env_id])) == len(FEATURES[env_id])
    env.close()


def test_every_name_of_mujoco_has_its_unit() -> None:
    units = {name: unit_of(name) for names in FEATURES.values() for name in names}
    expected = {
        "z": "m", "torso_angle": "rad", "x_velocity": "m/s", "foot_angle_velocity": "rad/s", "orientation_w": "",
        "x_angular_velocity": "rad/s", "first_pole_sin": "", "cart_position": "m", "constraint_force": "N",
        "target_x": "m", "fingertip_to_target_y": "m", "object_z": "m", "left_knee_torque": "N m",
        "torso_force_y": "N", "torso_torque_x": "N m", "pelvis_angular_velocity_z": "rad/s", "pelvis_velocity_z": "m/s",
        "force_3_2": None, "torso_inertia_4": None, "hip_angle": "rad",
    }  # fmt: skip
    assert {name: unit_of(name) for name in expected} == expected
    unknown = {name for name, unit in units.items() if unit is None}
    assert all(name.startswith("force_") or "_inertia_" in name for name in unknown)


def test_units_of_known_tasks_are_converted() -> None:
    degree = np.pi / 180
    given = Sensor(0.5, 0.1, 0.2, 0.3, 0.4, 7, 2, 0.1, 0.2, 10, 0.05, -90, 90, "deg")
    sheet = Sensors(
        {"torso_angle": given, "8:": Sensor(bound=2, unit="deg/s"), "z": Sensor(bound=5, unit="mm")}, HOPPER
    )
    torso, rates, height = (place.sensor for place in places(sheet, spaces.Box(-np.inf, np.inf, (11,))))
    sizes = [0.5, 0.2, 0.3, 0.4, 10, 0.05, -90, 90]
    got = [torso.bound, torso.noise, torso.bias, torso.drift, torso.lost, torso.quantum, torso.low, torso.high]
    assert got == pytest.approx([degree * size for size in sizes])
    assert (torso.proportional, torso.drift_time, torso.delay, torso.hold, torso.dropout) == (0.1, 7, 2, 0.1, 0.2)
    assert rates.bound == pytest.approx(2 * degree)
    assert height.bound == pytest.approx(0.005)
    same = Sensors({"z": Sensor(bound=1, unit="m")}, HOPPER)
    assert places(same, spaces.Box(-np.inf, np.inf, (11,)))[0].sensor == Sensor(bound=1, unit="m")
    assert str(sheet) == "torso_angle ±0.5 deg ±10 %, 8: ±2 deg/s, z ±5 mm"  # reports keep the sheet's units


@pytest.mark.parametrize(
    ("feature", "unit", "task", "message"),
    [
        (
            "torso_angle",
            "m",
            "Hopper-v5",
            r"of 'torso_angle' is 'm', but Hopper-v5 observes rad there. Give it in rad",
        ),
        ("x_velocity", "m", "Hopper-v5", r"observes m/s there. Give it in m/s or cm/s or mm/s"),
        ("x_velocity", "deg/s", "Hopper-v5", r"observes m/s there"),
        ("z", "feet", "Hopper-v5", r"observes m there. Give it in m or cm or mm"),
        ("first_pole_sin", "rad", "InvertedDoublePendulum-v5", r"observes plain numbers there. Give it without a unit"),
        ("4:6", "rad", "Hopper-v5", r"observes m/s and rad there. Give each its own sensor"),
    ],
)
def test_units_that_do_not_fit(feature: str, unit: str, task: str, message: str) -> None:
    space = spaces.Box(-np.inf, np.inf, (len(FEATURES[task]),))
    with pytest.raises(ValueError, match=message):
        places(Sensors({feature: Sensor(bound=1, unit=unit)}, task), space)


def test_names_are_where_mujoco_has_them() -> None:
    """Positions, then velocities, of the same joints in the same order; the first positions are left out."""
    pytest.importorskip("mujoco")
    joints = {
        "Hopper-v5": {"thigh_joint": "thigh_angle", "foot_joint": "foot_angle", "rooty": "torso_angle"},
        "Walker2d-v5": {"leg_left_joint": "left_leg_angle", "foot_joint": "foot_angle"},
        "HalfCheetah-v5": {"bshin": "back_shin_angle", "ffoot": "front_foot_angle"},
        "Ant-v5": {"hip_4": "back_right_hip_angle", "ankle_1": "front_left_ankle_angle"},
        "InvertedPendulum-v5": {"hinge": "pole_angle"},
        "Swimmer-v5": {"motor2_rot": "second_rotor_angle"},
        "Pusher-v5": {"r_wrist_roll_joint": "wrist_roll_angle", "r_elbow_flex_joint": "elbow_flex_angle"},
        "Humanoid-v5": {
            "abdomen_x": "abdomen_x_angle",
            "left_knee": "left_knee_angle",
            "left_elbow": "left_elbow_angle",
        },
    }
    for env_id, named in joints.items():
        env = gym.make(env_id)
        model = env.unwrapped.model
        skipped = getattr(env.unwrapped, "observation_structure", {}).get("skipped_qpos", 0)
        for joint, feature in named.items():
            name = FEATURES[env_id]
            assert name.index(feature) == model.joint(joint).qposadr[0] - skipped
            velocity = name.index(f"{feature}_velocity")
            n_positions = model.nq - skipped if env_id != "Pusher-v5" else 7  # the arm's alone
            assert velocity == n_positions + model.joint(joint).dofadr[0]
        env.close()


def test_names_of_bodies_are_where_mujoco_has_them() -> None:
    """Humanoid's 13 bodies, without the world, after 22 positions and 23 velocities."""
    pytest.importorskip("mujoco")
    model, names = gym.make("Humanoid-v5").unwrapped.model, FEATURES["Humanoid-v5"]
    for name, body in (("torso", "torso"), ("lower_waist", "lwaist"), ("left_foot", "left_foot")):
        place = model.body(body).id - 1
        assert names.index(f"{name}_inertia_3") == 45 + 10 * place + 3
        assert names.index(f"{name}_velocity_y") == 45 + 130 + 6 * place + 4
        assert names.index(f"{name}_force_x") == 45 + 130 + 78 + 17 + 6 * place + 3
    assert names.index("left_elbow_torque") == 45 + 130 + 78 + model.joint("left_elbow").dofadr[0] - 6


def test_file_round_trip(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    sheet = Sensors(
        {
            "torso_angle": Sensor(bound=0.0035, delay=2, unit="rad"),
            7: Sensor(low=-8, high=8),
            "8:11": Sensor(hold=0.001),
        },
        "Hopper-v5",
    )
    sheet.save(tmp_path / "sheet.yml")
    assert Sensors.load(tmp_path / "sheet.yml") == sheet
    named = Sensors({"a": Sensor(noise=1)}, ("a", "b"))
    named.save(tmp_path / "sheet.yml")
    assert Sensors.load(tmp_path / "sheet.yml") == named


def test_plain_data_round_trip() -> None:
    sheet = Sensors({"z": Sensor(bound=np.float32(0.5), delay=np.int64(2), unit="m")}, "Hopper-v5")
    assert sheet.spec() == {"features": "Hopper-v5", "sensors": {"z": {"bound": 0.5, "delay": 2, "unit": "m"}}}
    assert as_sensors(json.loads(json.dumps(sheet.spec()))) == sheet
    assert as_sensors(sheet) is sheet


def test_share_of_the_sheet() -> None:
    sensor = Sensor(
        bound=2, proportional=0.1, noise=4, bias=1, drift=6, delay=4, hold=0.2, dropout=0.6, quantum=0.5, low=-9
    )
    half = Sensor(1, 0.05, 2, 0.5, 3, delay=2, hold=0.1, dropout=0.3, quantum=0.25, low=-9)
    assert sensor.at(0.5) == half
    assert sensor.at(1) == sensor
    assert sensor.at(2).dropout == 1
    assert Sensors({0: sensor}).at(0).sensors[0] == Sensor()
    with pytest.raises(ValueError, match=r"strength must be finite and at least 0, but it is -1"):
        sensor.at(-1)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"bound": -1}, ValueError, r"bound must be finite and at least 0, but it is -1"),
        ({"noise": np.nan}, ValueError, r"noise must be finite"),
        ({"noise": "0.2 deg"}, TypeError, r"noise must be a number, but it is '0.2 deg'"),
        ({"bias": True}, TypeError, r"bias must be a number, but it is True"),
        ({"delay": 1.5}, TypeError, r"delay must be a whole number of steps, but it is 1.5"),
        ({"delay": -1}, ValueError, r"delay must be finite and at least 0"),
        ({"unit": 3}, TypeError, r"unit must be a string"),
        ({"dropout": 1.5}, ValueError, r"dropout is a probability, from 0 to 1, but it is 1.5"),
        ({"drift_time": 0}, ValueError, r"drift_time must be above 0"),
        ({"lost": np.inf}, ValueError, r"lost must be finite"),
        ({"low": 1, "high": 1}, ValueError, r"low must be below its high, but they are 1 and 1"),
    ],
)
def test_sensor_refuses(settings: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Sensor(**settings)


@pytest.mark.parametrize(
    ("sensors", "features", "error", "message"),
    [
        ({}, (), ValueError, r"names at least one sensor"),
        ({1.5: Sensor()}, (), TypeError, r"a name, an index or a slice such as '2:5', but this one is 1.5"),
        ({0: {"bound": 1}}, (), TypeError, r"under 0 must be a Sensor"),
        ({0: Sensor()}, "Hopper-v2", ValueError, r"no names of features for 'Hopper-v2'. Known are Hopper-v5"),
        ({0: Sensor()}, ("a", "a"), ValueError, r"must be different strings"),
        ({0: Sensor()}, ("a", "1"), ValueError, r"must be different strings, and no numbers, but they are"),
    ],
)
def test_sheet_refuses(sensors: dict, features: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Sensors(sensors, features)


@pytest.mark.parametrize(
    ("sheet", "space", "error", "message"),
    [
        (Sensors({"z": Sensor()}, tuple("abcdef")), SPACE, ValueError, r"Unknown feature 'z'. They are a, b"),
        (Sensors({"z": Sensor()}), SPACE, ValueError, r"Unknown feature 'z'. The sheet names none"),
        (Sensors({"z": Sensor()}), DICT, ValueError, r"Unknown feature 'z'. The keys are"),
        (Sensors({0: Sensor()}), DICT, ValueError, r"Unknown feature 0. The keys are"),
        (Sensors({"imu[x]": Sensor()}), DICT, ValueError, r"neither an index nor a slice"),
        (Sensors({6: Sensor()}), SPACE, ValueError, r"6 is out of range: there are 6 values"),
        (Sensors({"4:7": Sensor()}), SPACE, ValueError, r"must select some of the 6 values and none beyond"),
        (Sensors({"3:3": Sensor()}), SPACE, ValueError, r"must select some of the 6 values"),
        (Sensors({"1:3": Sensor(), 2: Sensor()}), SPACE, ValueError, r"'1:3' and 2 both measure value 2\. "),
        (Sensors({"imu": Sensor(), "imu[1]": Sensor()}), DICT, ValueError, r"both measure value 1 of 'imu'"),
        (Sensors({0: Sensor()}, ("a", "b")), SPACE, ValueError, r"names 2 features, but the observations are"),
        (Sensors({"mode": Sensor()}), DICT, TypeError, r"Sensors measure numbers, but what 'mode' measures"),
        (Sensors({0: Sensor()}), spaces.MultiBinary(4), TypeError, r"Sensors measure numbers"),
        (Sensors({"imu[0, 0, 0]": Sensor()}), DICT, ValueError, r"a region of 3 axes, but there are 2"),
        (Sensors({"[0, 0]": Sensor()}), SPACE, ValueError, r"a region of 2 axes, but there are 1"),
        (Sensors({"imu[0:3, 0]": Sensor()}), DICT, ValueError, r"some of the 2 values and none beyond"),
        (Sensors({"imu[0, 3]": Sensor()}), DICT, ValueError, r"out of range: there are 3 values"),
    ],
)
def test_places_refuse(sheet: Sensors, space: spaces.Space, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        places(sheet, space)


def test_only() -> None:
    sheet = Sensors({0: Sensor(noise=1), 1: Sensor(noise=2)})
    assert sheet.only(1) == Sensors({1: Sensor(noise=2)})
    with pytest.raises(ValueError, match=r"no sensor 2\. It has 0, 1"):
        sheet.only(2)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("a: [", ValueError, "is no YAML"),
        ("- 1", ValueError, "needs the entry `sensors`"),
        ("sensors: {0: {noise: 1}}\nsensor: 1", ValueError, "'sensor'"),
        ("sensors: {0: 5}", ValueError, "sensor 0 has 5 for settings"),
        ("sensors: {0: {nose: 1}}", ValueError, "sensor 0 has the setting 'nose'. A sensor's settings are bound,"),
        ("sensors: {tip: {noise: 1 rad}}", TypeError, "The sensor 'tip': A sensor's noise must be a number"),
        ("features: 5\nsensors: {0: {noise: 1}}", TypeError, "`features` must be"),
    ],
)
def test_file_refuses(tmp_path: Path, text: str, error: type[Exception], message: str) -> None:
    pytest.importorskip("yaml")
    (tmp_path / "bad.yml").write_text(text)
    with pytest.raises(error, match=message):
        Sensors.load(tmp_path / "bad.yml")
