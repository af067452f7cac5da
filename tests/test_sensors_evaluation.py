"""Spec sheets and channels in evaluations: the same ball for every way in, reports in the sheet's units."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize
from test_evaluate_judged import evaluated, stored
from tracking import HORIZON, normalized, tracker, tracking

from sb3_barpo import BARPO
from sb3_barpo.adversary import LinfBall
from sb3_barpo.attacks import Random
from sb3_barpo.cli import main
from sb3_barpo.evaluation import RobustnessReport, evaluate_robustness, rank_sensors
from sb3_barpo.evaluation.channel_report import ChannelReport
from sb3_barpo.sensors import Sensor, Sensors, ball

SHEET = Sensors({"angle_x": Sensor(bound=0.02), "angular_velocity": Sensor(bound=0.1, noise=0.05, unit="rad/s")}, (
    "angle_x",
    "angle_y",
    "angular_velocity",
))  # fmt: skip
TOLD = "the spec sheet (angle_x ±0.02, angular_velocity ±0.1 rad/s)"


@pytest.fixture
def sheet(tmp_path: Path) -> Path:
    pytest.importorskip("yaml")
    SHEET.save(tmp_path / "sensors.yml")
    return tmp_path / "sensors.yml"


def written(folder: Path) -> tuple[RobustnessReport, str]:
    return RobustnessReport.from_json(folder / "report.json"), (folder / "report.md").read_text(encoding="utf-8")


def test_the_command_attacks_within_the_sheet(sheet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Agents with and without normalisation, each by its own statistics, in one unit."""
    pytest.importorskip("matplotlib")
    agents = [stored(tmp_path / "a"), stored(tmp_path / "b", BARPO, normalised=True, epsilon=0.3)]
    evaluated(*agents, "--sensors", sheet, "--output", tmp_path / "out")
    report, page = written(tmp_path / "out")
    assert (report.units, report.epsilons) == (["sheet"], [1.0])
    assert [told["ball"] for told in report.judged["agents"].values()] == [TOLD] * 2
    assert {told["unit_of_epsilon"] for told in report.judged["agents"].values()} == {"shares of the spec sheet"}
    assert "at ε = 1 of the spec sheet" in capsys.readouterr().out
    for text in (
        TOLD,
        "## Which sensor must be good",
        "±0.1 rad/s",
        "ε is a share of the spec sheet",
        "| random faults",
    ):
        assert text in page
    for name in "ab":
        frame = pd.read_csv(tmp_path / "out" / f"sensors-{name}.csv")
        assert frame["sensor"].tolist() == ["all sensors", "angle_x", "angular_velocity", "random faults"]
        assert frame["error"].tolist()[1:3] == [0.02, 0.1]
        assert (tmp_path / "out" / f"sensors-{name}.png").is_file()
    with pytest.raises(SystemExit):
        evaluated(*agents, "--sensors", sheet, "--ball", "l2", "--output", tmp_path / "out2")
    assert "Both a ball and sensors say how far" in capsys.readouterr().err
    sheet.write_text(sheet.read_text().replace("0.05", "0.06"))
    with pytest.raises(SystemExit):
        evaluated(*agents, "--sensors", sheet, "--output", tmp_path / "out")
    assert "holds another evaluation, which differs in sensors" in capsys.readouterr().err


def test_agents_bring_their_own_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    own = stored(tmp_path / "own", BARPO, normalised=True, sensors=SHEET, epsilon="ramp_0.5")
    evaluated(stored(tmp_path / "ppo"), own, "--output", tmp_path / "out")
    report, _ = written(tmp_path / "out")
    assert (report.units, report.epsilons) == (["sheet"], [0.5])
    assert report.judged["agents"]["own"]["training"]["ball"] == report.judged["agents"]["ppo"]["ball"] == TOLD
    other = stored(tmp_path / "other", BARPO, sensors=Sensors({0: Sensor(bound=1)}), epsilon=0.5)
    with pytest.raises(SystemExit):
        evaluated(own, other, "--output", tmp_path / "out2")
    assert "The agents were trained in different balls (the spec sheet (angle_x" in capsys.readouterr().err
    evaluated(own, "--ball", "linf", "--epsilon", "0.1", "--output", tmp_path / "plain")
    assert written(tmp_path / "plain")[0].units == ["std"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sensors: {angel: {bound: 1}}", "Unknown feature 'angel'. The sheet names none"),
        ("sensors: {0: {bound: -1}}", "The sensor 0: A sensor's bound must be finite and at least 0, but it is -1"),
        ("sensors: {0: {bound: 0.2 deg}}", "bound must be a number, but it is '0.2 deg'"),
        ("sensors: {'0:2': {bound: 1}, 1: {bound: 1}}", "both measure value 1"),
        ("sensors: {0: {noise: 1}}", "No sensor of the sheet has a bound"),
    ],
)
def test_a_bad_sheet_is_one_line(text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.yml").write_text(text)
    with pytest.raises(SystemExit) as stop:
        evaluated(stored(tmp_path / "a"), "--sensors", tmp_path / "bad.yml", "--output", tmp_path / "out")
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_in_python_a_sheet_is_a_ball_in_its_units() -> None:
    venv = normalized()
    model, sheet = tracker(venv), Sensors({1: Sensor(bound=0.2)})
    report = evaluate_robustness(model, venv, "mad", n_eval_episodes=4, sensors=sheet)
    assert (report.units, report.epsilons) == (["sheet"], [1.0])
    cost = HORIZON * 0.2**2
    assert -cost * 1.001 <= report.summary()["mad"].item() <= -0.8 * cost
    given = evaluate_robustness(
        model, venv, "mad", 1.0, n_eval_episodes=4, ball=ball(sheet, venv.observation_space, venv)
    )
    assert given.to_frame()["return"].tolist() == report.to_frame()["return"].tolist()
    with pytest.raises(ValueError, match="Both ball and sensors say how far"):
        evaluate_robustness(model, venv, "mad", ball=LinfBall(), sensors=sheet)


def test_training_and_attacks_have_the_same_radii() -> None:
    """The sheet in the environment's units, through the statistics as they are after training."""
    venv = VecNormalize(tracking(2))
    sheet = Sensors({0: Sensor(bound=0.5), 1: Sensor(bound=0.6)})
    model = BARPO("MlpPolicy", venv, sensors=sheet, n_steps=32, batch_size=32, n_epochs=1, seed=0, device="cpu")
    model.learn(128)
    venv.training = False
    clean = np.zeros((500, 3), np.float32)
    moved = Random(model, 1.0, model._adversary.ball, seed=0).perturb(clean) - clean
    raw = np.abs(moved * np.sqrt(venv.obs_rms.var + venv.epsilon)).max(0)
    np.testing.assert_allclose(raw, [0.5, 0.6, 0], rtol=0.02)
    assert (raw <= [0.5 + 1e-5, 0.6 + 1e-5, 0]).all()
    report = evaluate_robustness(model, venv, "random", n_eval_episodes=2)  # its own sheet
    assert (report.units, report.epsilons) == (["sheet"], [1.0])
    asked = evaluate_robustness(model, venv, "random", n_eval_episodes=2, sensors=sheet)
    assert asked.to_frame()["return"].tolist() == report.to_frame()["return"].tolist()


def test_ranking_has_a_row_of_random_faults() -> None:
    """Noise costs its variance a step, whatever it is of the bound."""
    venv = normalized()
    sheet = Sensors({1: Sensor(bound=0.2, noise=0.3)})
    ranking = rank_sensors(tracker(venv), venv, sheet, strengths=(1.0, 2.0), n_eval_episodes=100)
    rows = ranking.frame[ranking.frame["sensor"] == "random faults"].set_index("strength")
    for strength in (1.0, 2.0):
        cost = HORIZON * (0.3 * strength) ** 2
        assert abs(rows.loc[strength, "loss"] - cost) < 4 * rows.loc[strength, "standard_error"]
        assert rows.loc[strength, "standard_error"] < 0.1 * cost
    assert ranking.sensors == [1]
    assert "| random faults" in ranking.to_markdown()


# --- channels


def test_the_command_evaluates_across_channels(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    agents = [stored(tmp_path / f"{kind.__name__}-{seed}", kind, seed=seed) for kind in (PPO, BARPO) for seed in (0, 1)]
    evaluated(*agents, "--channels", "--epsilon", "0.1", "--output", tmp_path / "out")
    frame = pd.read_csv(tmp_path / "out" / "channels.csv")
    assert frame["agent"].unique().tolist() == [agent.name for agent in agents]
    # Pendulum is no task of MuJoCo.
    assert frame["channel"].unique().tolist() == [
        "natural", "noise", "drift", "delay", "hold", "dropout", "action_noise",
    ]  # fmt: skip
    assert (tmp_path / "out" / "channels.png").is_file()
    page = written(tmp_path / "out")[1]
    assert "## Across channels" in page
    assert "PPO (2 agents) |   BARPO (2 agents) |" in page


def found(natural: float, **returns: float) -> pd.DataFrame:
    rows = [("natural", 0.0, natural), *((name, 1.0, one) for name, one in returns.items())]
    frame = pd.DataFrame(rows, columns=["channel", "size", "return"])
    return frame.assign(standard_error=1.0, loss=natural - frame["return"])


def test_what_is_kept_across_channels() -> None:
    report = ChannelReport({"a": found(100, noise=50, delay=30), "b": found(200, noise=200, delay=100)})
    assert report.kept().to_dict() == pytest.approx({"a": 0.4, "b": 0.75})
    assert report.groups == ["a", "b"]
    assert "| kept on average |                       | 40 % | 75 % |" in report.to_markdown()
    grouped = ChannelReport({"a": found(100, noise=50), "b": found(200, noise=200)}, {"a": "X", "b": "X"})
    assert "| natural | | 150 |" in " ".join(grouped.to_markdown().split())
    assert "75 % |" in grouped.to_markdown()
    sizes = pd.DataFrame({"channel": "mass", "size": [0.5, 0.05, 2.0], "return": 1.0})
    ordered = ChannelReport({"a": pd.concat([found(1), sizes], ignore_index=True), "b": found(1)}).to_markdown()
    assert [line.split("|")[2].strip() for line in ordered.splitlines()[3:6]] == ["0.5 times", "0.05 times", "2 times"]
    assert ChannelReport({"a": found(-5, noise=-9)}).kept().isna().all()


def test_picture_across_channels() -> None:
    pytest.importorskip("matplotlib")
    returns = dict.fromkeys(("noise", "drift", "delay", "mass", "friction"), 1.0)
    figure = ChannelReport({"a": found(2, **returns), "b": found(3, **returns)}, {"a": "X", "b": "X"}).plot()
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in panels] == list(returns)
    assert [container[0].get_ydata().tolist() for container in panels[0].containers] == [[2, 1], [3, 1]]
    assert panels[0].containers[0][0].get_xdata().tolist() == [0, 1]
    ticks = [[label.get_text() for label in axes.get_xticklabels()] for axes in panels]
    assert ticks == [["0", "1"]] * 3 + [["1", "1"]] * 2  # an undisturbed mass is once as large
    assert len(figure.legends[0].get_texts()) == 1


# --- tuning and the RL Zoo


def test_a_study_within_a_sheet(sheet: Path) -> None:
    pytest.importorskip("optuna")
    from sb3_barpo.experiment import make_model
    from sb3_barpo.tuning import task

    agent, epsilon = task("barpo", "Pendulum-v1", kwargs={"sensors": str(sheet)})
    assert epsilon == 1.0
    assert agent.kwargs["sensors"] == json.loads(json.dumps(SHEET.spec()))  # what is stored does not change with a file
    model = make_model(agent)
    assert model._adversary.ball.scale.shape == (3,)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="This is no spec sheet"):
        task("barpo", "Pendulum-v1", kwargs={"sensors": {"bound": 1}})


def test_the_command_of_a_study(sheet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuning = pytest.importorskip("sb3_barpo.tuning")
    said: list[Any] = []

    def note(settings: Any, *args: Any, **kwargs: Any) -> None:
        said.append(settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "tune_strength", note)
    with pytest.raises(SystemExit):
        main(["tune", "--env", "Pendulum-v1", "--sensors", str(sheet), "--output", str(tmp_path / "out")])
    assert said[0].agent.kwargs["sensors"] == SHEET.spec()
    assert said[0].epsilon == 1.0
    assert said[0].space == tuning.StrengthSpace.around(1.0)


def test_the_zoo_trains_within_a_sheet(sheet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rl_zoo3")
    from sb3_barpo import zoo

    given = ["--env", "Pendulum-v1", "-params", f"sensors:{str(sheet)!r}", "n_steps:64"]
    monkeypatch.chdir(tmp_path)
    argv = zoo.prepare("train", given)
    more = argv[argv.index("--hyperparams") + 1 :]
    assert more[:3] == [f"sensors:{str(sheet)!r}", "n_steps:64", "epsilon:'ramp_1.0'"]
    assert "--hyperparams" not in zoo.prepare("train", [*given, "epsilon:0.5"])
    with pytest.raises(ValueError, match="This is no spec sheet"):
        zoo.check_settings("barpo", {"sensors": {"bound": 1}})
    with pytest.raises(OSError, match=r"none\.yml"):
        zoo.check_settings("barpo", {"sensors": "none.yml"})
    zoo.check_settings("barpo", {"sensors": SHEET.spec(), "epsilon": None})
