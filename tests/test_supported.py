"""The documentation's table of what is supported is what was found by trying."""

import pytest
from supported import FILE, tables, tried
from victims import victim

from sb3_barpo.adversary import QNetwork


def test_the_table_is_true() -> None:
    assert FILE.read_text(encoding="utf-8") == tables() + "\n"


def test_a_refusal_is_told_from_a_fault() -> None:
    assert tried(lambda: victim().predict(victim().observation_space.sample())) == "yes"
    assert tried(lambda: QNetwork(victim().observation_space, None)) == "no"
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        tried(lambda: QNetwork(victim().observation_space, victim().action_space, depth=3))
