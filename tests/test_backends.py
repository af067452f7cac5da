"""Evaluations on a cluster: the same rows and attackers as on this machine."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import make_envs
from test_evaluate import GRID
from victims import victim

from sb3_barpo.agents.load import LoadedAgent
from sb3_barpo.evaluation import RobustnessReport, budgets
from sb3_barpo.evaluation.backends import is_remote, use_backend
from sb3_barpo.evaluation.campaign import evaluate


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two workers of one thread each, on this machine."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as local:
        yield local


def run(output: Path, backend: str, **kwargs: Any) -> RobustnessReport:
    agent = LoadedAgent("agent", victim(), make_envs(n_envs=2), env_id="Pendulum-v1")
    return evaluate(
        [agent], ["mad", "sarl"], [0.3], output=output, n_eval_episodes=2, backend=backend, progress_bar=False, **kwargs
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of dask's own closing
def test_two_workers_of_dask_do_what_one_process_does(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(budgets.BUDGETS, "standard", lambda *args: GRID)
    alone = run(tmp_path / "alone", "loky")
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", cluster.scheduler_address)
    import dask

    dask.config.refresh()
    together = run(tmp_path / "together", "dask")
    assert together.to_frame().equals(alone.to_frame())
    assert sorted(path.name for path in (tmp_path / "together/attacks/agent").iterdir()) == sorted(
        path.name for path in (tmp_path / "alone/attacks/agent").iterdir()
    )
    monkeypatch.delenv("DASK_SCHEDULER_ADDRESS")
    dask.config.refresh()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_workers_with_several_threads_are_refused() -> None:
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as local,
        distributed.Client(local),
        pytest.raises(ValueError, match=r"Workers must have one thread each, .* but they have 2"),
        use_backend("dask"),
    ):
        pass


def test_a_cluster_has_to_be_named() -> None:
    pytest.importorskip("distributed")
    with pytest.raises(ValueError, match="needs a cluster: set DASK_SCHEDULER_ADDRESS"), use_backend("dask"):
        pass


def test_loky_is_this_machine() -> None:
    with use_backend("loky"):
        assert not is_remote()


@pytest.mark.parametrize("name", ["dask", "ray"])
def test_a_missing_backend_says_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf'needs {name}: pip install "sb3-barpo\[{name}\]"'), use_backend(name):
        pass


def test_an_unknown_backend() -> None:
    with (
        pytest.raises(ValueError, match=r"Unknown backend 'spark'\. Choose from loky, dask, ray"),
        use_backend("spark"),
    ):
        pass
