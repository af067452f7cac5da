"""Training that looks trapped is told from training that is not."""

import warnings
from typing import Any

import numpy as np
import pytest
from helpers import TINY, learn, make_envs, same, weights
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_barpo import ARPO, BARPO, RecurrentBARPO
from sb3_barpo.training.trap import Seen, TrapWatch, alignment, clearly_positive

TRAPPED = r"Training looks trapped after \d+ steps: for 10% of it there was no gap .* start the adversary later"
STEPS = 14_000


def balancing(algorithm: Any, epsilon: float) -> Any:
    """An agent on CartPole-v1, which plain PPO brings from a return of 20 to one of 60 meanwhile."""
    settings: dict[str, Any] = {"n_steps": 32, "batch_size": 64, "n_epochs": 4, "gamma": 0.98, "learning_rate": 1e-3}
    venv = make_vec_env("CartPole-v1", n_envs=4, seed=0)
    return algorithm("MlpPolicy", venv, epsilon=epsilon, seed=0, device="cpu", **settings)


def test_arpo_that_does_not_get_off_the_ground_is_trapped() -> None:
    model = balancing(ARPO, 0.3)
    with pytest.warns(UserWarning, match=TRAPPED) as caught:
        book = learn(model, STEPS)
    assert len(caught) == 1
    assert 1 in book.column("adversary/trapped")
    assert set(book.column("adversary/trapped")[:10]) == {0}
    assert all(abs(value) <= 1 + 1e-6 for value in book.column("adversary/clean_alignment"))
    assert book.column("rollout/ep_rew_mean")[-1] < 30


def test_training_that_makes_progress_is_not() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        book = learn(balancing(BARPO, 0.3), STEPS)
    assert not any(book.column("adversary/trapped"))
    assert book.column("rollout/ep_rew_mean")[-1] > 40


# Its parts


def still(**changes: Any) -> TrapWatch:
    watch = TrapWatch()
    watch.seen = [Seen(100 * k, 1.0, -4.0, 0.4, 0.001)._replace(**changes) for k in range(40)]
    return watch


def test_it_stands_still_if_all_of_it_does() -> None:
    assert still().stands_still(10_000)
    assert not still().stands_still(8_000)  # a tenth of it is 8 updates, fewer than it takes
    assert not still().stands_still(40_000)  # it has not been going on for so long
    assert not still(share=0.4).stands_still(10_000)
    assert not still(gap=0.02).stands_still(10_000)
    assert not still(gap=-0.02).stands_still(10_000)
    rising = still()
    rising.seen = [one._replace(mean=one.timesteps / 2_500) for one in rising.seen]
    assert not rising.stands_still(10_000)
    assert not TrapWatch().stands_still(10_000)


def test_clearly_positive() -> None:
    assert clearly_positive([0.9, 0.8, 1.0, 0.9, -0.1])
    assert not clearly_positive([0.9, -0.8, 1.0, -0.9, 0.1])
    assert not clearly_positive([-0.9, -0.8, -1.0])


class Align(BaseCallback):
    """Alignments of the first rollout: rewarded for one action whatever is seen, and at random."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        buffer: Any = self.model.rollout_buffer
        draws = np.random.default_rng(0).normal(size=(40, *buffer.advantages.shape)).astype(np.float32)
        self.found = []
        for advantages in (1 - buffer.actions[..., 0].astype(np.float32), *draws, np.zeros_like(buffer.advantages)):
            buffer.advantages = advantages
            self.found.append(alignment(self.model))


def test_the_halves_of_a_rollout_agree_where_there_is_more_than_noise() -> None:
    callback = Align()
    balancing(BARPO, 0.1).learn(128, callback=callback)
    signal, *noise, nothing = callback.found
    assert signal > 0.9
    assert abs(np.mean(noise)) < 0.35
    assert nothing is None


def test_it_changes_nothing() -> None:
    """A look at the gradient leaves weights and all randomness as they are."""
    ends = []
    for look in (False, True):
        model = BARPO("MlpPolicy", make_envs(), epsilon=0.1, **TINY)
        if look:
            model._trap.before = lambda model, update: alignment(model) and None  # type: ignore[method-assign]
        model.learn(32 * 3)
        ends.append(weights(model))
    assert same(*ends)


def test_a_policy_with_a_memory_is_not_looked_at() -> None:
    model = RecurrentBARPO("MlpLstmPolicy", make_envs(), epsilon=0.1, **TINY)
    model.learn(32)
    model.rollout_buffer.generator_ready = False
    assert alignment(model) is None
