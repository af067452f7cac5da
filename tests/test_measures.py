"""Measures beyond the mean: by hand, and the shift of actions where it is known."""

import numpy as np
import pandas as pd
import pytest
from gymnasium import spaces
from linear_system import controller, systems

from sb3_barpo.attacks import Push, Random
from sb3_barpo.evaluation.measures import _distance, cvar, measures, measures_by_algorithm, moved
from sb3_barpo.evaluation.rows import COLUMNS, Rows
from sb3_barpo.testing.traps import TRAPS


def rows_of(**agents: dict[str, list[float]]) -> Rows:
    rows = [
        (
            agent,
            agent.split("_")[0],
            int(agent.split("_")[1]),
            "",
            "",
            attack,
            0.1 * (attack != "natural"),
            k,
            k,
            value,
            1,
        )
        for agent, attacks in agents.items()
        for attack, values in attacks.items()
        for k, value in enumerate(values)
    ]
    return Rows(pd.DataFrame(rows, columns=COLUMNS))


def test_the_lowest_tenth() -> None:
    returns = np.arange(20.0)[::-1]
    assert cvar(returns) == 0.5
    assert cvar(returns[:9]) == 11
    np.testing.assert_array_equal(cvar(np.stack([returns, returns + 1])), [0.5, 1.5])


def test_measures_by_hand() -> None:
    table = measures(rows_of(ppo_0={"natural": [10, 10, 10], "mad": [1, 2, 9], "random": [9, 1, 5]}))
    assert table.loc[("ppo_0", "mad"), ["mean", "median", "cvar"]].to_list() == [4, 2, 1]
    assert table.loc[("ppo_0", "best_response"), ["mean", "median", "cvar"]].to_list() == [7 / 3, 1, 1]
    assert table.loc[("ppo_0", "natural"), ["mean_low", "mean_high"]].to_list() == [10, 10]
    low, high = table.loc[("ppo_0", "mad"), ["mean_low", "mean_high"]]
    assert 1 <= low < 4 < high <= 9


def test_intervals_over_seeds_of_training() -> None:
    rows = rows_of(
        ppo_0={"natural": [10, 10], "mad": [0, 2]},
        ppo_1={"natural": [10, 10], "mad": [4, 6]},
        arpo_0={"natural": [5, 5], "mad": [3, 3]},
    )
    table = measures_by_algorithm(rows)
    assert table.loc[("ppo", "mad"), ["n_seeds", "mean", "cvar"]].to_list() == [2, 3, 2]
    assert table.loc[("ppo", "mad"), ["mean_low", "mean_high"]].to_list() == [1, 5]
    assert np.isnan(table.loc[("arpo", "mad"), "mean_low"])
    assert table.loc[("arpo", "best_response"), "mean"] == 3


def test_the_shift_is_that_of_the_linear_victim() -> None:
    """A push of the first action by 0.2 · 0.5 of a half range of 100, and of the second by nothing."""
    model = controller()
    found, intervals = moved(model, systems(4), Push(model, 0.2, limit=0), n_steps=30)
    assert found.shift >= 0.2 * 0.5 / 100 / 2 - 1e-6
    assert found.shift <= 0.2 * (0.5 + 0.8) / 100 / 2 + 1e-6
    assert intervals["shift"][0] <= found.shift <= intervals["shift"][1]
    nothing, _ = moved(model, systems(4), Random(model, 0.0), n_steps=30)
    assert nothing == (0, 0)


@pytest.mark.parametrize("name", ["nearly_certain", "remembering"])
def test_flips_are_those_of_the_worst_attack(name: str) -> None:
    """On sides: where the first feature is smaller than ε, which is so at a share ε of the steps."""
    model, venv = TRAPS[name].make(8)
    found, _ = moved(model, venv, TRAPS[name].worst(model), n_steps=100)
    if name == "nearly_certain":
        assert found.flip_rate == found.shift == pytest.approx(0.4, abs=0.06)
    else:
        assert 0 < found.shift < 1


def test_distances_by_hand() -> None:
    box = spaces.Box(np.array([0.0, -np.inf]), np.array([4.0, np.inf]), dtype=np.float64)
    shift, flip = _distance(box, np.array([[1.0, 3.0], [3.0, 2.0]]), np.array([[3.0, 2.0], [4.0, 2.0]]))
    np.testing.assert_allclose(shift, [(1 + 1) / 2, 0.25])
    np.testing.assert_array_equal(flip, [1, 0])
    shift, flip = _distance(spaces.MultiDiscrete([2, 2]), np.array([[0, 1]]), np.array([[0, 0]]))
    assert (shift, flip) == ([0.5], [1])
