"""Where studies live: PostgreSQL, Optuna's gRPC proxy, journals, and what is none of these."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from glob import glob
from pathlib import Path
from typing import Any

import pytest
from cheap_tuning import AGENT, Suicidal, cheap, wait_until, worker_pids
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError

from sb3_barpo.tuning import storage
from sb3_barpo.tuning.storage import open_storage
from sb3_barpo.tuning.study import finished, load_study, open_study
from sb3_barpo.tuning.workers import run_trials

SLOW = replace(AGENT, n_envs=30)  # a third of a second a trial


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Instead of a test that never ends."""

    def stop(*args: Any) -> None:
        raise TimeoutError(f"it took more than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def free_port() -> int:
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def postgres_program(name: str) -> str | None:
    return shutil.which(name) or max(glob(f"/usr/lib/postgresql/*/bin/{name}"), default=None)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Not one of pytest's, which are closed to other users, such as the one that the server may have to run as."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(os.path.realpath(folder))


@pytest.fixture(scope="module")
def postgres(folder: Path) -> Iterator[str]:
    """URL of a server's database, with a password, on a port of this machine."""
    pytest.importorskip("psycopg")
    initdb, server = postgres_program("initdb"), postgres_program("postgres")
    if initdb is None or server is None:
        pytest.skip("there is no PostgreSQL: apt install postgresql")
    as_other: dict[str, Any] = {}
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # PostgreSQL refuses to run as root
        pwd = pytest.importorskip("pwd")
        other = pwd.getpwnam("nobody")
        os.chown(folder, other.pw_uid, other.pw_gid)
        as_other = {"user": other.pw_uid, "group": other.pw_gid, "extra_groups": []}
    (folder / "password").write_text("s3cret")
    (folder / "password").chmod(0o644)
    data, port = folder / "data", free_port()
    arguments = ["-D", data, "-U", "tuner", "-A", "scram-sha-256", "--pwfile", folder / "password"]
    made = subprocess.run([initdb, *arguments, "-E", "UTF8", "--locale=C"], cwd="/", capture_output=True, **as_other)
    if made.returncode != 0:
        pytest.skip(f"PostgreSQL cannot be set up here: {made.stderr.decode()}")
    settings = [f"-c{setting}" for setting in (f"unix_socket_directories={folder}", "listen_addresses=127.0.0.1")]
    process = subprocess.Popen(
        [server, "-D", data, "-p", str(port), *settings], cwd="/", stderr=subprocess.DEVNULL, **as_other
    )
    url = f"postgresql+psycopg://tuner:s3cret@127.0.0.1:{port}/postgres"
    try:
        wait_until(lambda: answers(port) or process.poll() is not None)
        if process.poll() is not None:
            pytest.skip("PostgreSQL cannot be started here")
        yield url
    finally:
        process.send_signal(signal.SIGINT)  # its "fast" shutdown
        process.wait()


def answers(port: int) -> bool:
    import psycopg

    try:
        psycopg.connect(f"postgresql://tuner:s3cret@127.0.0.1:{port}/postgres").close()
    except psycopg.OperationalError:
        return False
    return True


def test_processes_share_a_study_on_postgresql(postgres: str) -> None:
    study = run_trials(cheap(agent=SLOW), postgres, "shared", 4, n_jobs=2)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 4
    assert len(worker_pids(study)) == 4
    assert load_study(postgres, "shared").trials == study.trials


@pytest.mark.slow
def test_a_killed_worker_s_trial_is_tried_again_on_postgresql(postgres: str) -> None:
    study = run_trials(cheap(Suicidal), postgres, "killed", 1, n_jobs=2)
    assert len(finished(study)) == 1
    assert [trial.state for trial in study.trials[:10]] == [TrialState.FAIL] * 10


@pytest.mark.filterwarnings("ignore:Heartbeat of storage is supposed to be used with Study.optimize")
def test_a_silent_machine_s_trial_is_tried_again(postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the storage's heartbeat: another machine has taken the first trial, and gives no sign of life any more."""
    monkeypatch.setattr(storage, "HEARTBEAT", 1)
    monkeypatch.setattr(storage, "GRACE", 2)
    study = open_study(cheap(), postgres, "silent")
    trial = study.ask()
    trial.set_user_attr("worker", {"machine": "another", "pid": 1, "created": 0.0})
    study._storage.record_heartbeat(trial._trial_id)  # type: ignore[attr-defined]
    study = run_trials(cheap(), postgres, "silent", 2)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert [trial.user_attrs.get("retry_of") for trial in study.trials] == [None, None, 0]
    assert study.trials[2].user_attrs["setting"] == "paper"


def test_a_wrong_password_is_not_shown(postgres: str) -> None:
    with pytest.raises(ConnectionError, match=r"tuner:\*\*\*@.*cannot be reached.*password authentication failed") as e:
        open_storage(postgres.replace("s3cret", "gues5"))
    assert "gues5" not in str(e.value)
    assert isinstance(e.value.__cause__, OperationalError)


def test_a_server_that_does_not_run() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(ConnectionError, match=r"tuner:\*\*\*@127.*cannot be reached: .*Connection refused") as error:
        open_storage(f"postgresql+psycopg://tuner:s3cret@127.0.0.1:{free_port()}/postgres")
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize("address", ["nosql://me:s3cret@host/name", "postgresql+psycopg://me:s3cret@host:port/name"])
def test_an_address_of_nothing(address: str) -> None:
    with pytest.raises(ValueError, match=r"No storage has the address '.*://me:\*\*\*@host.*Name the file") as error:
        open_storage(address)
    assert "s3cret" not in str(error.value)
    assert error.value.__suppress_context__  # nor in the traceback


def test_a_driver_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymysql", None)
    with pytest.raises(ImportError, match=r"mysql\+pymysql://me:\*\*\*@host/name needs a driver.*pip install pymysql"):
        open_storage("mysql+pymysql://me:s3cret@host/name")


@pytest.mark.parametrize("content", ["hello", "hello\n", "[1]\n", '{"op_code": 0}\n', '{"op_code":0}\n{}\n'])
def test_a_file_that_is_no_journal_is_left_alone(content: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text(content)
    with pytest.raises(ValueError, match=r"notes\.txt' is no journal of Optuna: .*Name another file"):
        open_storage(tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == content


def test_a_folder_is_no_journal(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"Is a directory|Permission"):
        open_storage(tmp_path)


def test_processes_share_a_study_through_a_proxy(tmp_path: Path) -> None:
    pytest.importorskip("grpc")
    from optuna.storages._grpc.server import make_server

    port = free_port()
    server = make_server(open_storage(tmp_path / "log"), "127.0.0.1", port)  # what run_grpc_proxy_server does
    server.start()
    try:
        study = run_trials(cheap(), f"grpc://127.0.0.1:{port}", "it", 3, n_jobs=2)
        assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 3
    finally:
        server.stop(None).wait()
    assert len(load_study(tmp_path / "log", "it").trials) == 3


def test_a_proxy_that_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("grpc")
    monkeypatch.setattr(storage, "PATIENCE", 0.5)
    with pytest.raises(ConnectionError, match=r"No gRPC proxy answers at grpc://127\.0\.0\.1:\d+\. Start one"):
        open_storage(f"grpc://127.0.0.1:{free_port()}")


@pytest.mark.parametrize("address", ["grpc://host", "grpc://host:port", "grpc://:13000"])
def test_an_address_that_is_no_proxy_s(address: str) -> None:
    with pytest.raises(ValueError, match=r"address of a gRPC proxy is grpc://host:port, but this is"):
        open_storage(address)


def test_a_proxy_needs_grpcio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(ImportError, match="needs grpcio: pip install grpcio protobuf"):
        open_storage("grpc://host:13000")


HOLD_AND_DIE = """
import os, signal, sys
from sb3_barpo.tuning.storage import open_storage
open_storage(sys.argv[1])._backend._lock.acquire()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.filterwarnings("ignore:The value of `grace_period`")
@pytest.mark.parametrize("absolute", [True, False])
def test_the_lock_of_a_killed_worker_is_broken(absolute: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(storage, "LOCK_GRACE", 1)
    journal = Path("tuning", "study.log").absolute() if absolute else Path("tuning", "study.log")
    done = subprocess.run([sys.executable, "-c", HOLD_AND_DIE, str(journal)], timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert Path("tuning", "study.log.lock").is_symlink()
    with time_limit(20):
        assert open_study(cheap(), journal, "it").study_name == "it"
    assert not Path("tuning", "study.log.lock").is_symlink()


def test_a_lock_that_version_0_1_0_left_behind_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lock = Path("tuning", "study.log.lock")
    lock.parent.mkdir()
    lock.symlink_to("tuning/study.log")  # relative: it leads nowhere
    open_storage("tuning/other.log")
    assert lock.is_symlink()  # not this journal's
    os.utime(lock, (0, 0), follow_symlinks=False)
    with time_limit(20):
        open_study(cheap(), "tuning/study.log", "it")
    assert not lock.is_symlink()
