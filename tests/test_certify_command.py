"""The command `certify`: agents in, certificates beside attacks out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from brief import BRIEF
from gymnasium import spaces
from helpers import Still, make_envs
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv
from test_evaluate import agents  # noqa: F401
from victims import victim

from sb3_barpo.agents.load import LoadedAgent
from sb3_barpo.certify import CertifiedChoice, CertifiedMean, certify_actions
from sb3_barpo.cli import main
from sb3_barpo.evaluation.certification import Smoothing, attacked_actions, certify, visited
from sb3_barpo.evaluation.certified_pages import page

COMMON = ["--env", BRIEF, "--n-envs", "10", "--states", "50", "--epsilon", "0.05", "0.2"]


def pole(name: str = "pole") -> LoadedAgent:
    return LoadedAgent(name, victim("CartPole-v1"), make_envs("CartPole-v1", n_envs=4), env_id="CartPole-v1")


def test_one_command_writes_what_it_says(
    agents: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = [
        "--return",
        "--sigma",
        "0.3",
        "--episodes",
        "60",
        "--attacks",
        "random",
        "mad",
        "push",
        "--attacked-episodes",
        "4",
    ]
    paths = [str(agents / name) for name in ("one", "two")]
    main(["certify", *paths, *COMMON, *options, "--radius", "0", "0.1", "9", "--output", str(tmp_path)])
    content = json.loads((tmp_path / "certificates.json").read_text())
    assert content["kind"] == "shift"
    rows = content["actions"]
    assert [(row["agent"], row["epsilon"]) for row in rows] == [
        (name, epsilon) for name in ("one", "two") for epsilon in (0.05, 0.2)
    ]
    for row in rows:
        assert 0 < row["attacked"] <= row["certified"] <= row["intervals"]
    returns = content["returns"]
    assert len(returns) == 2 * 3 * 2
    for row in returns:
        if row["radius"] == 9:
            assert row["certified"] is None  # 60 episodes say nothing of so large a budget
        else:
            assert row["certified"] <= 0
            assert row["attack"] in ("random", "mad", "push")
            assert row["epsilon"] == pytest.approx(row["radius"] / np.sqrt(20 * 3))
    written, printed = (tmp_path / "report.md").read_text(), capsys.readouterr().out
    for text in ("| one     |", "| two     |", "0.05", "certified"):
        assert text in written
        assert text in printed
    assert "sb3-barpo certify" in written
    assert (tmp_path / "certificates.png").stat().st_size > 10_000


def test_discrete_actions_have_shares_and_radii(tmp_path: Path) -> None:
    found = certify([pole()], [0.01, 0.1, 1.0], output=tmp_path, n_states=60, seed=0)
    assert found.kind == "share"
    shares = [row.certified for row in found.actions]
    assert shares == sorted(shares, reverse=True)
    for row in found.actions:
        assert row.intervals <= row.certified <= row.attacked
    states = visited(pole().model, pole().venv, 60, 0)
    by_hand = certify_actions(pole().model, states, 0.1, venv=pole().venv)
    assert isinstance(by_hand, CertifiedChoice)
    assert found.actions[1].certified == by_hand.share
    assert found.actions[1].radius == np.median(by_hand.radius)
    text = page(found)
    assert "certified ε" in text
    assert f"{100 * shares[0]:.1f} %" in text
    assert "Returns" not in text


def test_visited_states_are_those_of_natural_episodes() -> None:
    """What the policy sees from the seed on, each once, and the same again."""
    model, venv = victim(), make_vec_env(BRIEF, 2)
    states = visited(model, venv, 40, seed=3)
    venv.seed(3)
    seen = [venv.reset()]
    for _ in range(19):
        seen.append(venv.step(model.predict(seen[-1], deterministic=True)[0])[0])
    expected = np.concatenate(seen)
    np.testing.assert_array_equal(np.unique(states, axis=0), np.unique(expected, axis=0))
    np.testing.assert_array_equal(states, visited(model, venv, 40, seed=3))


def test_the_search_comes_near_what_is_certified() -> None:
    model, venv = victim(), make_envs(n_envs=2)
    states = visited(model, venv, 50, 0)
    found = certify_actions(model, states, 0.02, venv=venv)
    assert isinstance(found, CertifiedMean)
    attacked = attacked_actions(model, states, 0.02, None, venv)
    moved = np.max([np.abs(one - found.actions) for one in attacked], axis=0)
    assert (moved <= found.shift).all()
    assert moved.mean() > 0.8 * found.shift.mean()


def test_default_radii_reach_as_far_as_the_episodes_allow(tmp_path: Path) -> None:
    smoothing = Smoothing(0.2, quantiles=[0.5], n_episodes=40, attacks=["random"], n_attacked=2)
    found = certify([pole()], [0.1], smoothing, tmp_path, n_states=10)
    radii = [row.radius for row in found.returns]
    assert len(radii) == 5
    assert radii == sorted(radii)
    bounds = [row.certified for row in found.returns]
    assert bounds == sorted(bounds, reverse=True)
    assert np.isfinite(bounds).all()


def test_without_attacks_certificates_stand_alone(tmp_path: Path) -> None:
    smoothing = Smoothing(0.2, [0.1], quantiles=[0.5], n_episodes=40, attacks=[])
    found = certify([pole()], [0.1], smoothing, tmp_path, n_states=10)
    assert json.loads((tmp_path / "certificates.json").read_text())["returns"][0]["attacked"] is None
    assert found.returns[0].attack == ""


def test_what_does_not_fit(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"output": tmp_path / "none", "n_states": 10}
    with pytest.raises(ValueError, match=r"each by a name of its own, but they are called \['pole', 'pole'\]"):
        certify([pole(), pole()], [0.1], **settings)
    with pytest.raises(ValueError, match="Name at least one agent"):
        certify([], [0.1], **settings)
    with pytest.raises(ValueError, match="n_states is 0, but it must be a whole number"):
        certify([pole()], [0.1], output=tmp_path, n_states=0)
    with pytest.raises(ValueError, match=r"Some agents have discrete actions, others continuous ones"):
        certify([pole(), LoadedAgent("pendulum", victim(), make_envs())], [0.1], **settings)
    pixels = DummyVecEnv([lambda: Still(spaces.Box(0, 255, (3, 36, 36), np.uint8))])
    with pytest.raises(TypeError, match="its observations are images"):
        certify([LoadedAgent("cnn", PPO("CnnPolicy", pixels, device="cpu"), pixels)], [0.1], **settings)
    for name in ("sarl", "none"):
        with pytest.raises(ValueError, match=f"No attack without training is called '{name}'"):
            Smoothing(0.1, attacks=[name])
    with pytest.raises(ValueError, match="n_attacked is 0, but it must be a whole number"):
        Smoothing(0.1, n_attacked=0)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("options", [["--return"], ["--sigma", "0.1"]])
def test_return_and_sigma_go_together(
    options: list[str],
    agents: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["certify", str(agents / "one"), *COMMON, *options])
    assert "--return and --sigma go together" in capsys.readouterr().err
