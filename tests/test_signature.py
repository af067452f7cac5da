"""``help`` shows what a constructor takes: all of PPO's arguments, and ours behind them, by name only."""

import inspect
import pydoc
from dataclasses import dataclass
from typing import Any

import pytest
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO

from sb3_barpo import ARPO, BARPO, RecurrentARPO, RecurrentBARPO
from sb3_barpo.losses import Defence, WorstCase
from sb3_barpo.training.presets import RobustPPO


def parameters(algorithm: type[PPO]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(algorithm).parameters)


@pytest.mark.parametrize(
    ("algorithm", "base", "kappa"),
    [(ARPO, PPO, 0.0), (BARPO, PPO, 1.0), (RecurrentARPO, RecurrentPPO, 0.0), (RecurrentBARPO, RecurrentPPO, 1.0)],
)
def test_the_base_s_arguments_and_ours(algorithm: type[PPO], base: type[PPO], kappa: float) -> None:
    ours, theirs = parameters(algorithm), parameters(base)
    assert list(ours) == [*theirs, "epsilon", "margin", "kappa", "adversary", "sensors"]
    assert {name: ours[name] for name in theirs} == theirs
    own = [ours[name] for name in ("epsilon", "margin", "kappa", "adversary", "sensors")]
    assert [parameter.default for parameter in own] == [None, 1.0, kappa, None, None]
    assert {parameter.kind for parameter in own} == {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("algorithm", [ARPO, BARPO, RecurrentARPO, RecurrentBARPO])
def test_help_shows_them(algorithm: type[PPO]) -> None:
    shown = pydoc.plain(pydoc.render_doc(algorithm))
    head = shown[shown.index("\nclass ") : shown.index("\n |  \n")]
    shown_too = ("learning_rate", "n_steps", "clip_range", "epsilon=None", "margin=1.0", "kappa=", "adversary=None")
    for name in shown_too:
        assert name in head
    assert "**kwargs" not in head


def test_the_shown_defaults_are_the_true_ones() -> None:
    model = BARPO("MlpPolicy", "Pendulum-v1", device="cpu", _init_setup_model=False)
    shown = {name: parameter.default for name, parameter in parameters(BARPO).items()}
    ours = ("epsilon", "margin", "adversary", "sensors")
    for name in ("n_steps", "batch_size", "n_epochs", "gamma", "target_kl", *ours):
        assert getattr(model, name) == shown[name]
    model._setup_model()
    assert model.kappa == shown["kappa"]
    assert model.epsilon == "ramp_0.075"


@dataclass(frozen=True)
class Shared(WorstCase):
    share: float = 0.25


def test_a_loss_of_ones_own_brings_its_settings() -> None:
    class Own(RobustPPO):
        defence = Defence(BARPO.defence.objective, Shared())

    assert list(parameters(Own))[-6:] == ["epsilon", "margin", "kappa", "share", "adversary", "sensors"]
    assert parameters(Own)["share"].default == 0.25
    assert Own("MlpPolicy", "Pendulum-v1", share=0.5, device="cpu").share == 0.5


def test_a_constructor_of_ones_own_is_shown_as_it_is() -> None:
    class Own(BARPO):
        defence = BARPO.defence

        def __init__(self, policy: str, env: Any, mood: str = "good") -> None:
            super().__init__(policy, env)

    class Heir(Own):
        defence = ARPO.defence

    assert list(parameters(Own)) == list(parameters(Heir)) == ["policy", "env", "mood"]


def test_a_child_without_a_constructor_shows_its_parent_s() -> None:
    class Child(BARPO):
        pass

    assert parameters(Child) == parameters(BARPO)
