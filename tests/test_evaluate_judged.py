"""What `evaluate` infers, what it writes down about it, and what it refuses to compare."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from brief import BRIEF
from gymnasium import spaces
from gymnasium.envs.classic_control import PendulumEnv
from helpers import TINY, Still, make_envs
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from victims import victim

from sb3_barpo import BARPO
from sb3_barpo.adversary import KL, SGLD, Adversary, L2Ball
from sb3_barpo.agents.load import load_agent
from sb3_barpo.cli import main
from sb3_barpo.evaluation import RobustEvalCallback, RobustnessReport, evaluate_robustness


def stored(folder: Path, kind: type[Any] = PPO, normalised: bool = False, name: str = "agent", **settings: Any) -> Path:
    """An agent as an experiment leaves it."""
    venv = make_vec_env(BRIEF)
    layer = VecNormalize(venv)
    layer.reset()
    folder.mkdir(parents=True, exist_ok=True)
    model = kind("MlpPolicy", layer if normalised else venv, **{**TINY, **settings})
    model.save(folder / name)
    (folder / "agent.json").write_text(json.dumps({"env": BRIEF, "normalize": normalised}))
    if normalised:
        layer.save(str(folder / "vecnormalize.pkl"))
    return folder


def evaluated(*arguments: Any, attack: str = "random") -> None:
    given = [*map(str, arguments), "--attacks", attack, "--episodes", "2", "--n-envs", "2"]
    main(["evaluate", *given])


def test_without_a_flag_that_the_software_could_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The environment, ε, ball, statistics, names and folder come from the agents."""
    monkeypatch.chdir(tmp_path)
    adversary = Adversary(KL(), SGLD(), L2Ball([1.0, 2.0, 0.5]))
    for algo, kind, settings in (("ppo", PPO, {}), ("barpo", BARPO, {"epsilon": "ramp_0.2", "adversary": adversary})):
        stored(tmp_path / algo / "X_1", kind, normalised=True, **settings)
    evaluated("ppo/X_1", "barpo/X_1")
    (output,) = tmp_path.glob("evaluation-ppo-X_1-and-1-more-20*")
    report = RobustnessReport.from_json(output / "report.json")
    assert report.agents == ["ppo/X_1", "barpo/X_1"]
    assert report.epsilons == [0.2]
    assert (report.env, report.units) == ("Brief-v0", ["std"])
    told = report.judged["agents"]["barpo/X_1"]
    assert told["file"] == str(Path("barpo/X_1/agent.zip"))
    assert told["algorithm"] == "BARPO"
    assert told["training"]["epsilon"] == "ramp_0.2"
    assert told["training"]["kappa"] == 1.0
    assert told["normalisation"] == f"VecNormalize, {Path('barpo/X_1/vecnormalize.pkl')}"
    assert told["unit_of_epsilon"] == "standard deviations"
    assert told["ball"] == report.judged["agents"]["ppo/X_1"]["ball"] == "L2Ball(scale=[1.0, 2.0, 0.5])"
    assert told["wrappers"][:3] == ["VecNormalize", "DummyVecEnv of 2", "Monitor"]
    assert report.judged["command"].startswith("sb3-barpo evaluate ppo/X_1 barpo/X_1 --attacks random")
    assert report.judged["versions"].keys() >= {"python", "torch", "stable-baselines3", "sb3-barpo"}
    assert report.judged["date"][:2] == "20"
    printed = capsys.readouterr().out
    for text in ((output / "report.md").read_text(), printed):
        for known in ("barpo/X_1/agent.zip", "ramp_0.2", "L2Ball", "standard deviations", "Brief-v0", "torch", "`sb3-"):
            assert known in text
    assert "(episode-ppo-X_1.png)" in (output / "report.md").read_text()
    assert (output / "episode-ppo-X_1.png").exists()


def test_one_page_holds_everything(tmp_path: Path) -> None:
    agent, output = stored(tmp_path / "agent"), tmp_path / "out"
    evaluated(agent, "--epsilon", 0.1, 0.2, "--names", "<A>", "--output", output, "--html")
    page = (output / "report.html").read_text()
    for picture in ("returns.png", "epsilon.png", "episode--A-.png"):
        assert base64.b64encode((output / picture).read_bytes()).decode() in page
    assert page.count("<table") == 3  # returns, beyond the mean, how far actions move
    assert "&lt;A&gt;" in page
    assert "<A>" not in page
    assert not re.search(r"(src|href)=.(?!data:)", page)  # nothing outside it


def test_links_to_files_with_spaces_work(tmp_path: Path) -> None:
    agent = stored(tmp_path / "agent")
    evaluated(agent, "--epsilon", 0.1, "--names", "my agent", "--output", tmp_path / "out")
    assert (tmp_path / "out" / "episode-my agent.png").exists()
    assert "(episode-my%20agent.png)" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize(
    ("given", "epsilons"),
    [(["0.1"], [0.1]), (["0.2", "0.1", "0.2"], [0.1, 0.2]), (["0", "0.1"], [0.1])],
)
def test_strengths_are_those_that_are_given(given: list[str], epsilons: list[float], tmp_path: Path) -> None:
    evaluated(stored(tmp_path / "agent"), "--epsilon", *given, "--output", tmp_path / "out")
    assert RobustnessReport.from_csv(tmp_path / "out" / "report.csv").epsilons == epsilons


def test_different_units_get_no_common_curve_unless_asked(tmp_path: Path) -> None:
    raw, scaled = stored(tmp_path / "raw"), stored(tmp_path / "scaled", normalised=True)
    evaluated(raw, scaled, "--epsilon", 0.1, 0.2, "--output", tmp_path / "out")
    assert not (tmp_path / "out" / "epsilon.png").exists()
    assert "no curve over ε, since the agents' ε are in different units" in (tmp_path / "out" / "report.md").read_text()
    evaluated(raw, scaled, "--epsilon", 0.1, 0.2, "--output", tmp_path / "out", "--mixed-units")
    assert (tmp_path / "out" / "epsilon.png").exists()


def refusal(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        evaluated(*arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_a_folder_holds_one_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent, output = stored(tmp_path / "agent"), tmp_path / "out"
    evaluated(agent, "--epsilon", 0.1, "--output", output)
    evaluated(agent, "--epsilon", 0.1, "--output", output)  # the same may be repeated
    said = refusal(capsys, agent, "--epsilon", 0.2, "--seed", 3, "--output", output)
    assert "holds another evaluation, which differs in epsilon, seed. Choose another output folder" in said
    (output / "evaluation.json").unlink()  # as version 0.1 left it
    assert "holds another evaluation" in refusal(capsys, agent, "--epsilon", 0.1, "--output", output)


def test_an_output_that_cannot_be_written_is_noticed_before_work_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit):
        evaluated(stored(tmp_path / "agent"), "--epsilon", 0.1, "--output", tmp_path / "file" / "out")
    said = capsys.readouterr().err
    assert "Cannot write to the folder" in said
    assert "Choose another output folder" in said
    assert "natural" not in said  # the line that tells of finished episodes


def test_what_training_does_not_tell_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ppo = stored(tmp_path / "ppo")
    said = refusal(capsys, ppo, "--output", tmp_path / "out")
    assert "At which epsilon are the agents to be attacked? Their training does not tell (none was trained" in said
    one, two = (stored(tmp_path / f"e{e}", BARPO, epsilon=e) for e in (0.1, 0.2))
    assert "(e0.1: 0.1, e0.2: 0.2)" in refusal(capsys, one, two, "--output", tmp_path / "out")
    round_ = stored(tmp_path / "round", BARPO, epsilon=0.1, adversary=Adversary(KL(), SGLD(), L2Ball()))
    said = refusal(capsys, one, round_, "--output", tmp_path / "out")
    assert "different balls (LinfBall(scale=1.0), L2Ball(scale=1.0))" in said
    evaluated(one, round_, "--output", tmp_path / "out", "--ball", "l2")
    told = RobustnessReport.from_json(tmp_path / "out" / "report.json").judged["agents"]
    assert [agent["ball"] for agent in told.values()] == ["L2Ball(scale=1.0)"] * 2


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["ppo/X_1/agent.zip", "barpo/X_1/agent.zip"], ["ppo/X_1", "barpo/X_1"]),
        (["a/ppo/X_1/agent.zip", "b/ppo/X_1/agent.zip"], ["a/ppo/X_1", "b/ppo/X_1"]),
        (["a/mine.zip", "b/mine.zip", "a/other.zip"], ["a/mine", "b/mine", "other"]),
        (["X_1/agent.zip", "X_1/best_model.zip"], ["X_1/agent", "X_1/best_model"]),
    ],
)
def test_agents_are_named_by_what_tells_them_apart(files: list[str], names: list[str], tmp_path: Path) -> None:
    for file in files:
        stored((tmp_path / file).parent, name=Path(file).name)
    evaluated(*(tmp_path / file for file in files), "--epsilon", 0.1, "--output", tmp_path / "out")
    assert RobustnessReport.from_csv(tmp_path / "out" / "report.csv").agents == names


def test_alone_the_program_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    shown = capsys.readouterr().out
    for command in ("demo", "evaluate", "tune", "train", "enjoy"):
        assert f"\n    {command} " in shown


def test_in_python_the_agent_s_own_ball_and_strength_are_the_default() -> None:
    model = BARPO("MlpPolicy", make_envs(), epsilon="ramp_0.3", adversary=Adversary(KL(), SGLD(), L2Ball(2.0)), **TINY)
    report = evaluate_robustness(model, make_envs(), "mad", n_eval_episodes=1)
    assert report.epsilons == [0.3]
    assert report.judged["agents"]["BARPO"]["ball"] == "L2Ball(scale=2.0)"
    assert evaluate_robustness(victim(), make_envs(), "mad", n_eval_episodes=1).epsilons == [0.075]
    callback = RobustEvalCallback(make_envs(), attacks="random", eval_freq=16, n_eval_episodes=1, verbose=0)
    model.learn(16, callback=callback)
    assert callback.report is not None
    assert callback.report.epsilons == [0.3]


def test_normalisation_without_statistics_is_refused_and_its_absence_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="VecNormalize has no statistics yet"):
        evaluate_robustness(victim(), make_envs(normalized=True), "random", n_eval_episodes=1)
    agent = load_agent(stored(tmp_path / "it", BARPO, normalised=True))
    with pytest.warns(UserWarning, match="trained with VecNormalize.*raw"):
        evaluate_robustness(agent.model, make_vec_env(BRIEF), "random", n_eval_episodes=1)


class Pixels(gym.Wrapper[Any, Any, Any, Any]):
    """Ends at once."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, *_ = self.env.step(action)
        return observation, float(reward), True, False, {}


def test_an_image_is_not_attacked_by_less_than_a_pixel_s_step_without_a_word() -> None:
    venv = DummyVecEnv([lambda: Monitor(Pixels(Still(spaces.Box(0, 255, (3, 40, 40), "uint8"))))])
    model = PPO("CnnPolicy", venv, n_steps=8, batch_size=8, device="cpu")
    with pytest.warns(UserWarning, match="an attack of ε = 0.075 changes nothing. Choose ε in units of a pixel"):
        evaluate_robustness(model, venv, "random", n_eval_episodes=1)


def test_a_video_of_the_natural_and_the_attacked_episode(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("moviepy")
    agent, output = stored(tmp_path / "agent"), tmp_path / "out"
    monkeypatch.setattr(PendulumEnv, "render", lambda env: np.full((16, 16, 3), 9, np.uint8))
    evaluated(agent, "--epsilon", 0.1, "--names", "a b", "--output", output, "--video", "--html")
    assert (output / "episode-a b.mp4").read_bytes()[4:8] == b"ftyp"
    assert "- [a b, natural and attacked](episode-a%20b.mp4)" in (output / "report.md").read_text()
    assert '<a href="episode-a%20b.mp4">a b, natural and attacked</a>' in (output / "report.html").read_text()
    monkeypatch.setattr(PendulumEnv, "render", lambda env: None)
    said = refusal(capsys, agent, "--epsilon", 0.1, "--output", tmp_path / "other", "--video")
    assert "The environment cannot be rendered" in said
    assert not (tmp_path / "other").exists()
