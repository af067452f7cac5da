"""Victims whose worst case is known: they fool single attacks, and not the search."""

from pathlib import Path

import numpy as np
import pytest

from sb3_barpo.attacks import MAD, Attack, Critic, MaxKL, Random
from sb3_barpo.attacks.victim import undisturbed
from sb3_barpo.evaluation.auto import AutoBudget, find_auto
from sb3_barpo.evaluation.episodes import run_episodes
from sb3_barpo.evaluation.members import Victim
from sb3_barpo.testing.traps import TRAPS, Trap

N_EPISODES = 32

# What its fixtures make is made once, in one process.
pytestmark = pytest.mark.xdist_group("traps")


class Played:
    """A trap that is played."""

    def __init__(self, trap: Trap) -> None:
        self.trap = trap
        self.model, self.venv = trap.make(8)
        self.natural, self.worst = self.mean(None), self.mean(trap.worst(self.model))

    def mean(self, attack: Attack | None) -> float:
        with undisturbed(self.model, self.venv):
            episodes = run_episodes(self.model, attack, self.venv, N_EPISODES, 10_000, self.trap.deterministic)
        return float(np.mean([episode.reward for episode in episodes]))

    def share(self, attack: Attack) -> float:
        """Of the damage that can be done."""
        return (self.natural - self.mean(attack)) / (self.natural - self.worst)


@pytest.fixture(scope="module")
def played() -> dict[str, Played]:
    return {name: Played(trap) for name, trap in TRAPS.items()}


def test_the_attack_by_hand_does_damage(played: dict[str, Played]) -> None:
    for one in played.values():
        assert one.worst < one.natural - 0.3 * abs(one.natural)


@pytest.mark.parametrize(
    ("name", "kind", "at_most"),
    [
        ("saturated", MAD, 0.5),
        ("saturated", Critic, 0.5),
        ("quantised", MAD, 0.5),
        ("quantised", MaxKL, 0.5),
        ("smoothed", MAD, 0.5),
        ("lying_critic", Critic, 0.0),
        ("nearly_certain", MAD, 0.5),
        ("stochastic", MAD, 0.6),
        ("remembering", MAD, 0.5),
        ("late", MAD, 0.5),
        ("late", MaxKL, 0.5),
        ("linear", MaxKL, 0.6),
    ],
)
def test_a_single_attack_is_fooled(name: str, kind: type[Attack], at_most: float, played: dict[str, Played]) -> None:
    one = played[name]
    assert one.share(kind(one.model, one.trap.epsilon)) <= at_most


@pytest.mark.parametrize("name", TRAPS)
def test_no_trap_is_sprung_by_chance(name: str, played: dict[str, Played]) -> None:
    one = played[name]
    assert one.share(Random(one.model, one.trap.epsilon)) < 0.5


def search(one: Played, folder: Path, budget: AutoBudget) -> tuple[float, bool]:
    """What is found of the damage, and whether the search says that it is done."""
    victim = Victim(one.model, one.venv, folder)
    (found,) = find_auto([victim], one.trap.epsilon, budget, deterministic=one.trap.deterministic)
    return one.share(found.attacks[found.told["curve"][-1]["attack"]]), found.told["saturated"]


@pytest.mark.parametrize("name", ["nearly_certain", "lying_critic"])
def test_the_search_is_not_fooled(name: str, played: dict[str, Played], tmp_path: Path) -> None:
    """At least 95 % of the damage. The other traps take longer; ``benchmarks/traps.py`` runs all of them."""
    share, _ = search(played[name], tmp_path, AutoBudget(steps=512, rounds=1, n_episodes=8))
    assert share >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAPS)
def test_the_search_is_fooled_by_none(name: str, played: dict[str, Played], tmp_path: Path) -> None:
    share, _ = search(played[name], tmp_path, AutoBudget(steps=4096, rounds=3))
    assert share >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAPS)
def test_no_search_is_called_done_that_is_not(name: str, played: dict[str, Played], tmp_path: Path) -> None:
    """Far too small for some of the traps; then it has to say so."""
    share, saturated = search(played[name], tmp_path, AutoBudget(steps=256, rounds=4))
    assert share >= 0.95 or not saturated
