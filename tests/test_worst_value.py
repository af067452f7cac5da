"""WocaR-PPO: its critic against exact values, its loss against a plain one, its limits and its files."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import TINY, assert_same_training, learn, make_envs, same, weights
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from test_defences import by_hand
from test_loss import SPACES, distance, log_prob_and_entropy, one_step
from torch import nn

from sb3_barpo import WocaRPPO
from sb3_barpo.certify import OutputBounds, actor_bounds, box_around
from sb3_barpo.losses.worst_critic import Transitions, WorstCritic, by_time, extreme, transitions
from sb3_barpo.training import inner

#: Three states, two actions: where each leads and what it brings. Action 1 of state 2 ends the episode.
NEXT = np.array([[0, 1], [2, 0], [1, 2]])
REWARD = np.array([[0.0, 1.0], [-0.5, 2.0], [1.0, -1.0]])
ENDS = np.array([[False, False], [False, False], [False, True]])
#: Which actions the adversary can make the policy take.
POSSIBLE = np.array([[True, True], [True, False], [True, True]])
GAMMA = 0.7


def exact() -> np.ndarray:
    """The worst-case action values, by iteration."""
    q = np.zeros((3, 2))
    for _ in range(200):
        worst = np.where(POSSIBLE, q, np.inf).min(1)
        q = REWARD + GAMMA * ~ENDS * worst[NEXT]
    return q


def logits_of(states: np.ndarray) -> OutputBounds:
    """Bounds that leave just the possible actions."""
    low = th.zeros(len(states), 2)
    high = th.as_tensor(np.where(POSSIBLE[states], 1.0, -1.0)).float()
    return OutputBounds(th.where(high > 0, low, high - 1), high)


def test_the_critic_of_a_small_mdp_is_exact() -> None:
    states, actions = (part.ravel() for part in np.meshgrid([0, 1, 2], [0, 1], indexing="ij"))
    one_hot = th.eye(3)
    following = NEXT[states, actions]
    data = Transitions(
        one_hot[states],
        th.as_tensor(actions),
        th.as_tensor(REWARD[states, actions]).float(),
        th.as_tensor(ENDS[states, actions]),
        one_hot[following],
        logits_of(following),
    )
    draw = th.Generator().manual_seed(0)
    critic = WorstCritic(spaces.Box(0, 1, (3,)), spaces.Discrete(2), "cpu", draw, learning_rate=3e-3)
    data = Transitions(
        *(part.repeat_interleave(8, 0) for part in data[:5]),
        OutputBounds(*(e.repeat_interleave(8, 0) for e in data.reach)),
    )
    critic.fit(data, GAMMA, draw, n_epochs=400, batch_size=48)
    with th.no_grad():
        found = critic.q.of_each_action(one_hot).numpy()
    np.testing.assert_allclose(found, exact(), atol=0.03)
    ordinary = REWARD + GAMMA * ~ENDS * exact().max(1)[NEXT]
    assert np.abs(found - ordinary).max() > 0.3  # the test can tell the worst case from the best
    spread = critic.spread(one_hot, logits_of(np.arange(3)))
    expected = [np.ptp(row[possible]) for row, possible in zip(exact(), POSSIBLE, strict=True)]
    np.testing.assert_allclose(spread.numpy(), expected, atol=0.06)


def test_the_worst_action_of_an_interval() -> None:
    """Of ``-(a₁ - 0.3)² + a₂``, fitted by nobody: written into a stand-in."""

    class Written:
        n_actions = None

        def __call__(self, observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
            return -((actions[:, 0] - 0.3) ** 2) + actions[:, 1]

    reach = OutputBounds(th.tensor([[0.0, -1.0], [-1.0, 2.0]]), th.tensor([[1.0, 1.0], [0.5, 2.0]]))
    lowest = extreme(Written(), th.zeros(2, 1), reach, highest=False)
    highest = extreme(Written(), th.zeros(2, 1), reach, highest=True)
    np.testing.assert_allclose(lowest, [-0.49 - 1, -1.69 + 2], atol=1e-6)
    np.testing.assert_allclose(highest, [1, 2], atol=0.05)  # the top of a hill is found up to a step


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
def test_transitions_of_a_rollout(env_id: str) -> None:
    """In the order of time, never across the end of an episode or into another environment, also after minibatches."""
    model = PPO("MlpPolicy", make_envs(env_id, n_envs=3), **TINY)
    model.learn(96)
    buffer = model.rollout_buffer
    assert buffer.generator_ready
    observations = buffer.observations.reshape(3, 32, -1)
    np.testing.assert_array_equal(by_time(buffer, "observations")[5, 2], observations[2, 5])
    reach = OutputBounds(*2 * [th.arange(96.0)[:, None]])
    data = transitions(buffer, reach, "cpu", discrete=env_id == "CartPole-v1")
    assert len(data.rewards) == 31 * 3
    row = 7 * 3 + 1  # step 7 of environment 1
    np.testing.assert_array_equal(data.observations[row], observations[1, 7])
    np.testing.assert_array_equal(data.following[row], observations[1, 8])
    assert data.rewards[row] == buffer.rewards[7, 1]
    assert data.reach.low[row] == 8 * 3 + 1
    assert data.dones[row] == buffer.episode_starts[8, 1]
    assert data.dones.sum() == buffer.episode_starts[1:].sum() > 0


def wocar_by_hand(notes: th.Tensor) -> Any:
    """At w = 0.6 and λ = 0.4, in the order of the minibatch."""

    def loss(policy: Any, clean: th.Tensor, perturbed: th.Tensor, batch: Any) -> th.Tensor:
        values, importance = notes
        advantages = (batch.advantages - batch.advantages.mean()) / (batch.advantages.std() + 1e-8)
        advantages = advantages + 0.6 * (values - values.mean()) / (values.std() + 1e-8)
        ratio = (log_prob_and_entropy(policy, clean, batch.actions)[0] - batch.old_log_prob).exp()
        capped = th.where(advantages > 0, ratio.clamp(max=1.06), ratio.clamp(min=0.94))
        outputs = [policy.action_net(policy.mlp_extractor.policy_net(seen)) for seen in (clean, perturbed)]
        if hasattr(policy, "log_std"):
            kl = (0.5 * ((outputs[0] - outputs[1]) / policy.log_std.exp()) ** 2).sum(1)
        else:
            p, q = (output.softmax(1) for output in outputs)
            kl = (p * (p / q).log()).sum(1)
        return -(capped * advantages).mean() + 0.4 * (importance * kl).mean()

    return loss


@SPACES
def test_loss_and_gradient(env_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The notes belong to their rows: they are recomputed here from the minibatch's own observations and actions."""
    monkeypatch.setattr(inner, "knows_rows", lambda buffer: True)  # it is SB3's, with an ear at it
    step = one_step(WocaRPPO, env_id, epsilon=0.1, weight=0.6, penalty=0.4, vf_coef=1e-3)
    critic, (call,) = step.model._memory_of_loss["critic"], step.calls
    step.model.policy.load_state_dict(step.before)
    seen, actions = step.batch.observations, step.batch.actions
    with th.no_grad():
        reach = actor_bounds(step.model.policy, box_around(seen, 0.1, limits=step.model._bounds()))
        values = critic.q(seen, actions.flatten() if env_id == "CartPole-v1" else actions)
    spread = critic.spread(seen, reach)
    notes = th.stack([values, spread / spread.mean()])
    assert notes.std(1).min() > 1e-4
    loss, gradient = by_hand(step, call.perturbed, wocar_by_hand(notes))
    assert step.book.column("train/loss") == [pytest.approx(loss, rel=1e-6, abs=1e-6)]
    assert distance(step.gradient(), gradient) < 2e-6
    _, other = by_hand(step, call.perturbed, wocar_by_hand(notes.flip(1)))
    assert distance(gradient, other) > 1e-4


@pytest.mark.parametrize("own", [{"epsilon": 0}, {"epsilon": 0.1, "weight": 0, "penalty": 0}], ids=str)
def test_ppo_bit_for_bit(own: dict[str, Any]) -> None:
    runs = []
    for kind, settings in ((WocaRPPO, own), (PPO, {})):
        model = kind("MlpPolicy", make_envs(normalized=True), **TINY, **settings)
        runs += [model, learn(model, 96)]
    assert_same_training(*runs)


def test_training_is_reproducible_and_draws_from_its_own_generators() -> None:
    """Its critic's weights and shuffles leave the rollouts of the second update where they were: PPO's draws."""
    models = [WocaRPPO("MlpPolicy", make_envs(n_envs=2), epsilon=0.1, **TINY) for _ in range(2)]
    states = []
    for model in models:
        model.set_random_seed(3)
        model.learn(128)
        states.append(th.get_rng_state())
    assert same(weights(models[0]), weights(models[1]))
    ppo = PPO("MlpPolicy", make_envs(n_envs=2), **TINY)
    ppo.set_random_seed(3)
    ppo.learn(128)
    assert th.equal(states[0], th.get_rng_state())


@SPACES
def test_a_model_s_life(env_id: str, tmp_path: Path) -> None:
    envs = make_envs(env_id, n_envs=2, normalized=True)
    model = WocaRPPO("MlpPolicy", envs, epsilon=0.1, weight=0.5, **TINY)
    book = learn(model, 128)
    assert {"adversary/weight", "adversary/penalty", "adversary/worst_value", "adversary/regulariser"} <= set(
        book.dumps[-1]
    )
    critic = model._memory_of_loss["critic"]
    model.save(tmp_path / "agent")
    with zipfile.ZipFile(tmp_path / "agent.zip") as file:
        assert "_memory_of_loss" not in file.read("data").decode()
    again = WocaRPPO.load(tmp_path / "agent", device="cpu", env=envs)
    ppo = PPO.load(tmp_path / "agent", device="cpu", env=envs)
    assert again._memory_of_loss == {}
    for some in (again, ppo):
        assert same(weights(some), weights(model))
        some.learn(64, reset_num_timesteps=False)
        assert all(np.isfinite(value.numpy()).all() for value in weights(some).values())
    assert again._memory_of_loss["critic"] is not critic
    model.learn(64, reset_num_timesteps=False)
    assert model._memory_of_loss["critic"] is critic  # it goes on from rollout to rollout


@pytest.mark.parametrize("others", [{"use_sde": True}, {"policy_kwargs": {"activation_fn": nn.GELU}}], ids=str)
def test_policies_without_bounds_are_refused(others: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="Bounds are computed for SB3's MLP policies"):
        WocaRPPO("MlpPolicy", make_envs(), **others)


class OwnBuffer(RolloutBuffer):
    """Somebody's, whose order of rows is not known."""


def test_buffers_of_one_s_own_are_refused() -> None:
    model = WocaRPPO("MlpPolicy", make_envs(), epsilon=0.1, rollout_buffer_class=OwnBuffer, **TINY)
    with pytest.raises(TypeError, match="rollout buffers of SB3 and sb3-contrib only, not in OwnBuffer"):
        model.learn(32)
