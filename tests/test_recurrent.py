"""RecurrentARPO and RecurrentBARPO: at strength 0 RecurrentPPO bit for bit, above it an adversary of the memory."""

import sys
from collections import defaultdict
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch as th
from helpers import TINY, LogBook, assert_same_training, learn, make_envs, same, spy, weights
from sights import make_sights
from stable_baselines3 import PPO

from sb3_barpo import BARPO
from sb3_barpo.adversary import KL, PGD, SGLD, Adversary, LinfBall, Perturbation, Samples, Surrogate, Value
from sb3_barpo.policies.views import OnSequences

pytest.importorskip("sb3_contrib")
import sb3_contrib
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.type_aliases import RNNStates

from sb3_barpo import RecurrentARPO, RecurrentBARPO

N_STEPS = 35  # minibatches of 16, 16 and 3 in one environment
SMALL: dict[str, Any] = {"lstm_hidden_size": 8, "net_arch": [8]}
SCENES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "Box": ("Pendulum-v1", 1, {}),
    "Discrete": ("CartPole-v1", 3, {}),
    "Dict": ("vectors", 2, {"policy": "MultiInputLstmPolicy"}),
    "gSDE": ("Pendulum-v1", 2, {"use_sde": True, "sde_sample_freq": 4}),
    "target_kl": ("Pendulum-v1", 1, {"target_kl": 1e-6, "learning_rate": 3e-3}),
    "clip_range_vf": ("CartPole-v1", 1, {"clip_range_vf": 0.05}),
    "raw_advantage": ("Pendulum-v1", 3, {"normalize_advantage": False}),
    "entropy": ("CartPole-v1", 1, {"ent_coef": 0.02, "vf_coef": 0.7, "max_grad_norm": 0.1}),
    "one_batch": ("CartPole-v1", 2, {"batch_size": None}),
    "shared": ("Pendulum-v1", 2, {"policy_kwargs": {**SMALL, "shared_lstm": True, "enable_critic_lstm": False}}),
    "actor_only": ("CartPole-v1", 2, {"policy_kwargs": {**SMALL, "enable_critic_lstm": False}}),
    "two_layers": ("Pendulum-v1", 1, {"policy_kwargs": {**SMALL, "n_lstm_layers": 2}}),
}


def make(algorithm: type[RecurrentPPO], scene: str = "Discrete", **own: Any) -> RecurrentPPO:
    env_id, n_envs, arguments = SCENES[scene]
    env = make_sights(env_id, n_envs=n_envs) if scene == "Dict" else make_envs(env_id, n_envs)
    settings = {"policy": "MlpLstmPolicy", "policy_kwargs": SMALL, **TINY, "n_steps": N_STEPS, **arguments, **own}
    return algorithm(env=env, **settings)


def train(algorithm: type[RecurrentPPO], scene: str, **own: Any) -> tuple[RecurrentPPO, LogBook]:
    """Two updates."""
    model = make(algorithm, scene, **own)
    return model, learn(model, 2 * N_STEPS * model.n_envs)


@cache
def plain(scene: str) -> tuple[RecurrentPPO, LogBook]:
    return train(RecurrentPPO, scene)


@pytest.mark.parametrize("scene", SCENES)
def test_parity(scene: str) -> None:
    # Before 2.8 sb3-contrib counted the epochs that an early stop left out.
    old = tuple(map(int, sb3_contrib.__version__.split(".")[:2])) < (2, 8)
    but = frozenset({"train/n_updates"}) if old and scene == "target_kl" else frozenset[str]()
    assert_same_training(*train(RecurrentBARPO, scene, epsilon=0), *plain(scene), but)


def test_parity_of_arpo() -> None:
    assert_same_training(*train(RecurrentARPO, "Discrete", epsilon=0, kappa=2.0), *plain("Discrete"))


def test_target_kl_does_stop_early() -> None:
    """Otherwise the comparison above would say nothing about it."""
    assert train(RecurrentBARPO, "target_kl", epsilon=0)[1].column("train/n_updates")[-1] < 4


@pytest.mark.parametrize(
    ("algorithm", "scene"),
    [(RecurrentARPO, "Box"), (RecurrentARPO, "Discrete"), (RecurrentBARPO, "Dict"), (RecurrentBARPO, "shared")],
)
def test_strength_makes_a_difference(algorithm: Any, scene: str) -> None:
    model, book = train(algorithm, scene, epsilon=0.1, adversary={"n_steps": 3})
    assert not same(weights(model), weights(plain(scene)[0]))
    assert all(np.isfinite(value) for value in book.dumps[-1].values())
    assert 0 < book.column("adversary/radius_used")[-1] <= 0.1 * (1 + 1e-5)


def test_training_is_reproducible() -> None:
    first, second = (train(RecurrentBARPO, "Discrete", epsilon=0.1, adversary={"n_steps": 2})[0] for _ in range(2))
    assert same(weights(first), weights(second))


def test_what_they_are(tmp_path: Any) -> None:
    """A RecurrentPPO, whose files RecurrentPPO reads, and the other way round."""
    model = make(RecurrentBARPO, epsilon="ramp_0.2")
    assert isinstance(model, RecurrentPPO)
    assert isinstance(BARPO("MlpPolicy", "CartPole-v1"), PPO)
    model.save(tmp_path / "ours")
    assert same(weights(RecurrentPPO.load(tmp_path / "ours")), weights(model))
    loaded = RecurrentBARPO.load(tmp_path / "ours", env=model.env)
    assert (loaded.epsilon, loaded.kappa) == (model.epsilon, 1.0)
    learn(loaded, N_STEPS)
    make(RecurrentPPO).save(tmp_path / "theirs")
    assert RecurrentARPO.load(tmp_path / "theirs", env=model.env).kappa == 0.0


def test_a_minibatch_of_one_step_does_no_harm() -> None:
    """RecurrentPPO divides by the spread of one advantage there, which is NaN, and so are its weights from then on."""
    one_left = {"n_steps": 33, "batch_size": 49}
    theirs, ours = make(RecurrentPPO, **one_left), make(RecurrentBARPO, **one_left, epsilon=0)
    with pytest.warns(UserWarning, match="degrees of freedom"), pytest.raises(ValueError, match="invalid values"):
        learn(theirs, 99)
    learn(ours, 99)
    assert not any(value.isfinite().all() for value in weights(theirs).values())
    assert all(value.isfinite().all() for value in weights(ours).values())


@pytest.mark.parametrize("scene", ["Box", "Discrete"])
def test_warm_searches_start_where_the_last_ones_ended_though_sequences_are_cut_elsewhere(scene: str) -> None:
    model = make(RecurrentBARPO, scene, epsilon=0.1, adversary={"n_steps": 3, "later_steps": 1}, n_epochs=3)
    search, ended, started = model._adversary.search, dict[bytes, th.Tensor](), list[int]()

    def listen(policy: Any, observations: th.Tensor, epsilon: float, samples: Samples, *rest: Any) -> Perturbation:
        start = rest[-1]
        found = search(policy, observations, epsilon, samples, *rest)
        for row in samples.mask.nonzero().flatten():
            key = observations[row].numpy().tobytes()
            if start is not None:
                assert th.equal(start[row], ended[key])
            ended[key] = found.delta[row]
        started.append(0 if start is None else len(start))
        return found

    model._adversary.search = listen
    learn(model, N_STEPS * model.n_envs)
    visits = len(started) // 3
    assert len(ended) == N_STEPS * model.n_envs
    assert [n > 0 for n in started] == [False] * visits + [True] * 2 * visits
    assert model.rollout_buffer.values.shape == model.rollout_buffer.returns.shape


def test_without_sb3_contrib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    monkeypatch.delitem(sys.modules, "sb3_barpo.training.recurrent")
    monkeypatch.delattr("sb3_barpo.training.recurrent")
    with pytest.raises(ImportError, match=r'pip install "sb3-barpo\[recurrent\]"'):
        from sb3_barpo import RecurrentBARPO  # noqa: F401


def test_no_other_names_are_made_up() -> None:
    import sb3_barpo

    with pytest.raises(AttributeError, match=r"module 'sb3_barpo' has no attribute 'RecurrentSAC'"):
        sb3_barpo.RecurrentSAC  # noqa: B018


# --- the adversary on sequences


def a_minibatch(scene: str = "Discrete", strong: float = 30.0) -> tuple[RecurrentPPO, Any, OnSequences, Samples]:
    """Of a policy with opinions; some of its sequences are shorter than others."""
    model = make(RecurrentBARPO, scene, epsilon=0.1)
    with th.no_grad():
        model.policy.action_net.weight.mul_(strong)
    learn(model, 1)
    model.policy.set_training_mode(False)
    rollout_data = next(iter(model.rollout_buffer.get(40)))
    return model, rollout_data, model._policy_on(rollout_data), model._samples(rollout_data, model._begin_update())


def perturb(objective: Any, policy: Any, observations: th.Tensor, samples: Samples | None = None) -> th.Tensor:
    adversary = Adversary(objective, PGD(n_steps=5, start_radius=0.5), LinfBall())
    adversary.seed(0)
    return adversary.perturb(policy, observations, 0.1, samples)


@pytest.mark.parametrize("objective", [KL(), Surrogate(), Value()], ids=repr)
def test_steps_that_fill_up_a_sequence_have_no_influence(objective: Any) -> None:
    _, rollout_data, policy, samples = a_minibatch()
    assert samples.mask is not None
    assert not samples.mask.all()
    filled = rollout_data.observations.clone()
    filled[~samples.mask] = 5.0
    ours, theirs = (perturb(objective, policy, seen, samples) for seen in (rollout_data.observations, filled))
    assert th.equal(ours[samples.mask], theirs[samples.mask])
    assert (ours - rollout_data.observations).abs().max() <= 0.1 * (1 + 1e-5)


@pytest.mark.parametrize("objective", [KL(), Surrogate()], ids=repr)
def test_the_search_raises_the_objective(objective: Any) -> None:
    _, rollout_data, policy, samples = a_minibatch()
    adversary = Adversary(objective, SGLD())
    gain = adversary.gain(
        policy, rollout_data.observations, perturb(objective, policy, rollout_data.observations, samples), samples
    )
    assert samples.mean(gain) > 0
    assert (gain[~samples.mask] == 0).all()


def test_the_memory_sees_the_attack() -> None:
    """A perturbed step moves the answers at all later steps of its sequence, and at no others."""
    _, rollout_data, policy, _ = a_minibatch()
    perturbed = rollout_data.observations.clone()
    length = len(perturbed) // rollout_data.lstm_states.pi[0].shape[1]
    perturbed[2] += 1.0
    with th.no_grad():
        clean, moved = (
            policy.get_distribution(seen).distribution.probs for seen in (rollout_data.observations, perturbed)
        )
    changed = (clean != moved).any(1)
    assert changed[2:length].all()
    assert not changed[:2].any()
    assert not changed[length:].any()


def test_a_sequence_is_its_steps_one_after_the_other() -> None:
    """The memory goes from step to step, and is forgotten where an episode starts."""
    policy = make(RecurrentPPO).policy
    zero = (th.zeros(1, 1, 8), th.zeros(1, 1, 8))
    starts = th.tensor([1.0, 0.0, 0.0, 1.0, 0.0])
    observations = th.randn(5, 4)
    with th.no_grad():
        together = OnSequences(policy, RNNStates(zero, zero), starts)
        states, values, probs = RNNStates(zero, zero), [], []
        for observation, start in zip(observations[:, None], starts[:, None], strict=True):
            step = OnSequences(policy, states, start)
            values.append(step.predict_values(observation))
            probs.append(step.get_distribution(observation).distribution.probs)
            states = policy(observation, states, start)[3]
        assert th.allclose(th.cat(values), together.predict_values(observations), atol=1e-6)
        assert th.allclose(th.cat(probs), together.get_distribution(observations).distribution.probs, atol=1e-6)


def test_the_policy_is_left_as_it_was() -> None:
    model, rollout_data, policy, samples = a_minibatch()
    policy.set_training_mode(True)
    before, gradients = th.get_rng_state(), [parameter.grad.clone() for parameter in model.policy.parameters()]
    perturb(KL(), policy, rollout_data.observations, samples)
    assert th.equal(th.get_rng_state(), before)
    assert policy.training
    assert same(gradients, [parameter.grad for parameter in model.policy.parameters()])


def test_the_loss_by_hand() -> None:
    """At full strength: PPO's surrogate at the perturbed sequence, its mean over the steps that count."""
    model, rollout_data, _, samples = a_minibatch()
    model.policy.set_training_mode(True)
    model.n_epochs = 1  # nothing is visited twice
    update = model._begin_update()
    calls = spy(model)
    loss = model._loss(rollout_data, update, defaultdict(list), first=False)
    (perturbed,) = (call.perturbed for call in calls)
    starts, states, mask = rollout_data.episode_starts, rollout_data.lstm_states, rollout_data.mask.bool()
    values, clean, _ = model.policy.evaluate_actions(rollout_data.observations, samples.actions, states, starts)
    robust = model.policy.get_distribution(perturbed, states.pi, starts)[0].log_prob(samples.actions)
    advantages = rollout_data.advantages[mask]
    advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    means = []
    for log_prob in (clean, robust):
        ratio = th.exp(log_prob - rollout_data.old_log_prob)[mask]
        means.append(th.min(advantages * ratio, advantages * ratio.clamp(0.8, 1.2)).mean())
    error = (values.flatten() - rollout_data.returns)[mask].square().mean()
    expected = -(means[1] + means[0]) / 2 + model.vf_coef * error
    assert means[0] != means[1]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
