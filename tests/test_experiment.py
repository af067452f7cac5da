"""Experiments, the demo and the command line, on agents that are trained for a moment."""

import json
from pathlib import Path

import pytest
from brief import BRIEF
from stable_baselines3 import PPO

from sb3_barpo import BARPO, experiment
from sb3_barpo.cli import main
from sb3_barpo.demo import demo
from sb3_barpo.experiment import Agent, Evaluation, attack, make_model, run, train

QUICK = {"n_steps": 32, "batch_size": 32, "n_epochs": 1}
EVALUATION = Evaluation([0.1], attacks=["random"], n_eval_episodes=2, n_envs=2)


def agent(algo: str = "barpo", **changes: object) -> Agent:
    settings = {"name": algo, "algo": algo, "env": BRIEF, "seed": 0, "steps": 32, "kwargs": QUICK}
    return Agent(**(settings | changes))  # type: ignore[arg-type]


def modified(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_an_agent_is_stored_with_its_statistics_and_settings(tmp_path: Path) -> None:
    folder = train(agent(), tmp_path)
    assert {"agent.zip", "vecnormalize.pkl", "progress.csv", "agent.json"} <= {path.name for path in folder.iterdir()}
    assert json.loads((folder / "agent.json").read_text())["kwargs"] == QUICK
    assert BARPO.load(folder / "agent").num_timesteps == 32
    assert type(PPO.load(train(agent("ppo"), tmp_path) / "agent")) is PPO


def test_a_finished_agent_is_found_again(tmp_path: Path) -> None:
    before = modified(train(agent(), tmp_path))
    assert modified(train(agent(), tmp_path)) == before


def test_other_settings_train_anew(tmp_path: Path) -> None:
    before = modified(train(agent(), tmp_path))
    assert modified(train(agent(seed=1), tmp_path))["agent.zip"] != before["agent.zip"]


def test_a_record_of_an_older_version_still_counts(tmp_path: Path) -> None:
    record = train(agent(), tmp_path) / "agent.json"
    older = {key: value for key, value in json.loads(record.read_text()).items() if key != "normalize"}
    record.write_text(json.dumps(older))
    before = modified(record.parent)
    assert modified(train(agent(), tmp_path)) == before
    record.write_text(json.dumps(older | {"from_the_future": 1}))
    assert modified(train(agent(), tmp_path))["agent.zip"] != before["agent.zip"]


def test_an_agent_without_normalisation(tmp_path: Path) -> None:
    plain = agent(normalize=False)
    assert not (train(plain, tmp_path) / "vecnormalize.pkl").exists()
    assert attack(plain, EVALUATION, tmp_path).natural < 0


def test_schedules_as_rl_zoo_writes_them() -> None:
    model = make_model(agent(kwargs={**QUICK, "learning_rate": "lin_0.001", "clip_range": "lin_0.2"}))
    assert [model.lr_schedule(progress) for progress in (1.0, 0.5, 0.0)] == pytest.approx([0.001, 0.0005, 0.0])
    assert model.clip_range(0.25) == pytest.approx(0.05)


def test_an_agent_that_was_killed_is_trained_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "write_record", die)
        with pytest.raises(KeyboardInterrupt):
            train(agent(), tmp_path)
    assert not (tmp_path / "barpo" / "agent.json").exists()
    assert (train(agent(), tmp_path) / "agent.json").exists()


def test_a_finished_evaluation_is_found_again_until_something_changes(tmp_path: Path) -> None:
    folder = train(agent(), tmp_path)
    report = attack(agent(), EVALUATION, tmp_path)
    before = modified(folder)
    again = attack(agent(), EVALUATION, tmp_path)
    assert modified(folder) == before
    assert again.to_frame().equals(report.to_frame())
    attack(agent(), Evaluation([0.2], attacks=["random"], n_eval_episodes=2, n_envs=2), tmp_path)
    assert modified(folder)["episodes.csv"] != before["episodes.csv"]


def test_processes_change_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    agents = [agent(), agent("ppo")]
    one = run(agents, EVALUATION, tmp_path / "one")
    two = run(agents, EVALUATION, tmp_path / "two", n_jobs=2, progress_bar=True)
    assert one.to_frame().equals(two.to_frame())
    shown = capfd.readouterr().err
    assert "barpo: 100%" in shown
    assert "ppo: 100%" in shown


def test_names_must_differ(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="its own name"):
        run([agent(), agent(seed=1)], EVALUATION, tmp_path)


@pytest.mark.parametrize(
    ("changes", "match"), [({"algo": "sac"}, "Unknown algorithm 'sac'"), ({"steps": 0}, "at least 1 step")]
)
def test_an_agent_that_cannot_be_trained(changes: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        agent(**changes)


def test_an_evaluation_that_cannot_be_done_is_refused_before_training() -> None:
    with pytest.raises(ValueError, match="n_eval_episodes must be at least 1"):
        Evaluation([0.1], n_eval_episodes=0)
    with pytest.raises(ValueError, match="Unknown attack 'fog'"):
        Evaluation([0.1], attacks=["fog"])


def test_the_demo_writes_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--env", BRIEF, "--steps", "2048", "--epsilon", "0.2", "--jobs", "1", "--episodes", "2"]
    main(["demo", *arguments, "--attacks", "random", "mad", "--output", str(tmp_path)])
    printed = capsys.readouterr().out
    written = (tmp_path / "report.md").read_text()
    for algorithm in ("PPO", "ARPO", "BARPO"):
        assert f"| {algorithm} " in printed
        assert f"| {algorithm} " in written
    assert f"{BRIEF}, 2048 steps" in written
    assert "ε = 0.2" in written
    for name in ("report.csv", "report.json", "returns.png", "epsilon.png"):
        assert (tmp_path / name).stat().st_size > 0


def test_the_demos_own_task_has_settings_of_its_own(tmp_path: Path) -> None:
    for env, gamma, use_sde in (("Pendulum-v1", 0.9, True), (BRIEF, 0.99, False)):
        demo(env, 2048, 0.1, n_jobs=1, n_eval_episodes=1, attacks=["random"], output=tmp_path / env, progress_bar=False)
        agents = [PPO.load(file) for file in sorted((tmp_path / env).glob("agents/*/agent.zip"))]
        assert [(agent.gamma, agent.use_sde) for agent in agents] == 3 * [(gamma, use_sde)]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--epsilon", "0"], "epsilon must be above 0 in the demo"),
        (["--epsilon", "nan"], "epsilon must be above 0 in the demo"),
        (["--steps", "0"], "at least 1 step"),
        (["--episodes", "0"], "n_eval_episodes must be at least 1"),
        (["--env", "Nowhere-v0", "--jobs", "1"], "Nowhere"),
        (["--env", "FrozenLake-v1", "--jobs", "1"], "VecNormalize"),
    ],
)
def test_the_command_line_says_in_one_line_what_is_wrong(
    arguments: list[str], match: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["demo", "--output", str(tmp_path), *arguments])
    assert stop.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("sb3-barpo: ")
    assert match in last


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit):
        main(["demo", "--env", "Pendulum-v1", "--jobs", "1", "--steps", "1", "--output", str(tmp_path / "file")])
    assert str(tmp_path / "file") in capsys.readouterr().err
