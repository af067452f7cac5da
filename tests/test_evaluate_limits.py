"""Options of `evaluate` that limit attacks to features, rates and moments."""

from pathlib import Path
from typing import Any

import pytest
from helpers import make_envs
from test_evaluate import agents, command  # noqa: F401
from victims import victim

from sb3_barpo.adversary import LinfBall, Timing
from sb3_barpo.agents.load import LoadedAgent
from sb3_barpo.commands.limits import index_of
from sb3_barpo.evaluation.campaign import evaluate


def test_an_evaluation_within_limits(tmp_path: Path) -> None:
    """Features and timing reach fits, attacks and what is written; another evaluation does not take the folder."""
    limits = {"features": [2], "timing": Timing(every=5)}
    agent = LoadedAgent("agent", victim(), make_envs(n_envs=2), env_id="Pendulum-v1")
    settings: dict[str, Any] = {"output": tmp_path, "n_eval_episodes": 1, "progress_bar": False}
    evaluate([agent], ["mad"], [0.3], **settings, **limits)
    ball = LinfBall([0.0, 0.0, 1.0], Timing(every=5))
    assert repr(ball) in (tmp_path / "report.md").read_text()
    with pytest.raises(ValueError, match="holds another evaluation, which differs in ball"):
        evaluate([agent], ["mad"], [0.3], **settings)
    other = LoadedAgent("other", victim("CartPole-v1"), make_envs("CartPole-v1"), env_id="CartPole-v1")
    with pytest.raises(ValueError, match=r"The agents' observations differ .* so the features \[2\] are not the same"):
        evaluate([agent, other], ["mad"], [0.3], **settings, **limits)


@pytest.mark.parametrize(
    ("options", "ball"),
    [
        (["--features", "2", "0"], LinfBall([1.0, 0.0, 1.0])),
        (["--rate-limit", "0.05"], LinfBall(1.0, Timing(rate=0.05))),
        (["--every", "3", "--moments", "4", "--trigger", "0.1"], LinfBall(1.0, Timing(None, 3, 4, 0.1))),
    ],
)
def test_options(agents: Path, tmp_path: Path, options: list[str], ball: LinfBall) -> None:  # noqa: F811
    command(agents, tmp_path, "--attacks", "random", *options)
    assert repr(ball) in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--features", "3"], "There are features 0 to 2, but not 3"),
        (["--features", "speed"], "has no feature 'speed'. Give its index"),
        (["--rate-limit", "0"], "rate is 0.0, but a limit of the change"),
        (["--every", "0"], "every is 0, but an attack acts every"),
        (["--moments", "0"], "moments is 0, but an attack without a moment"),
        (["--rate-limit", "0.1", "--every", "2"], "contradicts itself"),
    ],
)
def test_bad_options(
    agents: Path,  # noqa: F811
    tmp_path: Path,
    options: list[str],
    error: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        command(agents, tmp_path / "none", "--attacks", "random", *options)
    assert stopped.value.code == 2
    assert error in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_features_of_mujoco_have_names() -> None:
    agent = LoadedAgent("agent", victim(), make_envs(), env_id="Hopper-v5")
    assert index_of("x_velocity", agent) == 5
    assert index_of("7", agent) == 7
    with pytest.raises(ValueError, match=r"Hopper-v5 has no feature 'y'\. Its features are z, torso_angle, "):
        index_of("y", agent)
