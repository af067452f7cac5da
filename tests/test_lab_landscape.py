"""Landscapes of trained agents: on a linear system, whose returns are known for every linear controller."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch as th
from helpers import make_envs
from linear_system import COST, DRIFT, HORIZON, PUSH, controller, returns_of, systems
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize

from sb3_barpo.agents.load import LoadedAgent
from sb3_barpo.evaluation import evaluate_robustness
from sb3_barpo.lab import landscape as module
from sb3_barpo.lab.landscape import landscape

EPISODES = 8


def agent(name: str, *gain: float) -> LoadedAgent:
    model = controller()
    with th.no_grad():
        model.policy.action_net.weight.copy_(-th.diag(th.tensor(gain)))
    return LoadedAgent(name, model, systems(EPISODES))


START, END, OTHER = agent("start", 0.0, 0.8), agent("end", 0.5, 0.8), agent("other", 0.25, 0.3)
SETTINGS = {"attacks": ["mad"], "epsilon": 0.1, "points": 3, "margin": 0.0, "n_eval_episodes": EPISODES}


def episodes_starts() -> np.ndarray:
    venv = systems(EPISODES)
    venv.seed(10_000)
    venv.reset()
    return np.array(venv.get_attr("state"))


def natural(gain: np.ndarray) -> float:
    """The mean return of the controller with this gain."""
    powers = (DRIFT - PUSH * gain) ** np.arange(1, HORIZON + 1)[:, None, None]
    return float(-((powers * episodes_starts()) ** 2 @ COST).sum(0).mean())


def test_natural_returns_are_those_of_the_controllers_on_the_plane():
    found = landscape(START, END, OTHER, **SETTINGS)
    # From (0, 0.8), 0.5 to the right is 1; the other end is 0.25 to the right and 0.5 down.
    assert list(found.marks.values()) == [(0, 0), (1, 0), (pytest.approx(0.5), pytest.approx(1.0))]
    assert len(found.frame) == 9
    for row in found.frame.itertuples():
        expected = natural(np.array([0.5 * row.x, 0.8 - 0.5 * row.y]))
        assert row.natural == pytest.approx(expected, rel=1e-4)
        assert row.worst_case <= row.natural


def test_at_a_mark_the_returns_are_those_of_its_agent():
    found = landscape(START, END, OTHER, **SETTINGS).frame
    at_end = found[(found["x"] == 1) & (found["y"].abs() < 1e-9)].iloc[0]
    report = evaluate_robustness(END.model, END.venv, ["mad"], 0.1, EPISODES, 10_000, warn=False)
    assert at_end["natural"] == pytest.approx(report.natural, rel=1e-5)
    assert at_end["worst_case"] == pytest.approx(report.worst_case, rel=1e-5)
    # The worst perturbations of this one are known.
    assert returns_of(episodes_starts(), 0.1).mean() <= at_end["worst_case"] < at_end["natural"]


def test_points_are_stored_at_once_and_found_again(tmp_path, monkeypatch):
    whole = landscape(START, END, OTHER, **SETTINGS)
    calls = []

    def stop(*args):
        calls.append(args)
        if len(calls) > 4:
            raise KeyboardInterrupt
        return measure(*args)

    measure = module._measure
    monkeypatch.setattr(module, "_measure", stop)
    with pytest.raises(KeyboardInterrupt):
        landscape(START, END, OTHER, **SETTINGS, folder=tmp_path)
    assert sorted(path.name for path in tmp_path.glob("[0-9].json")) == ["0.json", "1.json", "2.json", "3.json"]
    monkeypatch.setattr(module, "_measure", lambda *args: calls.append(args) or measure(*args))
    resumed = landscape(START, END, OTHER, **SETTINGS, folder=tmp_path)
    assert len(calls) == 5 + 5
    assert resumed.frame.equals(whole.frame)
    with pytest.raises(ValueError, match=r"holds the landscape of other agents or settings\. Name another folder"):
        landscape(START, END, OTHER, **{**SETTINGS, "epsilon": 0.2}, folder=tmp_path)


def test_statistics_of_observations_belong_to_the_agents():
    def normalized(mean: float, variance: float, shift: float) -> LoadedAgent:
        venv = VecNormalize(make_envs(), training=False, norm_reward=False)
        venv.obs_rms.mean, venv.obs_rms.var = np.full(3, mean), np.full(3, variance)
        model = PPO("MlpPolicy", venv, seed=0, device="cpu")
        with th.no_grad():
            model.policy.action_net.bias += shift
        return LoadedAgent("one", model, venv)

    agents = [normalized(0.0, 1.0, 0.0), normalized(1.0, 4.0, 0.0), normalized(0.0, 1.0, 1.0)]
    start, right, up, _ = module._plane(*(module._read(one.model, one.venv) for one in agents))
    model, venv = agents[0].model, agents[0].venv
    module._write(model, venv, {name: start[name] + 0.5 * right[name] + 0 * up[name] for name in start})
    assert venv.obs_rms.mean == pytest.approx(np.full(3, 0.5))
    assert venv.obs_rms.var == pytest.approx(np.full(3, 2.0))
    assert venv.normalize_obs(np.full((1, 3), 0.5)) == pytest.approx(np.zeros((1, 3)))
    assert module._names(*agents) == ["start: one", "end: one", "other end: one"]


def test_the_agents_stay_as_they_are():
    before = copy.deepcopy(START.model.policy.state_dict())
    landscape(START, END, OTHER, **{**SETTINGS, "points": 2})
    assert all(th.equal(value, before[name]) for name, value in START.model.policy.state_dict().items())


def test_the_picture_shows_both_returns_and_all_agents(tmp_path: Path):
    pytest.importorskip("matplotlib")
    figure = landscape(START, END, OTHER, **{**SETTINGS, "points": 2}).plot(tmp_path / "picture.png")
    assert [axes.get_title() for axes in figure.axes[:2]] == ["natural return", "worst-case return"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["start", "end", "other"]
    assert (tmp_path / "picture.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"attacks": ["mad", "sarl"]}, "these are learned: sarl"),
        ({"points": 1}, "points must be at least 2, but it is 1"),
        ({"margin": -0.1}, "margin must be at least 0, but it is -0.1"),
        ({"n_eval_episodes": 0}, "n_eval_episodes must be at least 1"),
        ({"other": START}, "The three agents lie on a line"),
        ({"end": START}, "or two are the same"),
        ({"other": LoadedAgent("wide", PPO("MlpPolicy", systems(1), device="cpu"), systems(1))}, "of one architecture"),
    ],
)
def test_bad_settings_are_refused(changed, match):
    with pytest.raises(ValueError, match=match):
        landscape(**{"start": START, "end": END, "other": OTHER, **SETTINGS, **changed})
