"""The command and function ``compare``, on agents that are trained for a moment."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from brief import BRIEF
from test_experiment import modified

from sb3_barpo import compare, experiment
from sb3_barpo.cli import main
from sb3_barpo.comparison import Comparison, from_file, pages
from sb3_barpo.comparison.run import FailedAgentsError
from sb3_barpo.experiment import Agent, Trained
from sb3_barpo.hyperparams import read

pytest.importorskip("yaml")
pytest.importorskip("matplotlib")

SHORT = {"n_steps": 32, "batch_size": 32, "n_epochs": 1}
TINY: dict[str, Any] = {"steps": 32, "hyperparams": SHORT, "attacks": ["random"], "n_eval_episodes": 2}


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take seconds, and are drawn where the pages are tested."""
    monkeypatch.setattr(pages, "_PICTURES", {})


def names(settings: Comparison) -> list[list[str]]:
    return [[agent.name for agent in task.agents] for task in settings.tasks()]


def agent(settings: Comparison, index: int = 0) -> Agent:
    found = settings.tasks()[0].agents[index]
    assert isinstance(found, Agent)
    return found


def test_agents_have_the_settings_of_the_packaged_entries() -> None:
    settings = Comparison(["ppo", "barpo", "carppo"], ["Hopper-v5", "Ant-v5"], seeds=[0, 1])
    assert names(settings) == [[f"{algo}-seed{seed}" for seed in (0, 1) for algo in ("ppo", "barpo", "carppo")]] * 2
    ppo, barpo, carppo = (agent(settings, k) for k in range(3))
    assert ppo.kwargs == {}
    assert barpo.kwargs == {"epsilon": "ramp_0.075"}
    assert carppo.kwargs["epsilon"] == "ramp_0.075"
    assert {one.steps for one in (ppo, barpo, carppo)} == {1_000_000}
    assert {one.normalize for one in (ppo, barpo, carppo)} == {True}
    assert [one.label for one in (ppo, barpo, carppo)] == ["PPO", "BARPO", "CARPPO"]
    assert [task.evaluation.epsilon for task in settings.tasks()] == [[0.075], [0.15]]
    assert settings.tasks()[1].agents[2].kwargs["temperature"] == read("carppo")["Ant-v5"]["temperature"]


def test_a_spec_sheet_is_one_for_all(tmp_path: Path) -> None:
    """Plain PPO is attacked within it too, at the same share."""
    sheet = {"sensors": {"0": {"bound": 0.05}}}
    report = compare(["ppo", "barpo"], BRIEF, [0], output=tmp_path, sensors=sheet, **TINY)
    (stored,) = tmp_path.glob("*/agents/barpo-seed0/agent.json")
    barpo = json.loads(stored.read_text())
    assert barpo["kwargs"]["epsilon"].startswith("ramp_1.0_")
    assert barpo["kwargs"]["sensors"] == Comparison("ppo", BRIEF, sensors=sheet).sensors
    rows = report.reports[BRIEF].to_frame()
    assert set(rows["unit"]) == {"sheet"}
    assert set(rows.loc[rows["attack"] != "natural", "epsilon"]) == {1.0}
    assert compare(["ppo", "barpo"], BRIEF, [0], output=tmp_path, sensors=sheet, **TINY).reports.keys() == {BRIEF}


def test_a_setting_goes_to_the_algorithms_that_know_it() -> None:
    settings = Comparison(["ppo", "barpo"], "Hopper-v5", [0], hyperparams={"n_steps": 64, "kappa": 2.0, "n_envs": 4})
    assert agent(settings, 0).kwargs == {"n_steps": 64}
    assert agent(settings, 1).kwargs == {"n_steps": 64, "kappa": 2.0, "epsilon": "ramp_0.075"}
    assert agent(settings, 1).n_envs == 4


def test_variants_and_strengths_by_environment() -> None:
    settings = Comparison(
        ["barpo", {"algo": "barpo", "label": "BARPO, κ 0", "kappa": 0.0}],
        ["Hopper-v5", "Ant-v5"],
        seeds=[3],
        steps={"Ant-v5": 64},
        epsilon={"Hopper-v5": 0.1},
    )
    assert names(settings)[0] == ["barpo-seed3", "barpo-κ-0-seed3"]
    hopper, ant = settings.tasks()
    assert (hopper.evaluation.epsilon, ant.evaluation.epsilon) == ([0.1], [0.15])
    assert agent(settings, 1).kwargs == {"epsilon": "ramp_0.1_0.75_0.0_1.0", "kappa": 0.0}
    assert [task.agents[0].steps for task in settings.tasks()] == [1_000_000, 64]
    assert ant.labels == ["BARPO", "BARPO, κ 0"]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({}, "nothing to compare: name algorithms"),
        ({"algorithms": ["ppo"]}, "On which environment"),
        ({"algorithms": ["ppo"], "seeds": []}, "at least one seed"),
        ({"algorithms": ["ppo"], "seeds": [1, 1]}, r"Name each of seeds once, but they are \[1, 1\]"),
        ({"algorithms": ["ppo", "ppo"]}, "several of PPO. Add label"),
        ({"algorithms": ["sac"]}, "Unknown algorithm 'sac'"),
        ({"algorithms": ["a2c"]}, "no entries for 'a2c'"),
        ({"algorithms": [{"label": "x"}]}, "A variant needs algo"),
        ({"algorithms": [{"algo": "barpo", "kapa": 1}]}, "Unknown setting 'kapa'.*Did you mean 'kappa'"),
        ({"algorithms": [{"algo": "ppo", "normalize": False}]}, "normalize must be the same for all"),
        ({"algorithms": ["ppo"], "hyperparams": {"kappa": 1}}, "Unknown setting 'kappa'"),
        ({"algorithms": ["ppo", "barpo"], "hyperparams": {"n_stepps": 1}}, "Did you mean 'n_steps'"),
        ({"algorithms": ["barpo"], "hyperparams": {"sensors": "x.yml"}}, "sheet is one for all"),
        ({"algorithms": [{"algo": "barpo", "sensors": "x.yml"}]}, "--sensors FILE"),
        ({"algorithms": ["ppo"], "steps": {"Hoper-v5": 1}}, "steps is given for Hoper-v5, which is none of"),
        (
            {"algorithms": [{"algo": "barpo", "margin": {"Hopper-v5": 1.5, "Ant-v5": 2}}]},
            "margin is given for Ant-v5, which is none of Hopper-v5",
        ),
        ({"algorithms": ["ppo"], "attacks": ["fog"]}, "Unknown attack 'fog'"),
        ({"algorithms": ["ppo"], "env": "Nowhere-v0"}, "no environment 'Nowhere-v0'"),
        ({"agents": [{"label": "x"}]}, "needs a label and a path"),
        ({"agents": [{"label": "x", "path": []}]}, "needs a label and a path"),
        ({"agents": [{"label": "x", "path": "x", "colour": 1}]}, "but not colour"),
        ({"agents": [{"label": "x", "path": "x", "env": "Ant-v5"}]}, "nothing to compare on Hopper-v5"),
        ({"algorithms": ["ppo"], "agents": [{"label": "PPO-seed0", "path": "x"}]}, "ppo-seed0 is the name of two"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], match: str) -> None:
    env = {} if match.startswith("On which") else {"env": "Hopper-v5"}
    with pytest.raises(ValueError, match=match):
        Comparison(**{**env, **settings})


def test_a_setting_may_differ_between_tasks() -> None:
    envs = ["Hopper-v5", "Ant-v5"]
    algorithm = {"algo": "barpo", "margin": {"Hopper-v5": 1.5}, "adversary": {"n_steps": 3}}
    settings = Comparison([algorithm], envs, seeds=[0], hyperparams={"gamma": {"Hopper-v5": 0.9, "Ant-v5": 0.95}})
    hopper, ant = [task.agents[0] for task in settings.tasks()]
    assert isinstance(hopper, Agent)
    assert isinstance(ant, Agent)
    assert (hopper.kwargs["margin"], hopper.kwargs["gamma"]) == (1.5, 0.9)
    assert "margin" not in ant.kwargs
    assert ant.kwargs["gamma"] == 0.95
    assert hopper.kwargs["adversary"] == ant.kwargs["adversary"] == {"n_steps": 3}  # no environment: a value


def test_a_strength_that_cannot_end_at_another(monkeypatch: pytest.MonkeyPatch) -> None:
    from sb3_barpo.comparison import settings

    usual = settings.entry
    monkeypatch.setattr(settings, "entry", lambda *args: usual(*args) | {"epsilon": "linear_0_0.1"})
    assert agent(Comparison(["barpo"], "Hopper-v5", [0], epsilon=0.1)).kwargs["epsilon"] == "linear_0_0.1"
    with pytest.raises(ValueError, match="Set epsilon for the training too"):
        Comparison(["barpo"], "Hopper-v5", [0], epsilon=0.2)


def test_from_end_to_end_and_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = [f"{key}:{value}" for key, value in SHORT.items()]
    command = ["compare", "ppo", "barpo", "--env", BRIEF, "InvertedPendulum-v5", "--seeds", "0", "1", "--steps", "32"]
    command += ["--attacks", "random", "--episodes", "2", "-params", *params, "--output", str(tmp_path)]
    with pytest.raises(SystemExit):
        main([*command, "--report-only"])
    assert "nothing to report on: Nothing is finished yet" in capsys.readouterr().err
    main([*command[:5], *command[6:]])  # one task, then both
    assert "agents 4/4" in capsys.readouterr().err
    main(command)
    shown = capsys.readouterr()
    assert "agents 4/4: " in shown.err
    assert "| InvertedPendulum-v5 | PPO " in shown.out
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "8 agents of 2 algorithms on 2 tasks, under 1 attack." in page
    assert "barpo-seed1 on brief:Brief-v0" in page or "barpo-seed1 on Brief-v0" in page
    assert "`sb3-barpo compare ppo barpo" in page
    before = {path: modified(path) for path in tmp_path.glob("*/agents/*")}
    main(["compare", str(tmp_path / "settings.json"), "--output", str(tmp_path)])  # the same by the file that it wrote
    assert {path: modified(path) for path in tmp_path.glob("*/agents/*")} == before
    main([*command, "--seeds", "0", "1", "2", "--report-only"])
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "Not finished yet**, with their seeds: PPO on brief:Brief-v0 (2); BARPO on brief:Brief-v0 (2); PPO" in page
    assert {path: modified(path) for path in tmp_path.glob("*/agents/*")} == before


def test_rows_alone_are_enough(tmp_path: Path) -> None:
    """As in a repository that holds rows, but no agents."""
    first = compare(["ppo", "barpo"], BRIEF, [0], **TINY, output=tmp_path)
    (tmp_path / "Brief-v0" / "agents").rename(tmp_path / "elsewhere")
    again = compare(["ppo", "barpo"], BRIEF, [0], **TINY, output=tmp_path)
    assert again.agents.equals(first.agents)
    assert not list((tmp_path / "Brief-v0" / "agents").iterdir())
    # Other settings are other agents: these rows are not theirs, except where nothing shall be trained.
    other = {**TINY, "steps": 64}
    assert compare(["ppo", "barpo"], BRIEF, [0], **other, output=tmp_path, report_only=True).agents.equals(first.agents)
    compare(["ppo"], BRIEF, [0], **other, output=tmp_path)
    assert (tmp_path / "Brief-v0" / "agents" / "ppo-seed0" / "agent.zip").exists()
    kept = json.loads((tmp_path / "Brief-v0" / "rows.json").read_text())["agents"]
    assert {name: record["steps"] for name, record in kept.items()} == {"ppo-seed0": 64, "barpo-seed0": 32}


def test_another_evaluation_replaces_the_rows(tmp_path: Path) -> None:
    compare(["ppo", "barpo"], BRIEF, [0], **TINY, output=tmp_path)
    changed = compare(["ppo"], BRIEF, [0], **{**TINY, "n_eval_episodes": 3}, output=tmp_path)
    assert len(changed.reports[BRIEF].seeds) == 3
    assert changed.reports[BRIEF].agents == ["ppo-seed0"]


def test_trained_agents_beside_algorithms(tmp_path: Path) -> None:
    compare(["ppo"], BRIEF, [0, 1], **TINY, output=tmp_path / "first")
    folder = tmp_path / "first" / "Brief-v0" / "agents"
    file = tmp_path / "settings.yml"
    file.write_text(f"""
algorithms: [barpo, {{algo: barpo, label: "BARPO, κ 0", kappa: 0.0}}]
env: {BRIEF}
seeds: [0]
steps: 32
hyperparams: {json.dumps(SHORT)}
attacks: [random]
n_eval_episodes: 2
agents:
  - label: PPO of before
    path: [first/Brief-v0/agents/ppo-seed0, first/Brief-v0/agents/ppo-seed1]
""")
    report = compare(**from_file(file), output=tmp_path / "second")
    assert report.algorithms == ["BARPO", "BARPO, κ 0", "PPO of before"]
    written = Comparison(**from_file(tmp_path / "second" / "settings.json"))  # its paths lead to the same agents
    assert written.tasks() == Comparison(**from_file(file)).tasks()
    assert all(agent.digest for agent in written.tasks()[0].agents if isinstance(agent, Trained))
    old = compare(["ppo"], BRIEF, [0, 1], **TINY, output=tmp_path / "first")
    for measure in ("natural", "worst_case"):
        assert (report.scores(BRIEF, "PPO of before", measure) == old.scores(BRIEF, "PPO", measure)).all()
    # Another file at the same place is another agent.
    settings = Comparison(**from_file(file))
    trained = settings.tasks()[0].agents[2]
    assert isinstance(trained, Trained)
    root = tmp_path / "second" / "Brief-v0" / "agents"
    assert experiment.attacked(trained, settings.tasks()[0].evaluation, root) is not None
    (folder / "ppo-seed1" / "agent.zip").replace(folder / "ppo-seed0" / "agent.zip")
    assert (
        experiment.attacked(Comparison(**from_file(file)).tasks()[0].agents[2], settings.tasks()[0].evaluation, root)
        is None
    )


def test_attacks_that_not_all_agents_went_through(tmp_path: Path) -> None:
    """As ``"auto"`` takes those that suit a victim."""
    compare(["ppo", "barpo"], BRIEF, [0], **{**TINY, "attacks": ["random", "mad"]}, output=tmp_path)
    rows = tmp_path / "Brief-v0" / "rows.csv"
    lines = rows.read_text().splitlines(keepends=True)
    rows.write_text("".join(line for line in lines if not ("ppo-seed0" in line and ",mad," in line)))
    shutil.rmtree(tmp_path / "Brief-v0" / "agents")
    report = compare(["ppo", "barpo"], BRIEF, [0], **{**TINY, "attacks": ["random", "mad"]}, output=tmp_path)
    assert report.attacks == ["random"]
    assert report.left_out == {BRIEF: ["mad"]}
    assert "not every agent went through it: mad." in (tmp_path / "report.md").read_text()


def test_settings_that_do_not_fit_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    variants = ["ppo", {"algo": "barpo", "adversary": {"solver": "newton"}}]
    with pytest.raises(ValueError, match="Unknown solver 'newton'"):
        compare(variants, BRIEF, [0], **TINY, output=tmp_path)
    assert not list(tmp_path.iterdir())


def test_one_agent_that_fails_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variants = ["ppo", {"algo": "ppo", "label": "broken"}]
    train = experiment.train

    def fails(agent: Agent, *args: Any) -> Path:
        if agent.label == "broken":
            raise RuntimeError("out of luck")
        return train(agent, *args)

    monkeypatch.setattr(experiment, "train", fails)
    with pytest.raises(
        FailedAgentsError, match=r"1 of the agents failed; the report is without them\. broken-seed0 on"
    ):
        compare(variants, BRIEF, [0], **TINY, output=tmp_path)
    assert "ppo-seed0" in (tmp_path / "report.md").read_text()
    assert "Traceback" in (tmp_path / "Brief-v0" / "agents" / "broken-seed0.error.txt").read_text()
    with pytest.raises(FailedAgentsError, match="nothing to report on: broken-seed0"):
        compare(variants[1:], BRIEF, [0], **TINY, output=tmp_path / "other")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ([], "nothing to compare"),
        (["ppo", "settings.yml"], "Name algorithms or one file of settings"),
        (["settings.yml"], "No such file"),
        (["ppo", "--env", "Hopper-v5", "Ant-v5", "--epsilon", "0.1", "0.2", "0.3"], "each of the 2 environments"),
        (["ppo", "--env", "Hopper-v5", "-params", "n_steps"], "is not of the form name:value"),
    ],
)
def test_the_command_line_says_in_one_line_what_is_wrong(
    arguments: list[str],
    match: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["compare", *arguments])
    assert stop.value.code == 2
    assert match in capsys.readouterr().err.strip().splitlines()[-1]


def test_files_of_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list.yml").write_text("- ppo")
    with pytest.raises(ValueError, match="must hold a mapping"):
        from_file(tmp_path / "list.yml")
    (tmp_path / "odd.json").write_text('{"algorithm": ["ppo"], "env": "Hopper-v5"}')
    with pytest.raises(SystemExit):
        main(["compare", str(tmp_path / "odd.json"), "--output", str(tmp_path)])
    assert "'algorithm'" in capsys.readouterr().err


def test_strengths_one_for_each_environment() -> None:
    from sb3_barpo.commands.compare import _by_env

    assert _by_env([0.1], ["a", "b"]) == 0.1
    assert _by_env([0.1, 0.2], ["a", "b"]) == {"a": 0.1, "b": 0.2}
