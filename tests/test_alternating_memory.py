"""ATLA for agents with a memory: agent and attacker in turns, and one memory through both."""

from pathlib import Path
from typing import Any

import pytest
import torch as th
from alternation import check_discrete_actions, check_help, check_life
from helpers import TINY, assert_same_training, learn, make_envs, same, weights

pytest.importorskip("sb3_contrib")
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.type_aliases import RNNStates

from sb3_barpo import RecurrentATLA

BOTH = pytest.mark.parametrize("attacker", ["sarl", "paad"])
SMALL: dict[str, Any] = {"policy": "MlpLstmPolicy", "policy_kwargs": {"lstm_hidden_size": 8, "net_arch": [8]}, **TINY}


def build(env: Any = None, **own: Any) -> Any:
    return RecurrentATLA(env=make_envs() if env is None else env, **{"epsilon": 0.2, **SMALL, **own})


@BOTH
@pytest.mark.parametrize("n_envs", [1, 3])
def test_strength_zero_is_recurrent_ppo(attacker: str, n_envs: int) -> None:
    runs = []
    for kind, own in ((RecurrentATLA, {"epsilon": 0, "attacker": attacker}), (RecurrentPPO, {})):
        model = kind(env=make_envs(n_envs=n_envs, normalized=True), **SMALL, **own)
        runs += [model, learn(model, 64 * n_envs)]
    assert_same_training(*runs)


class Watched(RecurrentATLA):
    """Keeps what the agent was shown, in which order, and what it remembered before each step."""

    def _setup_model(self) -> None:
        super()._setup_model()
        self.shown, self.starts, self.remembered = list[Any](), list[Any](), list[Any]()

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> bool:
        go_on = super().collect_rollouts(*args, **kwargs)
        seen: Any = self.rollout_buffer
        self.shown.extend(seen.observations)
        self.starts.extend(seen.episode_starts)
        self.remembered.extend(th.as_tensor(states) for states in seen.hidden_states_pi)
        return go_on

    def _attackers_turn(self) -> None:
        assert self._turns is not None
        memory: Any = self._turns.memory
        advance = memory.advance

        def listen(seen: Any) -> None:
            self.shown.append(seen)
            self.starts.append(memory._starts.numpy())
            self.remembered.append(memory.states.pi[0])
            advance(seen)

        memory.advance = listen
        super()._attackers_turn()
        del memory.advance


@BOTH
def test_the_memory_is_of_all_that_the_agent_was_shown(attacker: str) -> None:
    """In both turns, and in the rollouts before and after all attacks: a replay, step by step, finds the same."""
    # The weights stay as they are, so that one replay goes through all rollouts.
    still = {"epsilon": "step_0_0.1_0.2_0.7_0", "learning_rate": 0.0}
    model: Any = Watched(env=make_envs(n_envs=2), attacker=attacker, **SMALL, **still).learn(5 * 64)
    assert len(model.shown) == (5 + 3) * 32
    zero = th.zeros(1, 2, 8), th.zeros(1, 2, 8)
    states, largest = RNNStates(zero, zero), 0.0
    for seen, start, remembered in zip(model.shown, model.starts, model.remembered, strict=True):
        assert th.allclose(remembered, states.pi[0], atol=1e-6)
        largest = max(largest, float(remembered.abs().max()))
        with th.no_grad():
            states = model.policy(th.as_tensor(seen), states, th.as_tensor(start, dtype=th.float32))[3]
    assert largest > 0.05


def test_training_is_reproducible() -> None:
    first, second = (build(make_envs(n_envs=2)).learn(192) for _ in range(2))
    assert same(weights(first), weights(second))
    assert same(weights(first._attack.adversary_model), weights(second._attack.adversary_model))


def test_both_learn_in_turns() -> None:
    model = build(make_envs(n_envs=2, normalized=True))
    book = learn(model, 64)
    adversary = model.learned_attack().adversary_model
    assert adversary.num_timesteps == model.num_timesteps == 64
    first = weights(adversary)
    model.learn(64, reset_num_timesteps=False)
    assert adversary.num_timesteps == 128
    assert not same(weights(adversary), first)
    assert book.column("adversary/epsilon") == [0.2]


def test_the_penalty_of_sa_ppo() -> None:
    assert learn(build(weight=0.3), 32).column("adversary/regulariser")[0] > 0


@BOTH
def test_a_model_s_life(attacker: str, tmp_path: Path) -> None:
    check_life(build, RecurrentATLA, RecurrentPPO, attacker, tmp_path)


def test_discrete_actions() -> None:
    check_discrete_actions(build)


def test_help_shows_all_arguments() -> None:
    check_help(RecurrentATLA, RecurrentPPO)
