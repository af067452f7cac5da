"""The command ``tune``, from end to end."""

from pathlib import Path
from typing import Any

import pytest
from cheap_tuning import AGENT, EVALUATION, SPACE, Failing, cheap

from sb3_barpo import tuning
from sb3_barpo.cli import main
from sb3_barpo.evaluation import RobustnessReport
from sb3_barpo.tuning import Floor, StrengthSpace
from sb3_barpo.tuning.confirm import PAPER, by_candidate
from sb3_barpo.tuning.spaces import Choices, Numbers

TINY = ["--steps", "64", "-params", "n_steps:32", "batch_size:32", "n_epochs:1", "use_sde:False", "--n-envs", "1"]


def command(folder: Path, *arguments: str, env: str = "Pendulum-v1") -> None:
    main(["tune", "--env", env, *TINY, "--episodes", "1", "--output", str(folder), *arguments])


def test_the_command_from_end_to_end(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    confirmation = ["--confirm", "1", "--confirm-seeds", "1", "--confirm-attacks", "random"]
    command(tmp_path, "--trials", "2", "--epsilon", "0.1", *confirmation, env="CartPole-v1")  # its episodes are short
    shown = capfd.readouterr()
    written = {path.name for path in tmp_path.iterdir()}
    assert {"study.log", "trials.csv", "confirmed.csv", "best.yml", "best.py", "report.md", "agents"} <= written
    assert "Confirmed on fresh seeds" in shown.out
    assert "strength: 100%" in shown.err
    assert "Trial 0 finished" not in shown.err
    assert "Warning" not in shown.err
    candidates = set(by_candidate(RobustnessReport.from_csv(tmp_path / "confirmed.csv"), cheap()).index)
    assert PAPER in candidates
    assert len(candidates) == 2
    command(tmp_path, "--trials", "0", *confirmation)  # only reports
    assert "strength: " not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--algo", "a2c"], "settings to search for ppo, ppo_lstm, barpo, "),
        (["--algo", "ppo", "--margin-range", "1", "2", "--solvers", "pgd"], "leave out --margin-range, --solvers"),
        (["--criterion", "floor"], "The criterion floor needs --natural-floor"),
        (["--criterion", "mean"], "there are blend"),
        (["--weight", "2"], "weight of the worst case must be between 0 and 1"),
        (["--epsilon", "0"], "two finite numbers above 0"),
        (["--epsilon-range", "0.2", "0.1"], "the lower first"),
        (["--range", "kappa", "1"], "--range takes a name and two numbers, but got kappa 1"),
        (["--range", "kapa", "1", "2"], "'kapa' is no setting with a range to search. Here these are: kappa"),
        (["--choices", "attacker", "sarl"], "'attacker' is no setting with choices to search. There is none here"),
        (["--algo", "carppo", "--kinds", "temperature", "ramp"], "Here these are: weight"),
        (["--algo", "carppo", "-params", "weight:3"], "weight cannot be set in a study"),
        (["--epsilon-kinds", "competence"], "competence follows the return: say in which range"),
        (["--epsilon-kinds", "zigzag"], "The kinds of epsilon are"),
        (["--attacks", "sarl"], "sarl would have to be learned"),
        (["--attacks", "fog"], "Unknown attack 'fog'"),
        (["--confirm-attacks", "fog"], "Unknown attack 'fog'"),
        (["--confirm-budget", "lavish"], "Unknown budget"),
        (["--confirm", "-1"], "top is -1"),
        (["--trials", "-1"], "at least 0 trials"),
        (["--trials", "0"], "There is no study 'strength': there is no journal"),
        (["--jobs", "0"], "1 process"),
        (["--steps", "0"], "at least 1 step"),
        (["-params", "n_stepps:3"], "Unknown setting 'n_stepps', with the value 3. Did you mean 'n_steps'?"),
        (["-params", "epsilon:3"], "epsilon cannot be set in a study, which searches for it"),
        (["-params", "n_steps"], "is not of the form name:value"),
        (["--env", "Nowhere-v0"], "Nowhere"),
        (["--storage", "grpc://host"], "grpc://host:port"),
        (["--storage", "nosql://me:s3cret@host"], "me:***@host"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(
    arguments: list[str], match: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        command(tmp_path / "out", *arguments)
    assert stop.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("sb3-barpo")
    assert match in last


def test_the_command_tells_why_trials_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "Tuning", lambda *args, **more: Failing(AGENT, SPACE, EVALUATION))
    with pytest.raises(SystemExit, match="sb3-barpo: 3 trials have failed, the last one with ArithmeticError: no luck"):
        command(tmp_path)


def test_the_command_can_be_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "tune_strength", interrupt)
    with pytest.raises(SystemExit) as stop:
        command(tmp_path)
    assert stop.value.code == 130
    assert "rerun the same command to resume" in capsys.readouterr().err


def test_all_of_the_space_can_be_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Any] = []

    def note(settings: Any, *args: Any, **kwargs: Any) -> None:
        said.append(settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "tune_strength", note)
    ranges = ["--epsilon-range", "0.1", "0.3", "--range", "kappa", "1", "2", "--inner-steps", "2", "5"]
    kinds = ["--epsilon-kinds", "ramp", "step", "--kinds", "kappa", "linear", "--solvers", "pgd", "sgld"]
    with pytest.raises(SystemExit):
        command(tmp_path, *ranges, *kinds, "--criterion", "floor", "--natural-floor", "-500")
    with pytest.raises(SystemExit):
        command(tmp_path, "--epsilon", "0.1")
    with pytest.raises(SystemExit):
        command(tmp_path, "--epsilon", "0.1", "--margin-range", "1", "3")
    assert said[0].space == StrengthSpace(
        (0.1, 0.3), {"kappa": Numbers(1.0, 2.0, ("linear",))}, ("ramp", "step"), 0.75, ("pgd", "sgld"), (2, 5)
    )
    more = ["--adapt-steps", "5000", "--space", "ppo+strength", "--pruner", "hyperband", "--trial-seeds", "3"]
    with pytest.raises(SystemExit):
        command(tmp_path, *more, "--attacks", "mad", "paad")
    assert (said[3].adapt_steps, said[3].ppo, said[3].pruner, said[3].n_seeds) == (5000, True, "hyperband", 3)
    assert said[0].criterion == Floor(-500.0)
    assert said[1].space == StrengthSpace.around(0.1) == StrengthSpace((0.1, 0.1), margin=(0.5, 4.0))
    assert said[2].space == StrengthSpace((0.1, 0.1), margin=(1.0, 3.0))
    own = ["--range", "temperature", "1", "10", "--range", "weight", "2", "2"]
    with pytest.raises(SystemExit):
        command(tmp_path, "--algo", "carppo", *own, "--epsilon-kinds", "competence", "--returns", "0", "9")
    assert said[4].space.settings == {"weight": Numbers(2.0, 2.0, ("constant",)), "temperature": Numbers(1.0, 10.0)}
    assert (said[4].agent.algo, said[4].space.returns) == ("carppo", (0.0, 9.0))
    with pytest.raises(SystemExit):
        command(tmp_path, "--algo", "radialppo", "--choices", "intervals", "ramp_1", "0.5")
    assert said[5].space.settings["intervals"] == Choices(("ramp_1", 0.5))
    assert said[5].space.solvers == ()
