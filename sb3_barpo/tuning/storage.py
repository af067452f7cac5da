"""Where studies live: a journal file, a database, or a server in front of one."""

import os
import re
import time
import warnings
from pathlib import Path

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalFileSymlinkLock
from optuna.trial import FrozenTrial

#: Seconds between two heartbeats of a trial, and after which a trial without one counts as killed and is tried again.
HEARTBEAT, GRACE = 30, 120
#: Seconds after which the lock of a journal is broken: who held it was killed. It is held for milliseconds.
LOCK_GRACE = 10
#: Seconds to wait for a gRPC proxy's answer.
PATIENCE = 10.0
#: How often a trial is tried again after its worker was killed.
MAX_RETRY = 3


def open_storage(storage: str | Path) -> BaseStorage:
    """
    :param storage: File of a journal, made if it is missing; ``grpc://host:port`` of Optuna's gRPC proxy; or a URL of
        SQLAlchemy: ``postgresql+psycopg://user@host/name``, ``mysql+pymysql://user@host/name``.
    :return: The storage.
    :raises ConnectionError: if it cannot be reached.
    :raises ImportError: if the database's driver is not installed.
    :raises ValueError: if it is no URL, or a file that is no journal.
    """
    address = str(storage)
    if "://" not in address:
        return _journal(Path(address))
    if address.startswith("grpc://"):
        return _proxy(address)
    return _database(address)


def _journal(path: Path) -> BaseStorage:
    # Optuna's lock is a link to the journal. A relative one leads nowhere from the folder in which it lies, and then
    # Optuna never finds out how old it is: a lock that a killed worker left behind would be waited for in vain.
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_dangling(path.with_name(f"{path.name}.lock"))
    try:
        _check_beginning(path)
        # Links need special rights on Windows; elsewhere they work on a network's disk, too.
        lock = JournalFileOpenLock if os.name == "nt" else JournalFileSymlinkLock
        return JournalStorage(JournalFileBackend(str(path), lock(str(path), LOCK_GRACE)))
    except (ValueError, KeyError, TypeError) as error:  # of a file with other content
        raise ValueError(
            f"{str(path)!r} is no journal of Optuna: {error}. Name another file, or a new one, which will be made."
        ) from error


def _remove_dangling(lock: Path) -> None:
    """Remove the lock that a killed worker of version 0.1.0 left behind."""
    try:
        if not lock.exists() and time.time() - lock.lstat().st_mtime > LOCK_GRACE:
            lock.unlink()
    except FileNotFoundError:
        pass  # there is none, or it has just been released


def _check_beginning(path: Path) -> None:
    """Optuna takes a line that it cannot read for one that is being written, if it is the last, and appends to it."""
    if path.exists():
        with path.open("rb") as file:
            beginning = file.read(10)
        if beginning and beginning != b'{"op_code"':
            raise ValueError("it begins otherwise")


def _proxy(address: str) -> BaseStorage:
    host, _, port = address.removeprefix("grpc://").rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"The address of a gRPC proxy is grpc://host:port, but this is {address!r}.")
    try:
        import grpc  # noqa: F401
    except ImportError as error:
        raise ImportError("Optuna's gRPC proxy needs grpcio: pip install grpcio protobuf") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        proxy = optuna.storages.GrpcStorageProxy(host=host, port=int(port))
    try:
        proxy.wait_server_ready(timeout=PATIENCE)
    except ConnectionError as error:  # whose text names no address
        raise ConnectionError(
            f"No gRPC proxy answers at {address}. Start one with optuna.storages.run_grpc_proxy_server."
        ) from error
    return proxy


def _database(address: str) -> BaseStorage:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    shown = re.sub("://([^:/]*):.*@", r"://\1:***@", address)
    try:
        make_url(address)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return RDBStorage(
                address,
                heartbeat_interval=HEARTBEAT,
                grace_period=GRACE,
                heartbeat_stale_trial_callback=retry,
            )
    except (ArgumentError, ValueError):
        raise ValueError(
            f"No storage has the address {shown!r}. Name the file of a journal, grpc://host:port, or a URL such as "
            "postgresql+psycopg://user@host/name."
        ) from None  # the error's own text may hold the password
    except ImportError as error:
        raise ImportError(
            f"{shown} needs a driver that is not installed. For PostgreSQL: pip install "
            "'psycopg[binary]' and write postgresql+psycopg://; for MySQL: pip install pymysql and write "
            "mysql+pymysql://."
        ) from error
    except SQLAlchemyError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ConnectionError(
            f"The storage {shown} cannot be reached: {reason}. Check that the server runs and knows user and database."
        ) from error


def retry(study: optuna.Study, trial: FrozenTrial) -> None:
    """
    Enqueue the parameters of a trial whose worker was killed, unless that has happened too often.

    :param study: The study.
    :param trial: The trial, marked as failed already.
    """
    retries = trial.user_attrs.get("retries", 0)
    # Killed at once, it may have taken none yet of those that it was enqueued with.
    params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    if params and retries < MAX_RETRY:
        kept = {"setting": trial.user_attrs["setting"]} if "setting" in trial.user_attrs else {}
        study.enqueue_trial(params, user_attrs={"retry_of": trial.number, "retries": retries + 1, **kept})
