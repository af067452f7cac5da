"""The documentation's table of what is supported is what was found by trying."""

import pytest
from stable_baselines3 import PPO
from supported import FILE, NAMES, row, tables, tried
from victims import victim

from sb3_barpo.adversary import QNetwork
from sb3_barpo.algorithms import OURS


@pytest.mark.slow
def test_the_table_is_true() -> None:
    assert FILE.read_text(encoding="utf-8") == tables() + "\n"


@pytest.mark.parametrize(("sight", "action", "name"), [("vectors", "box", "vectors"), ("vector", "sde", "sde")])
def test_a_row_of_it_is_true(sight: str, action: str, name: str) -> None:
    feed_forward = [PPO, *(algorithm.load_class() for algorithm in OURS.values() if not algorithm.memory)]
    found = row(NAMES[name], sight, action, feed_forward)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in FILE.read_text(encoding="utf-8").splitlines()]
    (written,) = (cells for cells in lines if cells and cells[0] == NAMES[name])
    assert written == list(found.values())
    assert list(found) in lines


def test_a_refusal_is_told_from_a_fault() -> None:
    assert tried(lambda: victim().predict(victim().observation_space.sample())) == "yes"
    assert tried(lambda: QNetwork(victim().observation_space, None)) == "no"
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        tried(lambda: QNetwork(victim().observation_space, victim().action_space, depth=3))
