"""
Workers: processes that run a study's trials, one each.

A worker may be killed at any time. Its trial is then marked as failed, and its parameters are tried again; finished
trials are kept. These are plain processes, because joblib, used elsewhere, stops when one of its processes is killed.
"""

import logging
import math
import os
import re
import signal
import socket
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import cache
from multiprocessing import connection, get_all_start_methods, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import sleep
from typing import Any

import optuna
import psutil
import torch as th
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages._heartbeat import is_heartbeat_enabled
from optuna.trial import FrozenTrial, TrialState
from tqdm import tqdm

from sb3_barpo.tuning.storage import retry
from sb3_barpo.tuning.study import ERROR, finished, open_study
from sb3_barpo.tuning.trials import Tuning

_WORKER = "worker"
#: A running trial without a recorded worker counts as killed after this time.
_SILENCE = timedelta(seconds=60)
#: Seconds between two looks at what other workers do.
_LOOK = 2.0


class TuningError(RuntimeError):
    """Trials keep failing, or workers keep being killed."""


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
    that run elsewhere. Those are waited for if it would be noticed that they were killed.

    :param tuning: What trials do.
    :param storage: Where the study lives, see :func:`sb3_barpo.tuning.storage.open_storage`.
    :param name: Its name.
    :param n_trials: Number of finished trials, pruned ones included.
    :param n_jobs: Number of processes; 1 runs the trials in this one.
    :param seed: Seed of the sampler. With one process the study is then the same each time, also when it was killed
        between two trials.
    :param progress_bar: Whether to show the progress, instead of Optuna's line for each trial.
    :return: The study.
    :raises TuningError: if trials keep failing, or workers keep being killed.
    """
    with _quiet(progress_bar), tqdm(total=n_trials, unit="trial", desc=name, disable=not progress_bar) as bar:
        study = open_study(tuning, storage, name)
        share = _Share(study, n_trials, bar)
        if n_jobs == 1:
            _run_here(tuning, study, seed, share)
        else:
            _supervise(share, n_jobs, lambda offset: (tuning, storage, name, seed, offset))
    return study


def run_one(tuning: Tuning, study: optuna.Study, seed: int | None, offset: int) -> None:
    """
    Run one trial. If it fails, the error is stored in its attributes; if it is interrupted, it will be tried again.

    :param tuning: What it does.
    :param study: The study.
    :param seed: Seed of the sampler.
    :param offset: What is added to it.
    """
    th.set_num_threads(1)  # processes share the cores; more threads slow small networks down
    number = 0

    def objective(trial: optuna.Trial) -> tuple[float, ...]:
        nonlocal number
        number = trial.number
        trial.set_user_attr(_WORKER, _me())
        try:
            values = tuning.objective(trial)
            if not all(map(math.isfinite, values)):  # Optuna would give no reason
                raise ValueError(f"The trial's values are {values}, but returns must be finite.")
        except optuna.TrialPruned:
            raise
        except Exception as error:
            trial.set_user_attr(ERROR, f"{type(error).__name__}: {error}")
            raise
        return values

    study.sampler = optuna.samplers.TPESampler(seed=None if seed is None else seed + offset)
    try:
        with _interruptions_named():
            study.optimize(objective, n_trials=1, catch=(Exception,))
    except KeyboardInterrupt:
        retry(study, study.get_trials(deepcopy=False)[number])
        raise
    except (ValueError, UpdateFinishedTrialError):
        # After a machine has slept for long, others count it as dead: the trial is marked as failed and tried again.
        if study.get_trials(deepcopy=False)[number].state != TrialState.FAIL:
            raise


def _run_here(tuning: Tuning, study: optuna.Study, seed: int | None, share: "_Share") -> None:
    while True:
        to_run, wait = share.look()
        if to_run > 0:
            run_one(tuning, study, seed, len(study.get_trials(deepcopy=False)))
        elif wait:
            sleep(_LOOK)
        else:
            return


def _supervise(share: "_Share", n_jobs: int, arguments: Callable[[int], tuple[Any, ...]]) -> None:
    """Keep as many workers as asked for, until the study has its trials."""
    # A server that has imported everything once: its forks start at once, without this process's threads.
    context: Any = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
    context.set_forkserver_preload([__name__])
    workers: list[BaseProcess] = []
    started = len(share.study.get_trials(deepcopy=False))
    try:
        while True:
            to_run, wait = share.look([worker.pid for worker in workers])
            for _ in range(min(n_jobs, to_run) - len(workers)):
                verbosity = optuna.logging.get_verbosity()
                workers.append(context.Process(target=_work, args=(verbosity, *arguments(started)), daemon=True))
                workers[-1].start()
                started += 1
            if workers:
                connection.wait([worker.sentinel for worker in workers], _LOOK)
            elif wait:
                sleep(_LOOK)
            else:
                return
            for worker in [one for one in workers if not one.is_alive()]:
                workers.remove(worker)
                _check_end(worker)
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join(10)
            worker.kill()  # if it ignores the signal
            worker.join()
        release_dead(share.study)


def _work(verbosity: int, tuning: Tuning, storage: str | Path, name: str, seed: int | None, offset: int) -> None:
    """A worker's life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; who started this one will end it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # orderly: without the journal's lock left behind
    optuna.logging.set_verbosity(verbosity)
    run_one(tuning, open_study(tuning, storage, name), seed, offset)


def _check_end(worker: BaseProcess) -> None:
    """A worker that was killed is replaced; one that fails outside its trial would fail again."""
    worker.join()
    if worker.exitcode is not None and worker.exitcode > 0:
        raise TuningError(
            "A worker has failed; its error is above. In your own script, call this below "
            "`if __name__ == '__main__':`, because workers import the script."
        )


class _Share:
    """One command's share of a study: how much of it is left to do, and whether to go on."""

    def __init__(self, study: optuna.Study, n_trials: int, bar: "tqdm[Any]") -> None:
        self.study = study
        self._n_trials = n_trials
        self._bar = bar
        release_dead(study)
        # What happened before may have been put right since.
        self._before = {trial.number for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()}

    def look(self, own: Sequence[int | None] = ()) -> tuple[int, bool]:
        """
        :param own: Process ids of this command's workers.
        :return: How many trials they should run, those at work included, and whether to wait for those of others.
        :raises TuningError: if trials keep failing, or workers keep being killed.
        """
        release_dead(self.study)
        self._check()
        self._tell()
        missing = self._n_trials - len(finished(self.study))
        others = [
            trial
            for trial in _running(self.study)
            if (worker := trial.user_attrs.get(_WORKER))
            and not (worker["machine"] == _machine() and worker["pid"] in own)
        ]
        # Of the others, these are known to be released if they were killed.
        watched = [
            trial
            for trial in others
            if trial.user_attrs[_WORKER]["machine"] == _machine() or is_heartbeat_enabled(self.study._storage)
        ]
        return missing - len(others), missing > 0 and bool(watched)

    def _check(self) -> None:
        ended = [t for t in self.study.get_trials(deepcopy=False) if t.number not in self._before]
        done = [trial for trial in ended if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        lost = [trial for trial in ended if trial.state == TrialState.FAIL]
        failed = [trial for trial in lost if ERROR in trial.user_attrs]
        killed = len(lost) - len(failed)
        if len(failed) >= 3 and len(failed) > len(done):
            raise TuningError(f"{len(failed)} trials have failed, the last one with {failed[-1].user_attrs[ERROR]}")
        if killed > 20 + len(done):
            raise TuningError(
                f"{killed} workers were killed, while {len(done)} trials have finished. They have probably run "
                "out of memory: use fewer processes."
            )

    def _tell(self) -> None:
        ended = finished(self.study)
        self._bar.n = len(ended)
        if len(self.study.directions) == 1:
            values = [trial.value for trial in ended if trial.state == TrialState.COMPLETE and trial.value is not None]
            self._bar.set_postfix_str(f"best {max(values):.4g}" if values else "", refresh=False)
        self._bar.refresh()


def release_dead(study: optuna.Study) -> None:
    """
    Mark the trials as failed whose workers on this machine were killed, and enqueue their parameters again. Those of
    other machines are found by the storage's heartbeat, where it has one.

    :param study: The study.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)
    for trial in _running(study):
        worker, began = trial.user_attrs.get(_WORKER), trial.datetime_start
        if worker is None:
            dead = began is not None and datetime.now() - began > _SILENCE
        else:
            dead = worker["machine"] == _machine() and not _is_alive(worker)
        if dead:
            _release(study, trial)


def _release(study: optuna.Study, trial: FrozenTrial) -> None:
    try:
        study.tell(trial.number, state=TrialState.FAIL)
    except (ValueError, UpdateFinishedTrialError):
        return  # someone else was first
    retry(study, trial)


def _running(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def _me() -> dict[str, Any]:
    return {"machine": _machine(), "pid": os.getpid(), "created": psutil.Process().create_time()}


def _is_alive(worker: dict[str, Any]) -> bool:
    try:
        process = psutil.Process(worker["pid"])
        # After a reboot, say, another process may have its id. The clock may have been put right by a little.
        same = abs(process.create_time() - worker["created"]) < 60
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@cache
def _machine() -> str:
    """This machine's name, as different from others' as is possible without asking them."""
    node = uuid.getnode()
    is_random = bool(node >> 40 & 1)  # it would be another one in each process
    return socket.gethostname() if is_random else f"{socket.gethostname()}-{node:x}"


@contextmanager
def _interruptions_named() -> Iterator[None]:
    """Optuna logs that an interrupted trial has failed, with a traceback."""
    interrupted: set[str] = set()

    def rename(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        failed = re.match(r"(Trial \d+) failed with ", message)
        if failed is None:
            return True
        if message.endswith("error: KeyboardInterrupt()."):
            interrupted.add(failed[1])
            record.msg, record.exc_info = f"{failed[1]} was interrupted; its parameters will be tried again.", None
            return True
        return failed[1] not in interrupted  # a second line says that it has no value

    logger = logging.getLogger("optuna.study._optimize")
    logger.addFilter(rename)
    try:
        yield
    finally:
        logger.removeFilter(rename)


@contextmanager
def _quiet(quiet: bool) -> Iterator[None]:
    """Without Optuna's line for each trial; failures are still told."""
    before = optuna.logging.get_verbosity()
    if quiet:
        optuna.logging.set_verbosity(max(before, optuna.logging.WARNING))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
