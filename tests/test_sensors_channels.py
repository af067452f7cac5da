"""The report across channels: costs against closed forms, and models of MuJoCo left as they were."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from tracking import HORIZON, normalized, tracker

from sb3_barpo.evaluation import evaluate_channels
from sb3_barpo.evaluation.channels import scaled


def test_costs_are_those_of_the_closed_forms() -> None:
    """The agent's error is that of one sensor: a step costs its variance. Values are drawn anew at each step."""
    venv = normalized()
    variance, own = float(venv.obs_rms.var[1]), 3.0  # of the statistics, and of the uniform law on an interval of 6
    sizes = {"noise": [0.1], "drift": [0.1], "delay": [1], "hold": [0.2], "dropout": [0.1], "action_noise": [0.001]}
    frame = evaluate_channels(tracker(venv), venv, sizes, n_eval_episodes=80).set_index("channel")
    assert frame.loc["natural", "return"] == pytest.approx(0, abs=1e-8)
    expected = {
        "noise": HORIZON * 0.01 * variance,
        "drift": HORIZON * 0.01 * variance,
        "delay": (HORIZON - 1) * 2 * own,
        "dropout": HORIZON * 0.1 * own,
        "action_noise": HORIZON * 0.1**2,
    }
    for channel, cost in expected.items():
        assert abs(frame.loc[channel, "loss"] - cost) < 4 * frame.loc[channel, "standard_error"], channel
        assert frame.loc[channel, "standard_error"] < 0.3 * cost
    # A reading is held at each step but the first, with probability 0.2; what was held before is as far away.
    hold = frame.loc["hold"]
    assert abs(hold["loss"] - (HORIZON - 1) * 0.2 * 2 * own) < 4 * hold["standard_error"]


def test_report_is_seeded() -> None:
    venv = normalized()
    first, again = (
        evaluate_channels(tracker(venv), venv, {"noise": [0.1, 0.2], "action_noise": [0.0, 0.1]}, 6) for _ in range(2)
    )
    assert first.equals(again)
    assert first.loc[3, "loss"] == 0  # action noise of size 0
    assert first.loc[1, "loss"] < first.loc[2, "loss"]


def test_mass_and_friction() -> None:
    mujoco = pytest.importorskip("mujoco")
    assert mujoco
    venv = make_vec_env("InvertedPendulum-v5", 2, seed=0)
    model = PPO("MlpPolicy", venv, device="cpu", seed=0)
    physics = venv.envs[0].unwrapped.model
    before = {name: getattr(physics, name).copy() for name in ("body_mass", "body_inertia", "dof_invweight0")}

    def check_and_stop() -> None:
        np.testing.assert_array_equal(physics.body_mass, 2 * before["body_mass"])
        np.testing.assert_array_equal(physics.body_inertia, 2 * before["body_inertia"])
        assert (physics.dof_invweight0 < before["dof_invweight0"]).all()
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), scaled(venv, "mass", 2.0):
        check_and_stop()
    for name, value in before.items():
        np.testing.assert_array_equal(getattr(physics, name), value)
    frame = evaluate_channels(model, venv, {"mass": [1.0, 3.0], "friction": [1.0]}, 4)
    assert frame["loss"].tolist()[::3] == [0, 0]
    assert frame.loc[1, "loss"] == 0


def test_refusals() -> None:
    venv = normalized()
    model = tracker(venv)
    for channels, message in (
        ({"nose": [1]}, "Unknown channel 'nose'. Choose from noise,"),
        ({"delay": [1.5]}, "A delay is a whole number of steps, but it is 1.5"),
        ({"mass": [2]}, "'mass' needs environments of Gymnasium's MuJoCo"),
        ({"friction": [0]}, "factor of friction must be finite and above 0, but it is 0"),
        ({"action_noise": [-1]}, "action noise must be finite and at least 0, but it is -1"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate_channels(model, venv, channels, 1)
    discrete = PPO("MlpPolicy", gym.make("CartPole-v1"), device="cpu")
    with pytest.raises(ValueError, match="has no finite range"):
        evaluate_channels(discrete, discrete.get_env(), {"action_noise": [0.1]}, 1)


def test_keys_need_a_sheet() -> None:
    from sb3_barpo.evaluation.channels import _sheet

    with pytest.raises(TypeError, match="need a Box"):
        _sheet(spaces.Dict({"imu": spaces.Box(-1, 1, (2,))}), None, "noise", 0.1)
