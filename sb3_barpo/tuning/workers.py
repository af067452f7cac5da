"""
Workers: processes that run a study's trials, one each.

A worker may be killed at any time. Its trial is then marked as failed, and its parameters are tried again; what had
finished stays. joblib, which serves elsewhere, gives up when one of its processes is killed, so these are plain ones.
"""

import os
import socket
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import sleep
from typing import Any

import optuna
import psutil
import torch as th
from optuna.trial import FrozenTrial, TrialState
from tqdm import tqdm

from sb3_barpo.tuning.storage import MAX_RETRY
from sb3_barpo.tuning.study import Tuning, finished, open_study

_WORKER, _ERROR = "worker", "error"
#: A running trial that has not said for so long who runs it was killed before it could.
_SILENCE = timedelta(seconds=60)


def run_trials(
    tuning: Tuning,
    storage: str | Path,
    name: str,
    n_trials: int,
    n_jobs: int = 1,
    seed: int | None = None,
    progress_bar: bool = False,
) -> optuna.Study:
    """
    Run trials until the study has as many finished ones as asked for, counting those that it has already and those
    that run on other machines.

    :param tuning: What trials do.
    :param storage: Where the study lives, see :func:`sb3_barpo.tuning.storage.open_storage`.
    :param name: Its name.
    :param n_trials: Number of finished trials, pruned ones included.
    :param n_jobs: Number of processes; 1 runs the trials in this one.
    :param seed: Seed of the sampler. With one process the study is then the same each time, also when it was killed
        between two trials.
    :param progress_bar: Whether to show the progress.
    :return: The study.
    :raises RuntimeError: if trials keep failing, or workers being killed.
    """
    study = open_study(tuning, storage, name)
    with tqdm(total=n_trials, unit="trial", desc=name, disable=not progress_bar) as bar:
        tell = _teller(study, bar)
        release_dead(study)
        if n_jobs == 1:
            while _to_start(study, n_trials) > 0:
                run_one(tuning, study, seed, len(study.get_trials(deepcopy=False)))
                tell()
        else:
            _supervise(tuning, study, storage, n_trials, n_jobs, seed, tell)
    return study


def run_one(tuning: Tuning, study: optuna.Study, seed: int | None, offset: int) -> None:
    """
    Run one trial. One that fails says in its attributes why.

    :param tuning: What it does.
    :param study: The study.
    :param seed: Seed of the sampler.
    :param offset: What is added to it.
    """

    def objective(trial: optuna.Trial) -> tuple[float, ...]:
        trial.set_user_attr(_WORKER, _name(os.getpid()))
        try:
            return tuning.objective(trial)
        except optuna.TrialPruned:
            raise
        except Exception as error:
            trial.set_user_attr(_ERROR, f"{type(error).__name__}: {error}")
            raise

    study.sampler = optuna.samplers.TPESampler(seed=None if seed is None else seed + offset)
    study.optimize(objective, n_trials=1, catch=(Exception,))
    _check_failures(study)


def _work(tuning: Tuning, storage: str | Path, name: str, seed: int | None, offset: int, verbosity: int) -> None:
    """A worker's life."""
    th.set_num_threads(1)  # processes share the cores; more threads slow small networks down
    optuna.logging.set_verbosity(verbosity)
    run_one(tuning, open_study(tuning, storage, name), seed, offset)


def _supervise(
    tuning: Tuning,
    study: optuna.Study,
    storage: str | Path,
    n_trials: int,
    n_jobs: int,
    seed: int | None,
    tell: Callable[[], None],
) -> None:
    """Keep as many workers as asked for, until the study has its trials."""
    # A server that has imported everything once: its forks start at once, without this process's threads.
    context: Any = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
    context.set_forkserver_preload([__name__])
    workers: list[BaseProcess] = []
    started = len(study.get_trials(deepcopy=False))
    try:
        while True:
            for worker in [one for one in workers if not one.is_alive()]:
                workers.remove(worker)
                _check_end(worker)
                release_dead(study)
                tell()
            wanted = min(n_jobs, _to_start(study, n_trials, [worker.pid for worker in workers])) - len(workers)
            for _ in range(wanted):
                arguments = (tuning, storage, study.study_name, seed, started, optuna.logging.get_verbosity())
                workers.append(context.Process(target=_work, args=arguments, daemon=True))
                workers[-1].start()
                started += 1
            if not workers:
                return
            sleep(0.2)
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()
        release_dead(study)


def _check_end(worker: BaseProcess) -> None:
    """A worker that was killed is replaced; one that fails outside its trial would fail again."""
    worker.join()
    if worker.exitcode is not None and worker.exitcode > 0:
        raise RuntimeError(
            "A worker has failed; its error is above. In a script of your own, everything that it runs must stand "
            "below `if __name__ == '__main__':`, because workers import the script."
        )


def _to_start(study: optuna.Study, n_trials: int, own: Sequence[int | None] = ()) -> int:
    """Number of trials that this process's workers, those at work included, should run."""
    ours = [_name(pid) for pid in own if pid is not None]
    elsewhere = [t for t in _running(study) if _WORKER in t.user_attrs and t.user_attrs[_WORKER] not in ours]
    return n_trials - len(finished(study)) - len(elsewhere)


def _running(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def release_dead(study: optuna.Study) -> None:
    """
    Mark the trials as failed whose workers on this machine were killed, and enqueue their parameters again. Those of
    other machines are found by the storage's heartbeat, where it has one.

    :param study: The study.
    :raises RuntimeError: if far more workers were killed than trials have finished.
    """
    here = _name(0).rpartition(":")[0]
    for trial in _running(study):
        host, _, pid = trial.user_attrs.get(_WORKER, "").rpartition(":")
        began = trial.datetime_start
        silent = not host and began is not None and datetime.now() - began > _SILENCE
        if silent or (host == here and not psutil.pid_exists(int(pid))):
            _release(study, trial)
    trials = study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
    killed = [trial for trial in trials if _ERROR not in trial.user_attrs]
    if len(killed) > 20 + len(finished(study)):
        raise RuntimeError(
            f"{len(killed)} workers were killed, while {len(finished(study))} trials have finished. Most likely the "
            "memory is short: take fewer processes."
        )


def _release(study: optuna.Study, trial: FrozenTrial) -> None:
    study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
    retries = trial.user_attrs.get("retries", 0)
    if trial.params and retries < MAX_RETRY:
        kept = {"setting": trial.user_attrs["setting"]} if "setting" in trial.user_attrs else {}
        study.enqueue_trial(trial.params, user_attrs={"retry_of": trial.number, "retries": retries + 1, **kept})


def _check_failures(study: optuna.Study) -> None:
    failed = [trial for trial in study.get_trials(deepcopy=False) if _ERROR in trial.user_attrs]
    if len(failed) >= 3 and len(failed) > len(finished(study)):
        raise RuntimeError(f"{len(failed)} trials have failed, the last one so: {failed[-1].user_attrs[_ERROR]}")


def _name(pid: int) -> str:
    """A worker's name, as different on every machine as is possible without asking the others."""
    return f"{socket.gethostname()}-{uuid.getnode():x}:{pid}"


def _teller(study: optuna.Study, bar: "tqdm[Any]") -> Callable[[], None]:
    """Shows how far the study is."""

    def tell() -> None:
        ended = finished(study)
        bar.n = len(ended)
        if len(study.directions) == 1:
            values = [trial.value for trial in ended if trial.state == TrialState.COMPLETE and trial.value is not None]
            bar.set_postfix_str(f"best {max(values):.0f}" if values else "", refresh=False)
        bar.refresh()

    tell()
    return tell
