"""The search for the strongest of a grid: who is kept, what is found again, what survives a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from helpers import TINY, make_envs
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecMonitor, VecNormalize
from victims import victim

from sb3_barpo import BARPO
from sb3_barpo.agents.pack import pack, unpack
from sb3_barpo.attacks import PAAD, SARL, RobustSarsa, SarsaMAD
from sb3_barpo.evaluation import evaluate_robustness, search
from sb3_barpo.evaluation.budgets import BUDGETS, Budget, Member, make_budget
from sb3_barpo.evaluation.members import Task, Victim, build
from sb3_barpo.evaluation.search import find_attacks

FAST = {"n_steps": 16, "batch_size": 32, "n_epochs": 1}
GRID = Budget(
    {
        "robust_sarsa": [Member("robust_sarsa", 32, {"n_epochs": 1}, seed) for seed in (0, 1)],
        "sarsa_mad": [Member("sarsa_mad", 0, {"rho": rho}) for rho in (0.01, 0.1)],
        "sarl": [Member("sarl", 32, FAST), Member("sarl", 32, {**FAST, "learning_rate": "lin_0.01"})],
        "paad": [Member("paad", 32, {**FAST, "value_rate": 0.5})],
    },
    n_episodes=2,
)
ALL = list(GRID.members)


def siege(folder: Path | None = None, **kwargs: Any) -> Victim:
    venv = make_envs(n_envs=2, normalized=True)
    venv.reset()  # the first statistics
    model = PPO("MlpPolicy", venv, **TINY)
    model.policy.load_state_dict(victim().policy.state_dict())
    return Victim(model, venv, folder)


def find(folder: Path, names: list[str], **kwargs: Any) -> dict[str, Any]:
    return find_attacks([siege(folder)], names, 0.3, GRID, **kwargs)[0]


def records(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def written(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


# --- who is kept


def test_the_strongest_member_of_each_grid_is_kept(tmp_path: Path) -> None:
    found = find(tmp_path, ALL)
    assert [type(found[name]) for name in ALL] == [RobustSarsa, SarsaMAD, SARL, PAAD]
    tried = records(tmp_path)
    assert len(tried) == sum(map(len, GRID.members.values()))
    for name, attack in found.items():
        means = {key: np.mean(record["returns"]) for key, record in tried.items() if record["attack"] == name}
        best = min(means, key=means.get)  # type: ignore[arg-type]
        kept = type(attack).load(tmp_path / f"{best}.zip", attack.model)
        clean = np.linspace(-1, 1, 12).reshape(4, 3)
        for one in (attack, kept):
            one.seed(0)
        np.testing.assert_array_equal(attack.perturb(clean), kept.perturb(clean))


def test_members_are_compared_on_other_episodes_than_the_report_s(tmp_path: Path) -> None:
    """The selection is repeated by hand, on seeds that no report of fewer than a million episodes reaches."""
    attack = find(tmp_path, ["paad"])["paad"]
    (record,) = records(tmp_path).values()
    target = siege()
    report = evaluate_robustness(target.model, target.venv, attack, n_eval_episodes=2, seed=1_000_000)
    rows = report.to_frame()
    assert rows.loc[rows["attack"] == "paad", "return"].to_list() == record["returns"]


def test_rs_mad_takes_the_best_action_value_over(tmp_path: Path) -> None:
    found = find(tmp_path, ["sarsa_mad"])
    assert list(found) == ["sarsa_mad"]
    tried = records(tmp_path)
    sarsas = {key: np.mean(one["returns"]) for key, one in tried.items() if one["attack"] == "robust_sarsa"}
    best = min(sarsas, key=sarsas.get)  # type: ignore[arg-type]
    assert {one["base"] for one in tried.values() if one["attack"] == "sarsa_mad"} == {best}
    kept = RobustSarsa.load(tmp_path / f"{best}.zip", found["sarsa_mad"].model)
    for mine, its in zip(found["sarsa_mad"].q.parameters(), kept.q.parameters(), strict=True):
        assert mine.equal(its)


def test_several_victims_are_searched_together(tmp_path: Path) -> None:
    other = siege(tmp_path / "b")
    other.model.policy.action_net.weight.data.mul_(-1)
    found = find_attacks([siege(tmp_path / "a"), other], ["paad"], 0.3, GRID)
    assert found[0]["paad"].origin != found[1]["paad"].origin
    assert len(records(tmp_path / "a")) == len(records(tmp_path / "b")) == 1


@pytest.mark.slow
def test_processes_and_repetition_change_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    find(tmp_path / "one", ["sarl"])
    find(tmp_path / "two", ["sarl"], n_jobs=2, progress_bar=True)
    one, two = records(tmp_path / "one"), records(tmp_path / "two")
    assert one.keys() == two.keys()
    assert [one[key]["returns"] for key in one] == [two[key]["returns"] for key in one]
    assert "attackers 2/2: sarl on two, 32 steps" in capsys.readouterr().err


# --- what is found again


def test_what_is_finished_is_not_done_again(tmp_path: Path) -> None:
    find(tmp_path, ALL)
    before = written(tmp_path)
    find(tmp_path, ALL)
    assert written(tmp_path) == before


@pytest.mark.parametrize("change", ["victim", "normalizer", "epsilon", "seed"])
def test_whatever_matters_is_fitted_anew(change: str, tmp_path: Path) -> None:
    find(tmp_path, ["paad"])
    target = siege(tmp_path)
    if change == "victim":
        target.model.policy.action_net.bias.data.add_(1)
    if change == "normalizer":
        target.venv.obs_rms.mean += 1
    find_attacks([target], ["paad"], 0.4 if change == "epsilon" else 0.3, GRID, seed=int(change == "seed"))
    assert len(records(tmp_path)) == 2


def test_a_search_without_folder_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (found,) = find_attacks([siege()], ["paad"], 0.3, GRID)
    found["paad"].perturb(np.zeros((1, 3)))
    assert not [*tmp_path.glob("attacks-*"), *tmp_path.glob("SB3-*")]


KILLED = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_search import ALL, find
find(Path({folder!r}), ALL)
"""


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    """Killed three times, each time when a few more members are finished."""
    script = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    seen: dict[str, int] = {}
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", script], env=environment)
        while process.poll() is None and len(list(tmp_path.glob("*.json"))) == len(seen):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        finished = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
        assert seen.items() < finished.items()  # nothing was lost, and nothing done twice
        seen = finished
    find(tmp_path, ALL)
    finished = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    assert seen.items() < finished.items()
    assert len(finished) == sum(map(len, GRID.members.values()))


# --- budgets


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("n_envs", [1, 3, 8, 10])
def test_every_member_can_be_built(budget: str, n_envs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the constructors, whose warnings about uneven minibatches would be errors here."""
    target = siege()
    grid = make_budget(budget, "Hopper-v5", robust_victim=False, n_envs=n_envs).members
    venv = make_envs(n_envs=n_envs)
    for member in {
        json.dumps(some[-1].settings): some[-1] for some in grid.values() if some[-1].attack != "sarsa_mad"
    }.values():
        record = {"epsilon": 0.1, "search_seed": 0, "deterministic": True}
        attack = build(Task(Path("x"), record, member, b"", None, None), target.model, target.venv)
        if isinstance(attack, SARL | PAAD):
            settings = {key: attack.kwargs[key] for key in ("n_steps", "batch_size")}
            PPO("MlpPolicy", venv, **settings)  # warns where a rollout is not a whole number of minibatches


def test_the_paper_s_grid_is_the_published_one() -> None:
    hopper = make_budget("paper", "Hopper-v5", robust_victim=False, n_envs=8)
    assert {name: len(members) for name, members in hopper.members.items()} == {
        "robust_sarsa": 30,
        "sarsa_mad": 10,
        "worst_q": 1,  # takes over a Robust Sarsa, at no cost
        "sarl": 216,
        "paad": 216,
    }
    assert {member.total_timesteps for member in hopper.members["sarl"]} == {999_424}
    ant = make_budget("paper", "Ant-v5", robust_victim=True, n_envs=8).members["sarl"]
    assert {member.total_timesteps for member in ant} == {4_999_168}
    rates = {
        member.settings["learning_rate"] for member in ant if not isinstance(member.settings["learning_rate"], str)
    }
    assert rates == {1e-5, 3e-5, 1e-4}
    cheetah = make_budget("paper", "HalfCheetah-v5", robust_victim=False, n_envs=8).members["sarl"]
    ratios = {member.settings["value_rate"] for member in cheetah if member.settings["learning_rate"] == 1e-3}
    assert sorted(ratios) == pytest.approx([0.01, 0.03, 0.1])


def test_robust_victims_have_a_grid_of_their_own(tmp_path: Path) -> None:
    venv = make_envs(n_envs=2)
    model = BARPO("MlpPolicy", venv, **TINY)
    seen = []

    def note(budget: str, env_id: str, robust_victim: bool, n_envs: int) -> Budget:
        seen.append((env_id, robust_victim, n_envs))
        return GRID

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "make_budget", note)
        find_attacks([Victim(model, venv)], ["paad"], 0.1)
    assert seen == [("Pendulum-v1", True, 2)]


# --- refusals


def test_an_unknown_budget_is_refused() -> None:
    target = siege()
    with pytest.raises(ValueError, match=r"Unknown budget 'lavish'. Choose from quick, standard, paper"):
        evaluate_robustness(target.model, target.venv, "all", budget="lavish")


def test_nothing_can_be_learned_without_strength() -> None:
    target = siege()
    with pytest.raises(ValueError, match="robust_sarsa, sarl, paad cannot be fitted at epsilon = 0"):
        evaluate_robustness(target.model, target.venv, "all", epsilon=0)


def test_only_learned_attacks_are_searched_for() -> None:
    with pytest.raises(ValueError, match="learned can be searched for, but mad, fog is not"):
        find_attacks([siege()], ["mad", "fog", "sarl"], 0.1)


@pytest.mark.parametrize("grid", [{}, {"sarl": []}])
def test_a_budget_needs_members(grid: dict[str, list[Member]]) -> None:
    with pytest.raises(ValueError, match="The budget has no members for sarl"):
        find_attacks([siege()], ["sarl"], 0.1, Budget(grid, n_episodes=1))


def test_a_member_that_cannot_be_fitted_tells_why(tmp_path: Path) -> None:
    """What was finished before it stays."""
    grid = Budget({"paad": [*GRID.members["paad"], Member("paad", 0, FAST)]}, n_episodes=1)
    with pytest.raises(ValueError, match="total_timesteps must be a whole number, at least 1, but it is 0"):
        find_attacks([siege(tmp_path)], ["paad"], 0.1, grid)
    assert len(records(tmp_path)) == 1


def test_environments_in_other_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    venv = SubprocVecEnv([lambda: make_envs().envs[0]])  # type: ignore[attr-defined]
    try:
        model = PPO("MlpPolicy", venv, **TINY)
        with pytest.raises(TypeError, match=r"SubprocVecEnv cannot be copied.*DummyVecEnv"):
            find_attacks([Victim(model, venv)], ["paad"], 0.1, GRID)
    finally:
        venv.close()


# --- shipping


def test_every_layer_arrives() -> None:
    bare = DummyVecEnv([lambda: gym.make("Pendulum-v1")] * 2)
    venv = VecFrameStack(VecNormalize(VecMonitor(bare)), 2)
    venv.venv.obs_rms.mean += 3  # type: ignore[attr-defined]
    model = PPO("MlpPolicy", venv, **TINY)
    other, environments = unpack(pack(model, venv))
    assert [type(layer) for layer in (environments, environments.venv, environments.venv.venv)] == [
        VecFrameStack,
        VecNormalize,
        VecMonitor,
    ]
    np.testing.assert_array_equal(environments.venv.obs_rms.mean, venv.venv.obs_rms.mean)
    assert environments.venv is not venv.venv
    for one in (venv, environments):
        one.seed(0)
    seen = venv.reset()
    np.testing.assert_array_equal(environments.reset(), seen)
    np.testing.assert_array_equal(other.predict(seen)[0].shape, model.predict(seen)[0].shape)
    assert other.get_vec_normalize_env() is environments.venv
