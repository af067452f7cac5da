"""Attacks on victims with a memory: it goes on by what they were shown, and is empty where an episode starts."""

from functools import cache, partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sights import make_sights
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from victims import victim

from sb3_barpo.adversary import KL, PGD, Adversary
from sb3_barpo.attacks import (
    MAD,
    PAAD,
    SARL,
    AttackObservation,
    Critic,
    GradientAttack,
    Memory,
    Random,
    RobustSarsa,
    RoleReversedVecEnv,
    UnderAttack,
    VecAttackObservation,
)
from sb3_barpo.evaluation import evaluate_robustness

pytest.importorskip("sb3_contrib")
from sb3_contrib import RecurrentPPO

THREE = [Random, Critic, MAD]
three = pytest.mark.parametrize("kind", THREE)
LSTMS: dict[str, dict[str, Any]] = {
    "separate": {},
    "shared": {"shared_lstm": True, "enable_critic_lstm": False},
    "actor only": {"enable_critic_lstm": False},
    "two layers": {"n_lstm_layers": 2},
}


class Glimpse(gym.Env[np.ndarray, np.ndarray]):
    """A number that is shown once in a while; a push that matches it is rewarded. Episodes of 7 to 12 steps."""

    observation_space = spaces.Box(-1.0, 1.0, (2,))
    action_space = spaces.Box(-1.0, 1.0, (1,))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[Any, Any]]:
        super().reset(seed=seed)
        self._time, self._end = 0, int(self.np_random.integers(7, 13))
        return self._look(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._time += 1
        reward = 1.0 - abs(float(action[0]) - self._number)
        return self._look(), reward, self._time == self._end, False, {}

    def _look(self) -> np.ndarray:
        if self._time % 4 == 0:
            self._number = float(self.np_random.uniform(-1, 1))
        return np.array([self._number if self._time % 4 == 0 else 0.0, np.sin(self._time)], np.float32)


def venv(n_envs: int = 1, wrap: Any = lambda env: env) -> VecEnv:
    return DummyVecEnv([partial(lambda: Monitor(wrap(Glimpse())))] * n_envs)


@cache
def recurrent(kind: str = "separate", seed: int = 0) -> RecurrentPPO:
    """An untrained one with opinions and large memories."""
    kwargs = {"lstm_hidden_size": 8, "net_arch": [8], **LSTMS[kind]}
    model = RecurrentPPO("MlpLstmPolicy", venv(), policy_kwargs=kwargs, n_steps=8, seed=seed, device="cpu")
    with th.no_grad():
        model.policy.action_net.weight.mul_(100)
        for name, weight in model.policy.named_parameters():
            if "lstm" in name:
                weight.mul_(3)
    return model


def returns(predictor: Any, env: VecEnv) -> list[float]:
    env.seed(5)
    return evaluate_policy(predictor, env, n_eval_episodes=3, return_episode_rewards=True)[0]


def seeded(attack: Any) -> Any:
    attack.seed(5)
    return attack


# --- the memory


@pytest.mark.parametrize("kind", LSTMS)
def test_it_goes_from_step_to_step_as_the_policy_does(kind: str) -> None:
    """The answers of a memory that advances are those of the policy on the whole sequence, with its starts."""
    model = recurrent(kind)
    observations = np.random.default_rng(0).uniform(-1, 1, (6, 3, 2)).astype(np.float32)
    starts = np.zeros((6, 3), bool)
    starts[0], starts[3, 1], starts[5, 0] = True, True, True
    memory = Memory.of(model, 3)
    fresh = Memory.of(model, 3)
    assert memory is not None
    assert fresh is not None
    values, means = [], []
    for seen, start in zip(observations, starts, strict=True):
        memory.forget(start)
        with th.no_grad():
            values.append(memory.policy.predict_values(th.as_tensor(seen)))
            means.append(memory.policy.get_distribution(th.as_tensor(seen)).distribution.mean)
        memory.advance(seen)
    sequences = th.as_tensor(observations).swapaxes(0, 1).flatten(0, 1)
    flags = th.as_tensor(starts).float().swapaxes(0, 1).flatten()
    states = fresh.policy._lstm_states
    with th.no_grad():
        whole = model.policy.predict_values(sequences, states.vf, flags)
        mean = model.policy.get_distribution(sequences, states.pi, flags)[0].distribution.mean
    assert th.allclose(th.stack(values, 1).flatten(0, 1), whole, atol=1e-5)
    assert th.allclose(th.stack(means, 1).flatten(0, 1), mean, atol=1e-5)


def test_it_is_what_the_victim_itself_remembers() -> None:
    model, memory = recurrent(), Memory(recurrent().policy, 2)
    state, observations = None, np.random.default_rng(0).uniform(-1, 1, (4, 2, 2)).astype(np.float32)
    for step, seen in enumerate(observations):
        starts = np.array([step == 0, step in (0, 2)])
        memory.forget(starts)
        _, state = model.predict(seen, state, starts, deterministic=True)
        memory.advance(seen)
        carried = memory.give(None)
        assert state is not None
        assert all(np.array_equal(ours, theirs) for ours, theirs in zip(carried[:2], state, strict=True))


def test_it_can_be_carried_in_a_state() -> None:
    memory, other = Memory(recurrent().policy, 2), Memory(recurrent().policy, 2)
    memory.advance(np.ones((2, 2), np.float32))
    own = (np.zeros(3), np.ones(3))
    assert other.take(memory.give(own)) == own
    assert all(map(np.array_equal, other.give(None), memory.give(None)))
    assert other.take(memory.give(None)) is None
    assert other.take(None) is None


def test_the_global_generator_is_not_touched() -> None:
    policy = recurrent().policy  # made with a seed, where it is the first test to ask for it
    before = th.get_rng_state()
    Memory(policy, 1).advance(np.ones((1, 2), np.float32))
    assert th.equal(th.get_rng_state(), before)


def test_policies_without_a_memory_have_none() -> None:
    assert Memory.of(victim(), 1) is None


# --- the three faces


@pytest.mark.parametrize(
    ("kind", "lstm"), [(Random, "separate"), (MAD, "separate"), *((Critic, lstm) for lstm in LSTMS)]
)
def test_the_three_faces_give_the_same_returns(kind: Any, lstm: str) -> None:
    model = recurrent(lstm)
    attack = kind(model, 0.3)
    inside = returns(model, venv(wrap=lambda env: AttackObservation(env, attack)))
    outside = returns(model, VecAttackObservation(venv(), attack))
    assert inside == outside == returns(UnderAttack(model, seeded(attack)), venv())
    assert inside != returns(model, venv())


@three
def test_many_environments_at_once(kind: Any) -> None:
    model = recurrent()
    attack = kind(model, 0.3)
    outside = returns(model, VecAttackObservation(venv(3), attack))
    assert outside == returns(UnderAttack(model, seeded(attack)), venv(3))


@three
def test_strength_0_is_no_attack(kind: Any) -> None:
    model = recurrent()
    attack = kind(model, 0.0)
    clean = returns(model, venv())
    assert returns(model, venv(wrap=lambda env: AttackObservation(env, attack))) == clean
    assert returns(model, VecAttackObservation(venv(), attack)) == clean
    assert returns(UnderAttack(model, attack), venv()) == clean


class Watched(GradientAttack):
    """Writes down what it is asked and what the victim remembered then."""

    def __init__(self, model: Any) -> None:
        super().__init__(model, 0.3, Adversary(KL(), PGD(n_steps=2)), seed=0)
        self.log: list[tuple[np.ndarray, np.ndarray, list[np.ndarray]]] = []

    def perturb(self, observations: Any, bounds: Any = None, memory: Any = None) -> Any:
        shown = super().perturb(observations, bounds, memory)
        self.log.append((observations.copy(), shown.copy(), list(memory.give(None))))
        return shown


def test_the_victim_remembers_what_it_was_shown() -> None:
    """Played again by hand, with the observations that it was shown."""
    model = recurrent()
    attack = Watched(model)
    env = VecAttackObservation(venv(2), attack)
    env.seed(0)
    env.reset()
    starts = [np.ones(2, bool)]
    for _ in range(20):
        starts.append(env.step(np.zeros((2, 1)))[2])
    assert any(start.any() for start in starts[1:])
    state = None
    for (clean, shown, remembered), start in zip(attack.log, starts, strict=True):
        if state is not None:
            assert all(map(np.array_equal, remembered, state))
        _, state = model.predict(shown, state, start, deterministic=True)
        assert 0 < np.abs(shown - clean).max() <= 0.3 * (1 + 1e-6)


def test_the_memory_matters() -> None:
    """The same observation is perturbed in another way by who remembers other things."""
    model = recurrent()
    attack = Critic(model, 0.3)
    seen = np.random.default_rng(0).uniform(-1, 1, (50, 2)).astype(np.float32)
    shown = []
    for past in (-1.0, 1.0):
        memory = Memory(model.policy, 50)
        memory.advance(np.full((50, 2), past, np.float32))
        shown.append(seeded(attack).perturb(seen, memory=memory))
        assert np.abs(shown[-1] - seen).max() <= 0.3 * (1 + 1e-6)
    assert not np.array_equal(*shown)


def test_a_shared_memory_has_a_gradient_of_value() -> None:
    """sb3-contrib cuts it; against differences."""
    policy = Memory(recurrent("shared").policy, 1).policy
    seen = th.tensor([[0.3, -0.2]], requires_grad=True)
    (gradient,) = th.autograd.grad(policy.predict_values(seen).sum(), seen)
    with th.no_grad():
        shifts = 1e-3 * th.eye(2)
        slopes = [(policy.predict_values(seen + d) - policy.predict_values(seen - d)).item() / 2e-3 for d in shifts]
        assert policy.predict_values(seen).item() == pytest.approx(
            policy._policy.predict_values(seen, policy._begun[0].vf, policy._begun[1]).item(), rel=1e-6
        )
    assert gradient[0].tolist() == pytest.approx(slopes, rel=1e-2, abs=1e-4)
    assert gradient.abs().max() > 0


def test_an_attack_through_another_policy() -> None:
    """A transferred attack carries the memory of the policy that it knows, beside the victim's."""
    attack = Critic(recurrent("separate", seed=1), 0.3)
    model = recurrent("two layers")
    at_model = returns(UnderAttack(model, seeded(attack)), venv())
    assert at_model == returns(model, VecAttackObservation(venv(), attack))
    assert at_model != returns(UnderAttack(model, seeded(Critic(model, 0.3))), venv())


def test_one_observation_at_a_time() -> None:
    model = recurrent()
    face, state = UnderAttack(model, MAD(model, 0.3, seed=0)), None
    for _ in range(3):
        action, state = face.predict(np.zeros(2, np.float32), state, deterministic=True)
        assert action.shape == (1,)
    assert state is not None
    assert [part.shape for part in state] == [(1, 1, 8)] * 6


@three
def test_without_its_memory_a_victim_is_not_known(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"RecurrentPPO, has a memory.* UnderAttack.* or pass a Memory"):
        kind(recurrent(), 0.3).perturb(np.zeros((1, 2), np.float32))


def test_of_a_dictionary() -> None:
    env = make_sights("vectors")
    kwargs = {"lstm_hidden_size": 8}
    model = RecurrentPPO("MultiInputLstmPolicy", env, policy_kwargs=kwargs, n_steps=8, seed=0, device="cpu")
    report = evaluate_robustness(model, make_sights("vectors"), epsilon=0.1, n_eval_episodes=2)
    assert report.attacks == ["random", "critic", "mad"]


# --- attacks that learn


@pytest.mark.parametrize(
    ("kind", "own"),
    [(SARL, {"n_steps": 16, "batch_size": 16}), (PAAD, {"n_steps": 16, "batch_size": 16}), (RobustSarsa, {})],
)
def test_learned_attacks(kind: Any, own: dict[str, Any], tmp_path: Any) -> None:
    model = recurrent()
    attack = kind(model, 0.3, seed=0, **own).fit(venv(2), total_timesteps=64)
    again = kind(model, 0.3, seed=0, **own).fit(venv(2), total_timesteps=64)
    attack.save(tmp_path / "attack")
    loaded = kind.load(tmp_path / "attack", model)
    first, second, third = (returns(UnderAttack(model, seeded(a)), venv(2)) for a in (attack, again, loaded))
    assert first == second == third
    assert first != returns(model, venv(2))


def test_an_attacker_trains_on_a_victim_that_remembers() -> None:
    """``Monitor`` tells the victim's returns on both sides."""
    model = recurrent()
    attack = SARL(model, 0.3, seed=0, n_steps=16, batch_size=16).fit(venv(2), total_timesteps=32)
    env = RoleReversedVecEnv(venv(2), attack)
    ours = returns(attack.adversary_model, env)
    assert ours == returns(UnderAttack(model, attack), venv(2))


def test_a_report() -> None:
    model = recurrent()
    one, two = (evaluate_robustness(model, venv(n), ["critic", "mad"], 0.3, n_eval_episodes=4) for n in (1, 2))
    assert one.natural == pytest.approx(two.natural)
    assert one.worst_case != one.natural
