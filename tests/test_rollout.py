"""A rollout by bare operations is SB3's, bit for bit."""

import copy
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import TINY, make_envs, same
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from test_minibatches import make_policy
from torch import nn

from sb3_barpo import BARPO
from sb3_barpo.attacks import MAD, Critic
from sb3_barpo.evaluation.episodes import run_episodes
from sb3_barpo.policies import mlp
from sb3_barpo.policies.rollout import BareForward, BarePredictor, bare_forward, bare_predictor

SPACES = pytest.mark.parametrize(
    "action_space", [spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2, 2)), spaces.Discrete(4)], ids=str
)


@SPACES
@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("net_arch", [[], [16, 8], {"pi": [4], "vf": [32]}], ids=str)
def test_it_says_what_the_policy_says(
    action_space: spaces.Space[Any], activation: type[nn.Module], deterministic: bool, net_arch: Any
) -> None:
    policy = make_policy(ActorCriticPolicy, action_space, activation_fn=activation, net_arch=net_arch)
    said = []
    for bare in (False, True):
        th.manual_seed(5)
        with th.no_grad():
            for n in (1, 8, 1):
                observations = th.randn(n, 5, dtype=th.float64)
                if bare:
                    with bare_forward(policy):
                        assert isinstance(policy.forward, BareForward)
                        said.append(policy(observations, deterministic=deterministic))
                else:
                    said.append(policy(observations, deterministic=deterministic))
        said.append(th.get_rng_state())
    assert same(said[:4], said[4:])
    assert "forward" not in vars(policy)


def test_it_reads_the_weights_of_the_time() -> None:
    policy = make_policy(ActorCriticPolicy, spaces.Box(-1, 1, (3,)))
    observations = th.randn(4, 5)
    with th.no_grad(), bare_forward(policy):
        policy(observations)
        for parameter in policy.parameters():
            parameter.mul_(0.5)
        now = policy(observations, deterministic=True)
        assert same(now, type(policy).forward(policy, observations, deterministic=True))
        policy.value_net = nn.Linear(64, 1)
        assert th.equal(policy(observations)[1], policy.predict_values(observations))


def test_a_copy_answers_by_its_own_weights() -> None:
    policy = make_policy(ActorCriticPolicy, spaces.Discrete(4))
    observations = th.randn(4, 5)
    with th.no_grad(), bare_forward(policy):
        before = policy(observations, deterministic=True)
        other = copy.deepcopy(policy)
        for parameter in policy.parameters():
            parameter.zero_()
        assert same(other(observations, deterministic=True), before)
        assert not same(policy(observations, deterministic=True), before)


class Loud(ActorCriticPolicy):
    def forward(self, obs: th.Tensor, deterministic: bool = False) -> Any:
        actions, values, log_prob = super().forward(obs, deterministic)
        return actions, values + 100, log_prob


def test_a_forward_of_ones_own_is_heard() -> None:
    model = BARPO(Loud, make_envs(), epsilon=0, **TINY)
    model.learn(32)
    assert model.rollout_buffer.values.min() > 50


class CopiesThePolicy(BaseCallback):
    def _on_step(self) -> bool:
        self.kept = copy.deepcopy(self.model.policy)
        return True


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
@pytest.mark.parametrize("n_envs", [1, 4])
def test_the_first_rollout_is_ppos_at_any_strength(env_id: str, n_envs: int) -> None:
    rollouts = []
    for algorithm, own in ((PPO, {}), (BARPO, {"epsilon": 0.1})):
        model = algorithm("MlpPolicy", make_envs(env_id, n_envs), **TINY, **own)
        model.learn(32 * n_envs, callback=(callback := CopiesThePolicy()))
        buffer = model.rollout_buffer
        rollouts.append(
            [np.sort(getattr(buffer, name).ravel()) for name in ("actions", "values", "log_probs", "returns")]
        )
        assert "forward" not in vars(model.policy)
        callback.kept(th.zeros(1, *model.observation_space.shape))
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(*rollouts, strict=True))


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
@pytest.mark.parametrize("deterministic", [False, True])
def test_a_bare_predictor_acts_as_the_model_does(env_id: str, deterministic: bool) -> None:
    model = BARPO("MlpPolicy", make_envs(env_id), **TINY)
    with th.no_grad():
        model.policy.action_net.weight.mul_(300)  # so that actions of a Box are clipped
    bare = bare_predictor(model)
    assert isinstance(bare, BarePredictor)
    batch = np.random.default_rng(0).normal(size=(9, *model.observation_space.shape)).astype(np.float32)
    for observations in (batch, batch[:1], batch[0]):
        answers = []
        for one in (model, bare):
            th.manual_seed(2)
            answers.append(one.predict(observations, deterministic=deterministic)[0])
        assert np.array_equal(*answers)
        assert answers[0].dtype == answers[1].dtype


class SaysNothing(ActorCriticPolicy):
    def _predict(self, observation: th.Tensor, deterministic: bool = False) -> th.Tensor:
        return 0 * super()._predict(observation, deterministic)


def test_a_prediction_of_ones_own_is_heard() -> None:
    model = BARPO(SaysNothing, make_envs(), **TINY)
    assert bare_predictor(model) is model
    other = BARPO("MlpPolicy", make_envs(), **TINY)
    other.predict = other.predict
    assert bare_predictor(other) is other


@pytest.mark.parametrize("kind", [MAD, Critic])
def test_episodes_under_attack_of_a_frozen_victim_are_those_of_any(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = BARPO("MlpPolicy", make_envs("CartPole-v1", 2), **TINY)
    attack = kind(model, 0.2)
    rewards = []
    for _ in range(2):
        rewards.append([one.reward for one in run_episodes(model, attack, model.get_env(), 4, 0, deterministic=True)])
        assert attack.victim() is model.policy
        monkeypatch.setattr(mlp, "prepared", lambda policy: policy)
    assert rewards[0] == rewards[1]


def test_weights_that_change_between_trials_are_read_anew() -> None:
    model = BARPO("MlpPolicy", make_envs(), **TINY)
    attack = Critic(model, 0.2)
    observations = np.ones((4, 3), dtype=np.float32)

    def answer() -> np.ndarray:
        attack.seed(0)
        return attack.perturb(observations)

    with attack.frozen():
        before = answer()
    with th.no_grad():
        model.policy.value_net.weight.mul_(-1)
    with attack.frozen():
        after = answer()
    assert np.array_equal(after, answer())
    assert not np.array_equal(after, before)
