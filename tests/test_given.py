"""What users hand over: compiled policies, and texts where a model, an environment or an attack belongs."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from helpers import TINY, make_envs
from stable_baselines3 import PPO
from torch.distributions import Distribution

from sb3_barpo import BARPO
from sb3_barpo.attacks import (
    MAD,
    SARL,
    AttackObservation,
    LearnedAttack,
    RobustSarsa,
    UnderAttack,
    VecAttackObservation,
)
from sb3_barpo.certify import certify_actions, certify_return
from sb3_barpo.evaluation import RobustEvalCallback, evaluate_robustness
from sb3_barpo.evaluation.budgets import Budget, Member
from sb3_barpo.evaluation.campaign import evaluate
from sb3_barpo.evaluation.trace import trace_episode
from sb3_barpo.policies.views import uncompiled

FILE, ENV = "agents/ppo.zip", "Pendulum-v1"


@pytest.fixture(autouse=True)
def _validation_as_before() -> Iterator[None]:
    """PyTorch's compiler turns the validation of all distributions off, for good."""
    before = Distribution._validate_args
    yield
    Distribution.set_default_validate_args(before)


def pair(kind: type[PPO] = PPO) -> tuple[PPO, PPO]:
    """The same agent, plain and compiled. Nothing is compiled before it is called, and nothing here calls it."""
    plain, compiled = (kind("MlpPolicy", make_envs(), **TINY) for _ in range(2))
    compiled.policy = th.compile(compiled.policy, backend="eager")  # type: ignore[assignment]
    return plain, compiled


def test_the_module_inside_is_evaluated() -> None:
    plain, compiled = pair(BARPO)
    before = compiled.policy
    budget = Budget({"sarl": [Member("sarl", 32, {"n_steps": 16, "batch_size": 16})]}, 2)
    frames = [
        evaluate_robustness(model, make_envs(), ["mad", "sarl"], 0.1, n_eval_episodes=2, budget=budget).to_frame()
        for model in (plain, compiled)
    ]
    assert frames[0].equals(frames[1])
    assert compiled.policy is before


@pytest.mark.parametrize("kind", [MAD, RobustSarsa])
def test_attacks_on_a_compiled_policy(kind: Any, tmp_path: Path) -> None:
    plain, compiled = pair()
    shown = []
    for model in (plain, compiled):
        attack = kind(model, 0.1, seed=0)
        if isinstance(attack, LearnedAttack):
            attack.fit(make_envs(), 32).save(tmp_path / "attack")
            attack = kind.load(tmp_path / "attack", model)
            attack.seed(0)
            attack.check_victim(compiled)
            attack.check_victim(plain)
        shown.append(VecAttackObservation(make_envs(), attack).reset())
        predictor = UnderAttack(model, attack)
        assert predictor.predict(make_envs().reset())[0].shape == (1, 1)
    assert np.array_equal(*shown)


def test_certificates_and_traces_of_a_compiled_policy() -> None:
    plain, compiled = pair()
    seen = make_envs().reset()
    ours, theirs = (certify_actions(model, seen, 0.01) for model in (plain, compiled))  # type: ignore[arg-type]
    assert np.array_equal(ours.low, theirs.low)
    traces = [trace_episode(model, make_envs(), MAD(model, 0.1), seed=1) for model in (plain, compiled)]
    assert np.array_equal(traces[0].actions, traces[1].actions)


def test_a_plain_model_is_itself() -> None:
    model, _ = pair()
    assert uncompiled(model) is model


@pytest.mark.parametrize("text", [FILE, Path(FILE)])
@pytest.mark.parametrize(
    "call",
    [
        lambda text: evaluate_robustness(text, make_envs()),
        lambda text: MAD(text, 0.1),
        lambda text: SARL(text, 0.1),
        lambda text: LearnedAttack.load("attack.zip", text),
        lambda text: UnderAttack(text, MAD(pair()[0], 0.1)),
        lambda text: trace_episode(text, make_envs(), None, 0),
        lambda text: certify_actions(text, np.zeros((1, 3)), 0.1),
        lambda text: certify_return(text, make_envs(), 0.1),
        lambda text: evaluate([text]),
    ],
)
def test_a_text_where_a_model_belongs(call: Callable[[Any], Any], text: Any) -> None:
    match = (
        r"'agents/ppo.zip' is a text, where an agent belongs. Load it: PPO.load\('agents/ppo.zip'\), or .*load_agent"
    )
    with pytest.raises(TypeError, match=match):
        call(text)


@pytest.mark.parametrize(
    "call",
    [
        lambda model: evaluate_robustness(model, ENV),
        lambda model: RobustEvalCallback(ENV),
        lambda model: RobustSarsa(model, 0.1).fit(ENV, 32),
        lambda model: trace_episode(model, ENV, None, 0),
        lambda model: certify_return(model, ENV, 0.1),
        lambda model: AttackObservation(ENV, MAD(model, 0.1)),
        lambda model: VecAttackObservation(ENV, MAD(model, 0.1)),
    ],
)
def test_a_text_where_an_environment_belongs(call: Callable[[PPO], Any]) -> None:
    model = PPO("MlpPolicy", make_envs(), **TINY)
    match = r"'Pendulum-v1' is a text, where an environment belongs. Make it: make_vec_env\('Pendulum-v1'\), wrapped as"
    with pytest.raises(TypeError, match=match):
        call(model)


@pytest.mark.parametrize("text", ["mad", "attacks/sarl.zip", Path("attacks/sarl.zip")])
def test_a_text_where_an_attack_belongs(text: Any) -> None:
    model = PPO("MlpPolicy", make_envs(), **TINY)
    for call in (
        lambda: UnderAttack(model, text),
        lambda: VecAttackObservation(make_envs(), text),
        lambda: AttackObservation(make_envs().unwrapped.envs[0], text),  # type: ignore[attr-defined]
    ):
        with pytest.raises(TypeError, match=r"is a text, where an attack belongs. Make it for the model.*MAD\(model"):
            call()
