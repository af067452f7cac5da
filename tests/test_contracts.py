"""All parts of ours keep their contracts."""

from typing import Any

import numpy as np
import pytest
import torch as th
from conftest import ACTION_SPACES
from gymnasium import spaces
from learned import LEARNED, fit
from sights import SIGHTS, agent, agent_with_memory, ball_of, epsilon_of
from stable_baselines3 import PPO
from victims import victim

from sb3_barpo import RecurrentBARPO
from sb3_barpo.adversary import (
    KL,
    PGD,
    SGLD,
    ActionValue,
    Ball,
    L2Ball,
    LinfBall,
    Objective,
    QNetwork,
    Solver,
    Surrogate,
    Towards,
    Uniform,
    Value,
    WarmStart,
    Weighted,
)
from sb3_barpo.attacks import MAD, Attack, Critic, Random
from sb3_barpo.losses import (
    Bounded,
    OuterLoss,
    Regularised,
    RegularisedByBounds,
    SoftWorst,
    TimeDiscounted,
    WorstCase,
    WorstValue,
)
from sb3_barpo.schedules import Ramp
from sb3_barpo.testing import (
    ContractError,
    check_attack,
    check_ball,
    check_loss,
    check_objective,
    check_solver,
    example_policy,
)

POLICIES: dict[str, tuple[spaces.Space[Any], dict[str, Any]]] = {
    "box": (ACTION_SPACES["box"], {}),
    "relu": (ACTION_SPACES["box"], {"activation_fn": th.nn.ReLU}),
    "gsde": (ACTION_SPACES["gsde"], {"use_sde": True}),
    "squashed": (ACTION_SPACES["gsde"], {"use_sde": True, "squash_output": True}),
    "discrete": (ACTION_SPACES["discrete"], {}),
    "multi_discrete": (ACTION_SPACES["multi_discrete"], {}),
    "multi_binary": (ACTION_SPACES["multi_binary"], {}),
}
OUTPUTS = {"discrete": 3, "multi_discrete": 5}
LINFS: list[Ball] = [LinfBall(), LinfBall([1, 0, 2, 0.5]), LinfBall({"imu": 1.0, "gps": [0, 2, 1], "map": 0})]
L2S: list[Ball] = [L2Ball(), L2Ball([1, 0, 2, 0.5]), L2Ball({"imu": 1.0, "gps": [0, 2, 1]})]


def objective(name: str, kind: str) -> Objective:
    towards = Towards(th.linspace(-1, 2, 8 * OUTPUTS.get(kind, 2)).reshape(8, -1))
    made: dict[str, Objective] = {
        "kl": KL(),
        "surrogate": Surrogate(),
        "value": Value(),
        "towards": towards,
        "weighted": Weighted([(0.5, KL()), (2.0, Value())]),
    }
    return made[name]


@pytest.mark.parametrize("kind", POLICIES)
@pytest.mark.parametrize("name", ["kl", "surrogate", "value", "towards", "weighted"])
def test_objectives(name: str, kind: str) -> None:
    action_space, kwargs = POLICIES[kind]
    check_objective(objective(name, kind), example_policy(action_space, **kwargs))


@pytest.mark.parametrize("kind", ["box", "gsde", "discrete"])
def test_action_values(kind: str) -> None:
    action_space, kwargs = POLICIES[kind]
    q = QNetwork(spaces.Box(-1.0, 1.0, (4,)), action_space, hidden=(8,))
    check_objective(ActionValue(q), example_policy(action_space, **kwargs))


@pytest.mark.parametrize("ball", [*LINFS, *L2S], ids=repr)
def test_balls(ball: Ball) -> None:
    check_ball(ball)


@pytest.mark.parametrize("make", [LinfBall, L2Ball])
def test_balls_of_matrices(make: type[Ball]) -> None:
    check_ball(make(), (2, 3))
    check_ball(make(np.ones((3, 2, 2))))


@pytest.mark.parametrize("ball", [*LINFS[:2], *L2S[:2]], ids=repr)
@pytest.mark.parametrize(
    "solver", [Uniform(), PGD(), PGD(3, 1 / 3), PGD(start_radius=0), PGD(restarts=3), SGLD(), SGLD(beta=1), WarmStart()]
)
def test_solvers(solver: Solver, ball: Ball) -> None:
    check_solver(solver, ball)


LOSSES: list[OuterLoss] = [
    WorstCase(),
    WorstCase(0.0),
    WorstCase("ramp_2"),
    WorstCase(Ramp(3.0)),
    Regularised(0.5),
    Bounded(),
    Bounded("ramp_0.5", 0.5),
    TimeDiscounted(0.5, 0.9),
    RegularisedByBounds(),
    WorstValue(),
]


@pytest.mark.parametrize("loss", LOSSES)
def test_losses(loss: OuterLoss) -> None:
    check_loss(loss)


def test_a_loss_whose_rows_share_their_weights() -> None:
    check_loss(SoftWorst(temperature=2.0), rows_independent=False)
    with pytest.raises(ContractError, match="a row's share must depend on that row alone"):
        check_loss(SoftWorst(temperature=2.0))


@pytest.mark.parametrize("sight", SIGHTS)
@pytest.mark.parametrize("kind", [Random, Critic, MAD])
def test_attacks(kind: type[Attack], sight: str) -> None:
    check_attack(kind(agent(PPO, sight), epsilon_of(sight), ball=ball_of(sight)))  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", [Random, Critic, MAD])
def test_attacks_on_a_memory(kind: type[Attack]) -> None:
    check_attack(kind(agent_with_memory(RecurrentBARPO, "vector"), 0.1))


@pytest.mark.parametrize("kind", LEARNED)
def test_learned_attacks(kind: Any) -> None:
    check_attack(fit(kind, victim()))
