"""Where the processes of an evaluation run: on this machine, or on all those of a cluster."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from joblib import Parallel, parallel_config
from joblib.parallel import get_active_backend


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """
    Within, all parallel work of this package goes through one of joblib's backends.

    :param name: ``"loky"`` for processes on this machine; ``"dask"`` for the cluster whose scheduler is named by the
        environment variable ``DASK_SCHEDULER_ADDRESS``, or for the client that is open; ``"ray"`` for the cluster that
        ``RAY_ADDRESS`` names. All machines have to see the output folder under the same path.
    :raises ValueError: for an unknown backend, or workers of dask with several threads.
    :raises ImportError: if the backend is not installed.
    """
    if name not in BACKENDS:
        raise ValueError(f"Unknown backend {name!r}. Choose from {', '.join(BACKENDS)}.")
    with BACKENDS[name]():
        yield


def in_parallel(work: Iterable[Any], n_jobs: int, ordered: bool = True) -> Iterable[Any]:
    """
    :param work: What joblib's ``delayed`` made.
    :param n_jobs: Number of processes; a cluster has its own.
    :param ordered: Whether results come in the order of the work, or as they are finished.
    :return: The results, one by one where the backend can do that (ray cannot), otherwise all at the end.
    """
    one_by_one = get_active_backend()[0].supports_return_generator
    kind = ("generator" if ordered else "generator_unordered") if one_by_one else "list"
    results: Iterable[Any] = Parallel(n_jobs, return_as=kind)(work)
    return results


def is_remote() -> bool:
    """:return: Whether work may run where queues and pipes of this machine do not reach."""
    return not type(get_active_backend()[0]).__module__.startswith("joblib._parallel_backends")


@contextmanager
def _loky() -> Iterator[None]:
    yield


@contextmanager
def _dask() -> Iterator[None]:
    try:
        import dask
        import distributed
    except ImportError as error:
        raise ImportError('The backend dask needs dask: pip install "sb3-barpo[dask]"') from error
    cluster: Any = distributed
    with ExitStack() as stack:
        try:
            client = cluster.default_client()
        except ValueError:
            if dask.config.get("scheduler-address", None) is None:
                raise ValueError(
                    "The backend dask needs a cluster: set DASK_SCHEDULER_ADDRESS to that of its scheduler, such as "
                    "tcp://10.0.0.1:8786, or open a distributed.Client."
                ) from None
            client = stack.enter_context(cluster.Client())
        threads = client.nthreads()
        if any(n > 1 for n in threads.values()):
            raise ValueError(
                "Workers must have one thread each, since torch's random numbers belong to a process, but they have "
                f"{max(threads.values())}. Start them by: dask worker ADDRESS --nthreads 1 --nworkers 8."
            )
        with parallel_config("dask"):
            yield


@contextmanager
def _ray() -> Iterator[None]:
    try:
        from ray.util.joblib import register_ray
    except ImportError as error:
        raise ImportError('The backend ray needs ray: pip install "sb3-barpo[ray]"') from error
    register_ray()
    with parallel_config("ray"):
        yield


#: The backends by name.
BACKENDS: dict[str, Callable[[], AbstractContextManager[None]]] = {"loky": _loky, "dask": _dask, "ray": _ray}
