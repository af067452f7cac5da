"""Training on the general path is what it was before the outer loss became a part of its own, bit for bit."""

from typing import Any

import pytest
from helpers import General, same, weights
from old_loss import before
from sights import agent, agent_with_memory
from stable_baselines3 import PPO

from sb3_barpo import ARPO, BARPO, RecurrentARPO, RecurrentBARPO
from sb3_barpo.policies.mlp import is_mlp

#: Observations, actions, and what else differs.
SCENES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "mlp": ("vector", "box", {"policy": General}),
    "discrete": ("vector", "discrete", {"policy": General}),
    "cnn": ("image", "box", {"adversary": {"n_steps": 2}}),
    "dict": ("vectors", "multi_discrete", {"adversary": {"later_steps": 0}}),
}
KAPPAS = pytest.mark.parametrize("kappa", [0.0, 1.0])


def trained(algorithm: type[PPO], build: Any, scene: tuple[str, str, dict[str, Any]], **own: Any) -> PPO:
    sight, action, more = scene
    model = build(algorithm, sight, action, epsilon=0.1, ent_coef=0.01, **more, **own)
    if issubclass(algorithm, BARPO | ARPO):
        assert not is_mlp(model.policy)
    return model.learn(128)  # two rollouts of two environments


def assert_as_before(algorithm: type[PPO], build: Any, scene: tuple[str, str, dict[str, Any]], kappa: float) -> None:
    now, then = (trained(kind, build, scene, kappa=kappa) for kind in (algorithm, before(algorithm)))
    assert same(weights(now), weights(then))
    assert same(now.policy.optimizer.state_dict(), then.policy.optimizer.state_dict())
    # The comparison can fail.
    assert not same(weights(now), weights(trained(algorithm, build, scene, kappa=kappa + 0.5)))


@KAPPAS
@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("algorithm", [ARPO, BARPO])
def test_without_a_memory(algorithm: type[PPO], scene: str, kappa: float) -> None:
    assert_as_before(algorithm, agent, SCENES[scene], kappa)


@KAPPAS
@pytest.mark.parametrize("algorithm", [RecurrentARPO, RecurrentBARPO])
def test_with_a_memory(algorithm: type[PPO], kappa: float) -> None:
    assert_as_before(algorithm, agent_with_memory, ("vector", "box", {}), kappa)
