"""Every benchmark starts: its imports are there and its command line can be read."""

import runpy
import sys
from pathlib import Path

import gymnasium as gym
import pytest
from pages import smaller

pytest.importorskip("mujoco")
pytest.importorskip("matplotlib")

FOLDER = Path(__file__).parents[1] / "benchmarks"
PROGRAMS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "pendulums")


@pytest.fixture(autouse=True)
def _as_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program finds its neighbours."""
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_read_a_command_line(name: str) -> None:
    """The tests below would run the whole of one that does not."""
    assert "parse_args()" in (FOLDER / f"{name}.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    assert stop.value.code == 0
    assert f"usage: {name}.py" in capsys.readouterr().out


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_refuse_what_they_do_not_know(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is computed."""
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--no-such-option"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    assert stop.value.code == 2
    assert "--no-such-option" in capsys.readouterr().err


def test_the_settings_of_the_four_tasks() -> None:
    from sb3_barpo.comparison import Comparison, from_file

    tasks = Comparison(**from_file(FOLDER / "four_tasks" / "settings.yml")).tasks()
    strengths = {task.env: task.evaluation.epsilon for task in tasks}
    assert strengths == {"Hopper-v5": [0.075], "Walker2d-v5": [0.05], "HalfCheetah-v5": [0.15], "Ant-v5": [0.15]}
    for task in tasks:
        assert {agent.env for agent in task.agents} == {task.env}
        assert {(agent.steps, agent.n_envs, agent.kwargs["n_steps"]) for agent in task.agents} == {(1_000_000, 8, 256)}
        assert {"PPO", "ARPO", "BARPO", "SA-PPO", "CAR-PPO"} <= set(task.labels)


def test_the_settings_of_the_sensitivity() -> None:
    """Each of them makes an agent."""
    from sb3_barpo.comparison import Comparison, from_file
    from sb3_barpo.experiment import Agent, make_model

    (task,) = Comparison(**from_file(FOLDER / "four_tasks" / "sensitivity.yml")).tasks()
    for agent in task.agents[: len(task.labels)]:
        assert isinstance(agent, Agent)
        make_model(agent)


def test_one_task_of_the_four() -> None:
    """A setting that was given for another task alone is left out, not emptied."""
    import four_tasks

    settings = {"epsilon": {"A-v0": 0.1, "B-v0": 0.2}, "algorithms": [{"algo": "barpo", "margin": {"B-v0": 2.0}}]}
    assert four_tasks.only(settings, {"B-v0"}) == {"epsilon": {"A-v0": 0.1}, "algorithms": [{"algo": "barpo"}]}


def test_pendulums() -> None:
    import pendulums

    assert gym.make("Torques-v0").action_space == gym.spaces.Discrete(5)
    assert gym.make("NoVelocity-v0").observation_space.shape == (pendulums.POSITIONS,)


def test_the_script_of_the_tuning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It trains the agent that the study found best."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["best.py"])
    exec(compile(smaller((FOLDER / "tuning" / "best.py").read_text(encoding="utf-8")), "best.py", "exec"), {})
    assert (tmp_path / "agent.zip").is_file()
    assert (tmp_path / "vecnormalize.pkl").is_file()
