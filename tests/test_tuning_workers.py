"""Many workers on one study, some of them killed."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from cheap_tuning import AGENT, Cheap, Failing, Hopeless, Suicidal, cheap, wait_until, worker_pids
from optuna.trial import TrialState

from sb3_barpo.tuning import TuningError, workers
from sb3_barpo.tuning.study import finished, load_study, open_study
from sb3_barpo.tuning.workers import release_dead, run_trials

TESTS = str(Path(__file__).parent)
SLOW = replace(AGENT, n_envs=100)  # a second a trial: longer than the imports of two processes differ
needs_signals = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")


COMMAND = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs the tests in the background ignores it
sys.path.insert(0, {tests!r})
from cheap_tuning import *
from dataclasses import replace
from sb3_barpo.tuning.workers import run_trials
if __name__ == "__main__":
    run_trials(cheap(agent=replace(AGENT, n_envs={hundredths})), {storage!r}, "it", {n_trials}, {n_jobs})
"""


def start(folder: Path, log: str, n_trials: int, n_jobs: int, hundredths: int = 30) -> subprocess.Popen[str]:
    """The same in a process of its own, as another terminal would."""
    script = folder / "command.py"
    script.write_text(COMMAND.format(tests=TESTS, storage=log, n_trials=n_trials, n_jobs=n_jobs, hundredths=hundredths))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([TESTS, *sys.path])}
    return subprocess.Popen([sys.executable, str(script)], env=environment, stderr=subprocess.PIPE, text=True)


# One machine


def test_two_processes_share_a_study(tmp_path: Path) -> None:
    study = run_trials(cheap(agent=SLOW), tmp_path / "log", "it", 6, n_jobs=2)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 6
    assert len(worker_pids(study)) == 6  # one each
    assert os.getpid() not in worker_pids(study)
    began, ended = zip(*((trial.datetime_start, trial.datetime_complete) for trial in study.trials), strict=True)
    assert any(later < end for later, end in zip(began[1:], ended, strict=False))  # they ran side by side


@pytest.mark.slow
@needs_signals
def test_ten_killed_workers_lose_nothing(tmp_path: Path) -> None:
    study = run_trials(cheap(Suicidal), tmp_path / "log", "it", 5, n_jobs=2)
    assert len(finished(study)) == 5
    killed = study.trials[:10]
    assert [trial.state for trial in killed] == [TrialState.FAIL] * 10
    assert not any("error" in trial.user_attrs for trial in killed)
    tried = [trial.params for trial in study.trials]
    for trial in killed:  # each was tried again, up to three times
        if trial.user_attrs.get("retries", 0) < 3:
            assert tried.count(trial.params) > 1
    assert max(trial.user_attrs.get("retries", 0) for trial in study.trials) == 3


@needs_signals
@pytest.mark.slow
def test_sigkill_from_outside_ten_times(tmp_path: Path) -> None:
    """At any moment of a worker's life; what had finished stays as it was, to the letter."""
    n_trials, log = 12, tmp_path / "log"
    command = start(tmp_path, str(log), n_trials, 2)
    try:
        kept: dict[int, Any] = {}
        for i in range(10):
            wait_until(lambda: log.exists() and log.stat().st_size)
            study = None
            victims: list[int] = []
            while not victims:
                assert command.poll() is None
                time.sleep(0.05)
                try:
                    study = load_study(log, "it")
                except ValueError:  # it is being made
                    continue
                running = study.get_trials(states=(TrialState.RUNNING,))
                victims = [t.user_attrs["worker"]["pid"] for t in running if "worker" in t.user_attrs]
                victims = [pid for pid in victims if psutil.pid_exists(pid)]
            assert study is not None
            now = {trial.number: trial for trial in finished(study)}
            assert all(now[number] == trial for number, trial in kept.items())
            kept = now
            time.sleep(0.04 * i)  # sooner or later in its life
            try:
                os.kill(victims[0], signal.SIGKILL)
            except ProcessLookupError:
                continue
        assert command.wait(120) == 0, command.stderr and command.stderr.read()
    finally:
        command.kill()
        command.communicate()
    study = load_study(log, "it")
    done = {trial.number: trial for trial in finished(study)}
    assert len(done) == n_trials
    assert all(done[number] == trial for number, trial in kept.items())
    assert not study.get_trials(states=(TrialState.RUNNING,))
    assert [trial for trial in study.trials if trial.state == TrialState.FAIL]


@needs_signals
@pytest.mark.slow
def test_a_command_that_was_killed_goes_on_beside_its_old_workers(tmp_path: Path) -> None:
    """They finish what they do, and are not done twice."""
    log = tmp_path / "log"
    command = start(tmp_path, str(log), 3, 2, hundredths=100)
    wait_until(lambda: log.exists() and log.read_text().count('"kappa.constant.value"') >= 3)  # one is the enqueued
    command.kill()
    command.communicate()
    study = run_trials(cheap(agent=SLOW), log, "it", 3, n_jobs=2)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 3


@needs_signals
@pytest.mark.slow
def test_ctrl_c_ends_all_processes_and_their_trials_are_tried_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = start(tmp_path, str(log), 4, 2, hundredths=12_000)
    try:
        wait_until(lambda: log.exists() and log.read_text().count('"kappa.constant.value"') >= 3)  # one is the enqueued
        for process in [*psutil.Process(command.pid).children(recursive=True), psutil.Process(command.pid)]:
            process.send_signal(signal.SIGINT)  # as the terminal does
        errors = command.communicate(timeout=60)[1]
    finally:
        command.kill()
    assert errors.count("KeyboardInterrupt") == 1  # not one of each worker
    assert "leaked" not in errors
    study = load_study(log, "it")
    states = [trial.state for trial in study.trials]
    assert states == [TrialState.FAIL] * 2 + [TrialState.WAITING] * 2
    assert not any(map(psutil.pid_exists, worker_pids(study)))
    retried = study.trials[2].system_attrs["fixed_params"]
    assert retried in [trial.params for trial in study.trials[:2]]


def test_a_trial_of_a_dead_process_is_released(tmp_path: Path) -> None:
    study = open_study(cheap(), tmp_path / "log", "it")
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    dead, elsewhere, alive, reborn, silent = (study.ask() for _ in range(5))
    me = workers._me()
    dead.suggest_float("x", 0, 1)
    dead.set_user_attr("worker", {**me, "pid": child.pid})
    elsewhere.set_user_attr("worker", {**me, "machine": "another", "pid": child.pid})
    alive.set_user_attr("worker", me)
    reborn.set_user_attr("worker", {**me, "created": me["created"] - 3600})  # another process had our id
    release_dead(study)
    states = {trial.number: trial.state.name for trial in study.trials}
    assert [states[trial.number] for trial in (dead, elsewhere, alive, reborn, silent)] == [
        *("FAIL", "RUNNING", "RUNNING", "FAIL", "RUNNING")
    ]
    release_dead(study)  # the same again changes nothing
    waiting = study.get_trials(states=(TrialState.WAITING,))
    assert [trial.user_attrs["retry_of"] for trial in waiting] == [dead.number, reborn.number][: len(waiting)]


def test_a_trial_that_never_said_who_runs_it_is_released_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_study(cheap(), tmp_path / "log", "it")
    study.ask()  # killed before it took any of the parameters that it was enqueued with
    monkeypatch.setattr(workers, "_SILENCE", workers.timedelta(0))
    release_dead(study)
    first, again = study.trials
    assert (first.state, again.state) == (TrialState.FAIL, TrialState.WAITING)
    assert again.system_attrs["fixed_params"] == first.system_attrs["fixed_params"]
    assert again.user_attrs["setting"] == "paper"


def test_a_trial_is_not_tried_for_ever(tmp_path: Path) -> None:
    study = open_study(cheap(), tmp_path / "log", "it")
    for tries in range(5):
        trial = study.ask(fixed_distributions={"epsilon.ramp.value": optuna.distributions.FloatDistribution(0, 1)})
        assert trial.user_attrs.get("retries") == (tries or None) if tries < 4 else "retries" not in trial.user_attrs
        workers._release(study, study.trials[trial.number])


class Overtaken(Cheap):
    """While the first trial runs, someone takes its worker for dead."""

    def objective(self, trial: optuna.Trial) -> tuple[float, ...]:
        if trial.number == 0:
            workers._release(trial.study, trial.study.trials[0])
        return super().objective(trial)


def test_a_worker_that_was_taken_for_dead_leaves_its_trial_to_others(tmp_path: Path) -> None:
    study = run_trials(cheap(Overtaken), tmp_path / "log", "it", 2)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert "error" not in study.trials[0].user_attrs


def test_a_study_does_not_wait_for_ever_for_another_machine(tmp_path: Path) -> None:
    """Of a journal's other machines nobody would learn that they are gone."""
    study = open_study(cheap(), tmp_path / "log", "it")
    trial = study.ask()
    trial.set_user_attr("worker", {"machine": "another", "pid": 1, "created": 0.0})
    study = run_trials(cheap(), tmp_path / "log", "it", 3)
    assert [trial.state.name for trial in study.trials] == ["RUNNING", "COMPLETE", "COMPLETE"]


def test_workers_whose_trials_fail_stop_the_study(tmp_path: Path) -> None:
    with pytest.raises(TuningError, match="trials have failed, the last one with ArithmeticError: no luck"):
        run_trials(cheap(Failing), tmp_path / "log", "it", 8, n_jobs=2)


def test_a_worker_that_cannot_work_stops_the_study(tmp_path: Path) -> None:
    study = open_study(cheap(), tmp_path / "log", "it")
    share = workers._Share(study, 3, workers.tqdm(disable=True))
    with pytest.raises(TuningError, match=r"A worker has failed; its error is above.*__main__"):
        workers._supervise(share, 1, lambda offset: (cheap(n_reports=9), tmp_path / "log", "it", None, offset))


@pytest.mark.slow
@needs_signals
def test_workers_that_are_always_killed_stop_the_study(tmp_path: Path) -> None:
    with pytest.raises(TuningError, match=r"workers were killed, while 0 trials have finished.*use fewer processes"):
        run_trials(cheap(Hopeless), tmp_path / "log", "it", 3, n_jobs=2)


def test_a_bar_instead_of_optuna_s_lines(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run_trials(cheap(), tmp_path / "log", "it", 2, progress_bar=True)
    shown = capfd.readouterr().err
    assert "it: 100%" in shown
    assert "best" in shown
    assert "Trial 0 finished" not in shown
    assert optuna.logging.get_verbosity() == optuna.logging.INFO
