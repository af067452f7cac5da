"""What comes out of a study: confirmed winners, an entry for the Zoo, a script, tables and pictures."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from cheap_tuning import AGENT, cheap
from torch import nn

from sb3_barpo import BARPO
from sb3_barpo.adversary import KL, SGLD, WarmStart
from sb3_barpo.evaluation import RobustnessReport
from sb3_barpo.experiment import Agent, make_model
from sb3_barpo.losses import Defence, WorstCase
from sb3_barpo.schedules import as_schedule
from sb3_barpo.tuning import Blend, Confirmation, Floor, Pareto, task, tune_strength
from sb3_barpo.tuning.confirm import PAPER, best_trials, by_candidate, confirm, ranked, strengths
from sb3_barpo.tuning.results import plain, plot_history, plot_importance, script, write_study, zoo_entry
from sb3_barpo.tuning.study import finished
from sb3_barpo.tuning.workers import run_trials

NONE = Confirmation(top=0)
QUICK = Confirmation(1, 2, attacks=["random"], n_eval_episodes=2)
RELU = {"policy_kwargs": {"activation_fn": "nn.ReLU", "net_arch": [8]}}
STRENGTH = {
    "epsilon": {"kind": "ramp", "value": 0.1235, "end": 0.5, "begin": 0.1, "power": 1.0},
    "kappa": {"kind": "constant", "value": 2.0},
    "adversary": {"solver": "pgd", "n_steps": 5},
}


def report(returns: dict[str, tuple[float, float]]) -> RobustnessReport:
    """Natural returns and those under one attack, by agent."""
    rows = []
    for agent, (natural, attacked) in returns.items():
        rows += [(agent, "natural", 0.0, 0, 0, natural, 5), (agent, "mad", 0.1, 0, 0, attacked, 5)]
    columns = ["agent", "attack", "epsilon", "episode", "seed", "return", "length"]
    return RobustnessReport(pd.DataFrame(rows, columns=columns))


# Who is confirmed, and who wins


def test_means_over_seeds_by_hand() -> None:
    seeds = {
        "paper-seed1": (10.0, 6.0),
        "paper-seed2": (20.0, 2.0),
        "trial-7-seed1": (8.0, 8.0),
        "trial-7-seed2": (8.0, 7.0),
    }
    rows = by_candidate(report(seeds), cheap())
    tested = rows[["improvement", "p"]]
    assert rows.drop(columns=list(tested)).to_dict("index") == {
        "paper": {"natural": 15.0, "mad": 4.0, "worst_case": 4.0, "lowest": 2.0, "preference": 9.5},
        "trial-7": {"natural": 8.0, "mad": 7.5, "worst_case": 7.5, "lowest": 7.0, "preference": 7.75},
    }
    assert tested.loc["paper"].isna().all()
    # 8 and 7.5 against 8 and 11: half a pair of four, and with the two equals U has a variance of 1.5.
    assert tested.loc["trial-7"].to_list() == [1 / 8, pytest.approx(math.erfc(1.5**-0.5 / 2**0.5))]


def test_chance_is_told_from_more_than_chance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four seeds of each, all of one side above all of the other: 2 of 70 orders, and two candidates are compared."""
    seeds = {f"paper-seed{n}": (10.0, float(n)) for n in range(4)}
    for name, worst in (("trial-1", 5.0), ("trial-2", 1.5)):
        seeds |= {f"{name}-seed{n}": (10.0, worst + n) for n in range(4)}
    rows = by_candidate(report(seeds), cheap(criterion=Floor(0.0)))
    assert list(rows.index) == ["trial-1", "trial-2", "paper"]
    assert rows.loc["trial-1", ["improvement", "p"]].to_list() == [1.0, pytest.approx(2 * 2 / 70)]
    assert rows.loc["trial-2", "improvement"] == 13 / 16

    def said(n_candidates: int) -> str:
        def confirmed(study: Any, tuning: Any, *args: Any) -> RobustnessReport:
            names = [f"trial-{trial.number}" for trial in best_trials(study, tuning, n_candidates)]
            given = {
                one.replace("trial-1", names[0]): returns for one, returns in seeds.items() if "trial-2" not in one
            }
            more = {f"{name}-seed{n}": (10.0, float(n)) for name in names[1:] for n in range(4)}
            return report(given | more)

        monkeypatch.setattr("sb3_barpo.tuning.tune.confirm", confirmed)
        tune_strength(cheap(), tmp_path, 4, confirmation=Confirmation(n_candidates, 4))
        return (tmp_path / "report.md").read_text()

    assert "is the better with probability 1.00 (p = 0.029). That is more than chance." in said(1)
    assert "is the better with probability 1.00 (p = 0.057). Chance alone may do that: confirm on more" in said(2)


def test_the_paper_s_setting_is_named_where_it_is_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def confirmed(study: Any, tuning: Any, *args: Any) -> RobustnessReport:
        (winner,) = best_trials(study, tuning, 1)
        return report({"paper-seed1": (10.0, 6.0), f"trial-{winner.number}-seed1": (9.0, paper_lacks)})

    monkeypatch.setattr("sb3_barpo.tuning.tune.confirm", confirmed)
    paper_lacks = 5.0
    result = tune_strength(cheap(), tmp_path, 3, confirmation=Confirmation(1, 1))
    assert result.best == "paper"
    assert result.strength == {"epsilon": "ramp_0.1_0.75_0.0_1.0", "kappa": 1.0}
    said = (tmp_path / "report.md").read_text()
    assert "none of the study's best trials is better than the paper's setting" in said
    assert "natural return 10.0 and worst case 6.00" in said
    paper_lacks = 9.0
    result = tune_strength(cheap(), tmp_path, 3, confirmation=Confirmation(1, 1))
    assert result.best.startswith("trial-")
    assert f"{result.best} has natural return 9.00 and worst case 9.00" in (tmp_path / "report.md").read_text()


def test_the_best_trials_are_the_preferred_ones_besides_the_paper_s(tmp_path: Path) -> None:
    tuning = cheap()
    study = run_trials(tuning, tmp_path / "log", "it", 8, seed=0)
    values = {trial.number: trial.value for trial in study.trials if trial.number}
    best = sorted(values, key=values.get, reverse=True)  # type: ignore[arg-type]
    assert [trial.number for trial in best_trials(study, tuning, 3)] == best[:3]
    assert list(strengths(study, tuning, 2)) == ["paper", f"trial-{best[0]}", f"trial-{best[1]}"]
    assert strengths(study, tuning, 2)["paper"] == tuning.paper


def test_a_trial_below_the_floor_is_no_candidate(tmp_path: Path) -> None:
    tuning = cheap(criterion=Floor(90.0))  # natural is 100 - 100 ε, so ε ≤ 0.1 is allowed
    study = run_trials(tuning, tmp_path / "log", "it", 10, seed=0)
    allowed = [trial for trial in finished(study) if trial.user_attrs["natural"] >= 90]
    assert 1 < len(allowed) < 10
    assert {trial.number for trial in ranked(study, tuning)} == {trial.number for trial in allowed}
    assert ranked(study, tuning)[0].value == max(trial.value for trial in allowed)  # type: ignore[type-var]


def test_a_front_is_spread_over(tmp_path: Path) -> None:
    tuning = cheap(criterion=Pareto())
    study = run_trials(tuning, tmp_path / "log", "it", 12, seed=0)
    front = sorted(trial.values[0] for trial in study.best_trials if "setting" not in trial.user_attrs)
    assert len(front) > 2
    assert [trial.values[0] for trial in best_trials(study, tuning, 2)] == [front[0], front[-1]]
    assert len(best_trials(study, tuning, 99)) == len(front)


def test_a_study_without_an_allowed_trial(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'strength' has 2 complete trials, but none that is allowed. Run more"):
        tune_strength(cheap(criterion=Floor(1000.0)), tmp_path, 2, confirmation=NONE)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"top": -1}, "at least 0 are confirmed, on at least 1 seed, but top is -1"),
        ({"n_seeds": 0}, "n_seeds is 0"),
        ({"attacks": ["fog"]}, "Unknown attack 'fog'"),
        ({"budget": "lavish"}, "Unknown budget 'lavish'"),
    ],
)
def test_a_confirmation_that_is_none(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Confirmation(**changes)


def test_learned_attacks_are_known() -> None:
    assert Confirmation().learns
    assert not QUICK.learns


def test_winners_are_trained_anew_and_only_once(tmp_path: Path) -> None:
    tuning = cheap()
    study = run_trials(tuning, tmp_path / "log", "it", 2)
    seeds = Confirmation(1, 2, first_seed=50, attacks=["random"], n_eval_episodes=1)
    first = confirm(study, tuning, seeds, tmp_path)
    assert sorted(first.agents) == ["paper-seed50", "paper-seed51", "trial-1-seed50", "trial-1-seed51"]
    record = json.loads((tmp_path / "trial-1-seed51" / "agent.json").read_text())
    assert record["seed"] == 51
    assert record["kwargs"]["epsilon"] == strengths(study, tuning, 1)["trial-1"]["epsilon"]
    before = (tmp_path / "trial-1-seed51" / "agent.zip").stat().st_mtime_ns
    assert confirm(study, tuning, seeds, tmp_path).to_frame().equals(first.to_frame())
    assert (tmp_path / "trial-1-seed51" / "agent.zip").stat().st_mtime_ns == before


# What is written


def test_a_strength_is_written_short() -> None:
    assert plain(STRENGTH, "barpo") == {
        "epsilon": "ramp_0.1235_0.5_0.1_1.0",
        "kappa": 2.0,
        "adversary": {"solver": "pgd", "n_steps": 5},
    }
    assert "adversary" not in plain(STRENGTH | {"adversary": {"solver": "sgld", "n_steps": 10}}, "barpo")
    for name in ("epsilon", "kappa"):
        assert as_schedule(plain(STRENGTH, "barpo")[name])(0.7) == as_schedule(STRENGTH[name])(0.7)


def test_a_solver_is_left_out_only_where_it_is_the_algorithm_s_default(monkeypatch: pytest.MonkeyPatch) -> None:
    ten, three = ({"solver": "sgld", "n_steps": n_steps} for n_steps in (10, 3))
    assert [plain(STRENGTH | {"adversary": one}, "barpo").get("adversary") for one in (ten, three)] == [None, three]
    monkeypatch.setattr(BARPO, "defence", Defence(KL(), WorstCase(kappa=1.0), WarmStart(SGLD(n_steps=3))))
    assert [plain(STRENGTH | {"adversary": one}, "barpo").get("adversary") for one in (ten, three)] == [ten, None]
    assert "adversary" not in plain({key: STRENGTH[key] for key in ("epsilon", "kappa")}, "barpo")


def test_the_zoo_takes_the_entry(tmp_path: Path) -> None:
    pytest.importorskip("rl_zoo3")
    from sb3_barpo import zoo

    entry = tmp_path / "best.yml"
    agent = replace(AGENT, env="Pendulum-v1", kwargs={**AGENT.kwargs, "learning_rate": "lin_0.001", **RELU})
    entry.write_text(zoo_entry(agent, plain(STRENGTH, "barpo")))
    zoo.prepare("train", ["--algo", "barpo", "--env", "Pendulum-v1", "-conf", str(entry)])  # which builds the model
    settings = yaml.safe_load(entry.read_text())["Pendulum-v1"]
    assert settings["n_timesteps"] == 64
    assert settings["normalize"] is True
    names = ("normalize", "n_envs", "n_timesteps", "policy")
    kwargs = {key: value for key, value in settings.items() if key not in names}
    assert kwargs["policy_kwargs"] == "dict(activation_fn=nn.ReLU, net_arch=[8])"
    assert make_model(replace(agent, kwargs=kwargs))._adversary.solver.first.n_steps == 5  # type: ignore[attr-defined]


@pytest.mark.parametrize("normalize", [pytest.param(True, marks=pytest.mark.slow), False])
def test_the_script_trains_the_agent(normalize: bool, tmp_path: Path) -> None:
    agent = replace(AGENT, normalize=normalize, kwargs={**AGENT.kwargs, "clip_range": "lin_0.2", **RELU})
    (tmp_path / "best.py").write_text(script(agent, plain(STRENGTH, "barpo")))
    done = subprocess.run(
        [sys.executable, "best.py"], cwd=tmp_path, env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    model = BARPO.load(tmp_path / "agent")
    assert model.policy_kwargs == {"activation_fn": nn.ReLU, "net_arch": [8]}
    assert model.num_timesteps == 64
    assert model.epsilon == "ramp_0.1235_0.5_0.1_1.0"
    assert (tmp_path / "vecnormalize.pkl").exists() == normalize


@pytest.mark.parametrize("criterion", [Blend(), Floor(85.0), Pareto()])
def test_tables_and_pictures(criterion: Any, tmp_path: Path) -> None:
    tuning = cheap(criterion=criterion)
    study = run_trials(tuning, tmp_path / "log", "it", 12, seed=0)
    pictures = write_study(study, tuning, strengths(study, tuning, 2), tmp_path)
    assert sorted(pictures) == ["history.png", "importance.png", "returns.png", "schedules.png"]
    for name in pictures:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    for drawn in (plot_history(study, tuning), plot_importance(study, tuning)):
        assert drawn.axes[0].get_title(loc="left").startswith(f"BARPO on {tuning.agent.env}: ")
    table = pd.read_csv(tmp_path / "trials.csv")
    assert len(table) == 12
    assert table["user_attrs_natural"].to_list() == [trial.user_attrs["natural"] for trial in study.trials]
    assert {"params_margin", "state", "user_attrs_worst_case"} <= set(table)


def test_a_study_of_one_trial_has_pictures(tmp_path: Path) -> None:
    tuning = cheap()
    study = run_trials(tuning, tmp_path / "log", "it", 1)
    assert "worker" in study.trials[0].user_attrs
    assert "importance.png" not in write_study(study, tuning, {PAPER: tuning.paper}, tmp_path)
    assert "worker" not in (tmp_path / "trials.csv").read_text()  # its name holds the machine's


def test_without_confirmation_the_best_of_the_study_is_named(tmp_path: Path) -> None:
    result = tune_strength(cheap(), tmp_path, 6, confirmation=NONE, seed=0)
    best = result.study.best_trial
    assert result.best == (PAPER if best.number == 0 else f"trial-{best.number}")
    assert result.confirmed is None
    assert "It was judged by one seed and not confirmed, which says little" in (tmp_path / "report.md").read_text()
    assert tune_strength(cheap(), tmp_path / "one", 1, confirmation=NONE).best == PAPER
    front = tune_strength(cheap(criterion=Pareto()), tmp_path / "front", 8, confirmation=NONE, seed=0)
    preferred = max(front.study.trials, key=lambda t: Blend().preference(*t.values))
    assert front.best == (PAPER if preferred.number == 0 else f"trial-{preferred.number}")


def test_a_study_is_reported_on_without_its_settings(tmp_path: Path) -> None:
    tune_strength(cheap(criterion=Blend(0.9)), tmp_path, 2, confirmation=NONE)
    result = tune_strength(cheap(), tmp_path, 0, confirmation=NONE)
    assert len(result.study.trials) == 2
    assert "weight 0.9" in (tmp_path / "report.md").read_text()


def test_a_study_needs_trials_and_processes(tmp_path: Path) -> None:
    for numbers in ({"n_trials": -1}, {"n_jobs": 0}):
        with pytest.raises(ValueError, match="at least 0 trials and 1 process"):
            tune_strength(cheap(), tmp_path, **numbers)


# The task


def test_a_task_is_what_our_settings_say() -> None:
    agent, epsilon = task("barpo", "Hopper-v5")
    assert (agent.env, agent.steps, agent.normalize, epsilon) == ("Hopper-v5", 1_000_000, True, 0.075)
    assert not {"epsilon", "kappa", "policy", "n_timesteps"} & agent.kwargs.keys()
    agent, epsilon = task("arpo", "Acrobot-v1", steps=5, n_envs=3, seed=9, kwargs={"gamma": 0.5})
    assert agent == Agent("arpo", "arpo", "Acrobot-v1", 9, 5, 3, {**agent.kwargs, "gamma": 0.5})
    assert epsilon == 0.05
    assert np.isclose(agent.kwargs["gamma"], 0.5)


def test_a_task_without_a_defence() -> None:
    """The strength is that of the algorithms that build on it; PPO's own settings are the entry's."""
    agent, epsilon = task("ppo", "HalfCheetah-v5", kwargs={"gamma": 0.98})
    assert (agent.algo, agent.n_envs, epsilon) == ("ppo", 8, 0.15)
    assert agent.kwargs["learning_rate"] == "lin_0.001"
    assert not {"epsilon", "margin"} & agent.kwargs.keys()
    with pytest.raises(ValueError, match="Unknown setting 'epsilon'"):
        task("ppo", "Hopper-v5", kwargs={"epsilon": 0.1})
    with pytest.raises(ValueError, match=r"settings to search for ppo, .*, but the algorithm is 'a2c'"):
        task("a2c", "Hopper-v5")
