"""Progress over units of work, such as fits, that consist of many steps: one bar, or plain lines without a terminal."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import Manager
from threading import Thread
from types import TracebackType
from typing import Any

from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn
from tqdm import tqdm

from sb3_barpo.vec_envs import Wrapper

#: Takes a number of steps that are done; 0 when a unit is finished.
Tell = Callable[[int], object]


class Progress:
    """
    A context manager. In a terminal it shows one bar over all steps, with the time to go; otherwise one line for each
    finished unit. :attr:`tell` may be sent to other processes.

    :param what: What the units are called.
    :param n_units: Number of units.
    :param n_steps: Steps of all units together.
    :param unit: What a step is called.
    :param show: Whether to show anything.
    :param n_jobs: Number of processes that do the work.
    """

    #: To be called with a number of steps that are done.
    tell: Tell

    def __init__(self, what: str, n_units: int, n_steps: int, unit: str, show: bool, n_jobs: int = 1) -> None:
        self._what = what
        self._n_units = n_units
        self._done = 0
        self._lines = show and not sys.stderr.isatty()
        self._bar = tqdm(total=n_steps, unit=unit, unit_scale=True, disable=not show or self._lines or not n_units)
        self._manager = Manager() if n_jobs != 1 and not self._bar.disable else None

    def __enter__(self) -> "Progress":
        self._describe()
        if self._manager is None:
            self.tell = _ignore if self._bar.disable else self._bar.update
        else:
            self._queue: Any = self._manager.Queue()
            self.tell = _Send(self._queue)
            self._mover = Thread(target=self._move, daemon=True)
            self._mover.start()
        return self

    def finished(self, label: str) -> None:
        """:param label: The unit that is finished."""
        self._done += 1
        self._describe()
        if self._lines:
            print(f"{self._what} {self._done}/{self._n_units}: {label}", file=sys.stderr, flush=True)

    def _describe(self) -> None:
        self._bar.set_description(f"{self._what} {self._done}/{self._n_units}")

    def _move(self) -> None:
        while (steps := self._queue.get()) is not None:
            self._bar.update(steps)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._manager is not None:
            self._queue.put(None)
            self._mover.join()
            self._manager.shutdown()
        self._bar.close()


class _Send:
    """A :data:`Tell` that reaches the main process, a few times a second; with 0 steps at once."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue
        self._held = 0
        self._sent = 0.0

    def __call__(self, steps: int) -> None:
        self._held += steps
        if steps == 0 or time.monotonic() - self._sent > 0.3:
            self._queue.put(self._held)
            self._held, self._sent = 0, time.monotonic()


def _ignore(steps: int) -> None:
    pass


class _Counted(Wrapper):
    """Environments that tell how many steps they make."""

    def __init__(self, venv: VecEnv, tell: Tell) -> None:
        super().__init__(venv)
        self._tell = tell

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        self._tell(self.num_envs)
        return self.venv.step_wait()


def counted_steps(venv: VecEnv, tell: Tell) -> VecEnv:
    """
    :param venv: Environments.
    :param tell: Takes the number of steps.
    :return: The same environments, which tell of each step. The innermost layer counts, so that the order of the
        others stays as it is.
    """
    layer = venv
    while isinstance(layer, VecEnvWrapper) and isinstance(layer.venv, VecEnvWrapper):
        layer = layer.venv
    if not isinstance(layer, VecEnvWrapper):
        return _Counted(venv, tell)
    layer.venv = _Counted(layer.venv, tell)
    return venv


class _SendAt:
    """A :data:`Tell` of one bar among several, which reaches the main process."""

    def __init__(self, queue: Any, index: int) -> None:
        self._queue = queue
        self._index = index

    def __call__(self, steps: int) -> None:
        self._queue.put((self._index, steps))


@contextmanager
def bars(units: Sequence[tuple[str, int]], show: bool) -> Iterator[Callable[[int], Tell]]:
    """
    A bar for each agent in training.

    :param units: Their names and numbers of steps.
    :param show: Whether to show anything.
    :return: Each unit's :data:`Tell` by its index. It takes the number of steps done since the beginning.
    """
    if not show:
        yield lambda index: _ignore
        return
    shown = [tqdm(total=steps, desc=name, unit="step", position=i) for i, (name, steps) in enumerate(units)]
    with Manager() as manager:
        queue = manager.Queue()

        def move() -> None:
            while (message := queue.get()) is not None:
                index, steps = message
                bar, total = shown[index], units[index][1]
                bar.update(min(steps, total) - bar.n)
                if bar.n == total:
                    bar.set_postfix_str("trained, under attack")

        mover = Thread(target=move, daemon=True)
        mover.start()
        try:
            yield lambda index: _SendAt(queue, index)
        finally:
            queue.put(None)
            mover.join()
            for bar in shown:
                bar.close()
