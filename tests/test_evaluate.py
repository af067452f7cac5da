"""The command `evaluate`: agents in, report, pictures and attackers out."""

import inspect
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from brief import BRIEF
from helpers import TINY, make_envs
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize
from victims import victim

from sb3_barpo.agents.load import load_agent
from sb3_barpo.attacks import AUTO, LearnedAttack
from sb3_barpo.cli import main
from sb3_barpo.evaluation import RobustnessReport, budgets, campaign
from sb3_barpo.evaluation.auto import AutoBudget, find_auto
from sb3_barpo.evaluation.budgets import Budget, Member
from sb3_barpo.evaluation.campaign import evaluate

FAST = {"n_steps": 32, "batch_size": 64, "n_epochs": 1}
GRID = Budget(
    {
        "robust_sarsa": [Member("robust_sarsa", 64, {"n_epochs": 1})],
        "sarl": [Member("sarl", 64, FAST), Member("sarl", 64, FAST, seed=1)],
        "paad": [Member("paad", 64, FAST)],
    },
    n_episodes=2,
)
SIX = ["random", "critic", "mad", "robust_sarsa", "sarl", "paad"]


@pytest.fixture(autouse=True)
def small_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(budgets.BUDGETS, "standard", lambda *args: GRID)


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two agents as two experiments leave them."""
    folder = tmp_path_factory.mktemp("agents")
    for name in ("one", "two"):
        venv = make_envs(normalized=True)
        model = PPO("MlpPolicy", venv, **TINY)
        model.policy.load_state_dict(victim(seed=len(name) if name == "one" else 0).policy.state_dict())
        venv.reset()
        (folder / name).mkdir()
        model.save(folder / name / "agent")
        assert isinstance(venv, VecNormalize)
        venv.save(str(folder / name / "vecnormalize.pkl"))
    return folder


def command(agents: Path, output: Path, *arguments: str, names: tuple[str, ...] = ("one",)) -> None:
    paths = [str(agents / name) for name in names]
    common = ["--env", BRIEF, "--epsilon", "0.3", "--episodes", "2", "--n-envs", "2", "--output", str(output)]
    main(["evaluate", *paths, *common, *arguments])


def test_one_command_writes_what_it_says(agents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(agents, tmp_path, "--attacks", "all", "--epsilon", "0.15", "0.3", names=("one", "two"))
    printed = capsys.readouterr()
    said = ["attackers 8/8: ", "sarl on two, 64 steps in ", "attacks 26/26: paad on two at ε = 0.3"]
    for line in (*said, "watched 2/2: actions of two under attack", "recorded 2/2: an episode of two"):
        assert line in printed.err  # without a terminal
    report = RobustnessReport.from_csv(tmp_path / "report.csv")
    assert report.agents == ["one", "two"]
    assert report.attacks == SIX
    assert report.epsilons == [0.15, 0.3]
    assert report.to_frame().equals(RobustnessReport.from_json(tmp_path / "report.json").to_frame())
    written = (tmp_path / "report.md").read_text()
    for text in (report.to_markdown(), report.verdict()):
        assert text in written
        assert text in printed.out
    for picture in ("returns.png", "epsilon.png", "episode-one.png", "episode-two.png"):
        assert (tmp_path / picture).stat().st_size > 0
        assert f"({picture})" in written
    assert "`attacks/two/paad.zip`: 64 steps at ε = 0.3" in written
    content = json.loads((tmp_path / "report.json").read_text())
    told = {(row["agent"], row["attack"]): row for row in content["measures"]}
    assert set(told) == {(name, attack) for name in ("one", "two") for attack in ("natural", *SIX, "best_response")}
    for name in ("one", "two"):
        assert told[name, "best_response"]["mean"] == report.summary()["best_response"][name]
        moved = content["judged"]["agents"][name]["moved"]
        assert moved["attack"] == report.summary()["worst_attack"][name]
        assert 0 <= moved["shift_low"] <= moved["shift"] <= moved["shift_high"]
    assert content["measures_by_algorithm"][0]["n_seeds"] == 2
    for text in ("| lowest tenth (CVaR) |", "| action shift |", "| best response |"):
        assert text in re.sub(" +", " ", written)
    tried = pd.read_csv(tmp_path / "attackers.csv")
    assert tried.groupby(["agent", "attack"]).size().to_dict() == {
        (agent, attack): 2 if attack == "sarl" else 1 for agent in ("one", "two") for attack in SIX[3:]
    }
    assert all((tmp_path / "attacks" / row.agent / row.file).is_file() for row in tried.itertuples())


def test_the_attackers_serve_again(agents: Path, tmp_path: Path) -> None:
    """The strongest under its plain name gives the report's returns; a second run finds all of them."""
    command(agents, tmp_path, "--attacks", "sarl")
    report = RobustnessReport.from_csv(tmp_path / "report.csv").to_frame()
    agent = load_agent(agents / "one", BRIEF, n_envs=2)
    attack = LearnedAttack.load(tmp_path / "attacks" / "one" / "sarl.zip", agent.model)
    attack.check_victim(agent.model, agent.venv)
    assert attack.origin is not None
    assert attack.origin.epsilon == 0.3
    members = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "attacks" / "one").glob("*-*")}
    assert len(members) == 4
    command(agents, tmp_path, "--attacks", "sarl")
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "attacks" / "one").glob("*-*")} == members
    pd.testing.assert_frame_equal(RobustnessReport.from_csv(tmp_path / "report.csv").to_frame(), report)


def test_auto_is_the_default_and_takes_no_budget(agents: Path, tmp_path: Path) -> None:
    assert inspect.signature(evaluate).parameters["attacks"].default == ("auto",)
    with pytest.raises(ValueError, match="ends by itself and takes no budget, but budget is 'paper'"):
        evaluate([load_agent(agents / "one", BRIEF)], budget="paper", epsilon=[0.1], output=tmp_path / "out")
    with pytest.raises(SystemExit):
        command(agents, tmp_path / "out", "--budget", "quick")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_processes_change_nothing(agents: Path, tmp_path: Path) -> None:
    command(agents, tmp_path / "1", "--attacks", "mad", "paad")
    command(agents, tmp_path / "2", "--attacks", "mad", "paad", "--jobs", "2")
    one, two = (RobustnessReport.from_csv(tmp_path / jobs / "report.csv").to_frame() for jobs in "12")
    assert one.equals(two)
    assert sorted(one["epsilon"].unique()) == [0, 0.3]
    assert not (tmp_path / "1" / "epsilon.png").exists()


def test_what_it_can_be_told(agents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--attacks", "random", "--names", "Anna", "--stochastic", "--seed", "5", "--vec-normalize", "none"]
    command(agents, tmp_path, *arguments, "--epsilon", "0.2", "0.4", "--algo", "ppo")
    report = RobustnessReport.from_csv(tmp_path / "report.csv")
    assert report.agents == ["Anna"]
    assert report.epsilons == [0.2, 0.4]
    assert report.seeds == [5, 6]
    assert "Learned attacks were fitted" not in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--attacks", "fog"], "Unknown attack 'fog'"),
        (["--attacks", "all", "--budget", "lavish"], "Unknown budget 'lavish'"),
        (["--epsilon", "-1"], "epsilon must be a finite number"),
        (["--epsilon", "0"], "cannot be fitted at epsilon = 0"),
        (["--episodes", "0"], "n_eval_episodes must be at least 1"),
        (["--names", "a", "b"], "--names needs one name for each of the 1 agents"),
        (["--env", "Nowhere-v0"], "Nowhere"),
        (["--env", "CartPole-v1", "--vec-normalize", "none"], "as PPO for CartPole-v1: Observation spac"),
        (["--n-envs", "0"], "n_envs must be at least 1"),
        (["--vec-normalize", "nowhere.pkl"], "nowhere.pkl"),
    ],
)
def test_it_says_in_one_line_what_is_wrong(
    arguments: list[str], match: str, agents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        command(agents, tmp_path, *arguments)
    assert stop.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("sb3-barpo: ")
    assert match in last


def test_agents_need_names_of_their_own(agents: Path, tmp_path: Path) -> None:
    agent: Any = load_agent(agents / "one", BRIEF)
    with pytest.raises(ValueError, match="they are called one, one"):
        evaluate([agent, agent], output=tmp_path)
    with pytest.raises(ValueError, match="There is no agent"):
        evaluate([], output=tmp_path)


def test_a_broken_attacker_is_named(agents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(agents, tmp_path, "--attacks", "paad")
    (member,) = (tmp_path / "attacks" / "one").glob("paad-*.zip")
    member.write_text("broken")
    with pytest.raises(SystemExit):
        command(agents, tmp_path, "--attacks", "paad")
    assert f"{str(member)!r} is no stored attack" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "attacks")


@pytest.mark.slow
def test_auto_says_whether_its_search_was_done(agents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two agents, all of whose attackers are found again."""
    tiny = AutoBudget(steps=64, rounds=1, n_episodes=1)
    monkeypatch.setattr(
        campaign, "find_auto", lambda victims, epsilon, _, *rest: find_auto(victims, epsilon, tiny, *rest)
    )
    command(agents, tmp_path, "--attacks", "auto", names=("one", "two"))
    report = RobustnessReport.from_json(tmp_path / "report.json")
    assert report.attacks == AUTO
    text = (tmp_path / "report.md").read_text()
    for name in ("one", "two"):
        told = report.judged["agents"][name]["auto"]
        assert f"**{name}**: the search is {'' if told['saturated'] else 'NOT '}saturated after" in text
        assert (tmp_path / "attacks" / name / "sarl.zip").exists()
    assert "best response" in text
    assert "](saturation.png)" in text
    assert (tmp_path / "saturation.png").stat().st_size > 10_000
    curves = pd.read_csv(tmp_path / "saturation.csv")
    assert set(curves["agent"]) == {"one", "two"}
    rows = (tmp_path / "report.csv").read_bytes()
    command(agents, tmp_path, "--attacks", "auto", names=("one", "two"))
    assert (tmp_path / "report.csv").read_bytes() == rows
