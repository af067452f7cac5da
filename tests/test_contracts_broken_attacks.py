"""The check of attacks finds what is broken, each with an attack that breaks one promise alone."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from learned import build, fit
from victims import victim

from sb3_barpo.attacks import MAD, SARL, Random
from sb3_barpo.testing import ContractError, check_attack


class Attacking(Random):
    """Random, whose result is changed."""

    name = "attacking"
    how: Callable[[Any, np.ndarray, np.ndarray], np.ndarray]

    def perturb(self, observations: Any, bounds: Any = None, memory: Any = None) -> Any:
        return type(self).how(self, super().perturb(observations, bounds, memory), observations)


def gambling(self: Any, shown: np.ndarray, clean: np.ndarray) -> np.ndarray:
    np.random.random()
    return shown


def spoiling(self: Any, shown: np.ndarray, clean: np.ndarray) -> np.ndarray:
    with th.no_grad():
        self.model.policy.value_net.bias.add_(1)
    return shown


def scribbling(self: Any, shown: np.ndarray, clean: np.ndarray) -> np.ndarray:
    clean += 1e-3
    return shown


ATTACKS: list[tuple[Any, str]] = [
    (lambda self, shown, clean: shown.astype(np.float64), "arrays of the clean ones' shapes and types"),
    (lambda self, shown, clean: clean + 1.5 * (shown - clean), "must stay within ε"),
    (lambda self, shown, clean: shown * np.nan, "what it shows must be finite"),
    (lambda self, shown, clean: clean + (shown - clean) * np.tanh(clean.std()), "must depend on that row alone"),
    (lambda self, shown, clean: shown + 0.01 * (self.epsilon == 0), "at strength 0"),
    (lambda self, shown, clean: clean + np.sign(shown - clean).astype(np.float32) * 0.1, "at strength 0|at\\(\\) must"),
    (lambda self, shown, clean: clean + np.float32(0.5 * self.epsilon), "keep to the limits"),
    (gambling, "NumPy's global random generator"),
    (spoiling, "must leave the policy as it was"),
    (scribbling, "must not change its argument observations"),
]


@pytest.mark.parametrize(("how", "match"), ATTACKS, ids=[match for _, match in ATTACKS])
def test_attacks(how: Any, match: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Attacking, "how", how, raising=False)
    model = copy.deepcopy(victim()) if how is spoiling else victim()
    with pytest.raises(ContractError, match=match):
        check_attack(Attacking(model, 0.1))


def test_an_attack_without_a_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MAD, "seed", lambda self, seed: None)
    with pytest.raises(ContractError, match="one seed must give one result"):
        check_attack(MAD(victim(), 0.1))


def test_an_attack_that_shrinks_in_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    attack = fit(SARL)
    other = build(SARL, seed=1).fit(attack.model.get_env(), 40)
    monkeypatch.setattr(SARL, "save", lambda self, path: type(attack).__mro__[2].save(other, path))
    with pytest.raises(ContractError, match="after it was stored and loaded"):
        check_attack(attack)


def test_strength_0_is_no_attack() -> None:
    with pytest.raises(ContractError, match="needs a strength above 0"):
        check_attack(Random(victim(), 0.0))
