"""An update by hand ends where the general one ends, for what it recognises exactly, and leaves all else alone."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch as th
from helpers import TINY, General, LogBook, learn, make_envs, same, weights
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_barpo import ARPO, BARPO
from sb3_barpo.adversary import (
    KL,
    PGD,
    SGLD,
    Adversary,
    L2Ball,
    LinfBall,
    Objective,
    Samples,
    Surrogate,
    Value,
    WarmStart,
    adversary,
)
from sb3_barpo.adversary.objectives import clipped_surrogate
from sb3_barpo.attacks.quick_ppo import QuickPPO
from sb3_barpo.losses import Defence, OuterLoss, Rows, Terms
from sb3_barpo.policies import by_hand, flat
from sb3_barpo.policies.flat import FlatPolicy

STEPS = 80
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "clip_range_vf": {"clip_range_vf": 0.05},
    "raw_advantage": {"normalize_advantage": False},
    "entropy": {"ent_coef": 0.02, "vf_coef": 0.7, "max_grad_norm": 0.1},
    "target_kl": {"target_kl": 0.01},
    "relu": {"policy_kwargs": {"activation_fn": nn.ReLU}},
    "wide": {"policy_kwargs": {"net_arch": {"pi": [32], "vf": [24, 16]}}},
    "linear": {"policy_kwargs": {"net_arch": []}},
    "short": {"batch_size": 32},  # a last minibatch of 16
    "kappa": {"kappa": 0.3},
    "pgd": {"adversary": Adversary(KL(), PGD(3))},
    "restarts": {"adversary": Adversary(Surrogate(), PGD(2, restarts=2))},
    "value": {"adversary": Adversary(Value(), SGLD(3))},
    "l2": {"adversary": Adversary(KL(), SGLD(3), L2Ball())},
    "scaled": {"adversary": Adversary(KL(), SGLD(3), LinfBall([1.0, 0.5, 0.0, 2.0][:3]))},
}


def updated(algorithm: type[PPO], env_id: str, policy: Any, **kwargs: Any) -> tuple[PPO, LogBook]:
    """One update of four epochs on a rollout."""
    settings = {**TINY, "n_steps": STEPS, "batch_size": 16, "n_epochs": 4, "learning_rate": 3e-3, **kwargs}
    model = algorithm(policy, make_envs(env_id), **settings)
    return model, learn(model, STEPS)


def came_by_hand(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    runs: list[int] = []
    run = by_hand.UpdateByHand.run
    monkeypatch.setattr(by_hand.UpdateByHand, "run", lambda self: (runs.append(1), run(self))[1])
    return runs


def assert_same_update(algorithm: type[PPO], env_id: str, monkeypatch: pytest.MonkeyPatch, **kwargs: Any) -> None:
    runs = came_by_hand(monkeypatch)
    ours, book = updated(algorithm, env_id, "MlpPolicy", **kwargs)
    assert runs == [1]
    general, general_book = updated(algorithm, env_id, General, **kwargs)
    assert runs == [1]
    fresh = weights(algorithm("MlpPolicy", make_envs(env_id), **{**TINY, **_of_constructor(kwargs)}))
    theirs = weights(general)
    moved = max((theirs[name] - fresh[name]).abs().max() for name in theirs)
    apart = max((theirs[name] - value).abs().max() for name, value in weights(ours).items())
    assert moved > 5e-3
    assert apart < 1e-4 * moved
    assert ours._n_updates == general._n_updates
    logged, expected = book.dumps[-1], general_book.dumps[-1]
    assert logged.keys() == expected.keys()
    for name in expected.keys() - {"time/fps", "time/time_elapsed"}:
        assert logged[name] == pytest.approx(expected[name], rel=2e-3, abs=2e-6), name


def _of_constructor(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name in ("policy_kwargs", "device")}


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("algorithm", [ARPO, BARPO])
@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
def test_an_update_ends_where_the_general_one_ends(
    algorithm: type[PPO], setting: str, env_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if setting == "scaled" and env_id == "CartPole-v1":
        pytest.skip("the scale has three features")
    assert_same_update(algorithm, env_id, monkeypatch, epsilon=0.05, **SETTINGS[setting])


@pytest.mark.parametrize("setting", ["default", "clip_range_vf", "pgd", "l2", "value"])
@pytest.mark.parametrize("algorithm", [ARPO, BARPO])
def test_large_minibatches_go_by_blocks(algorithm: type[PPO], setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (flat, by_hand, adversary):
        monkeypatch.setattr(module, "BLOCK", 7)
    assert_same_update(algorithm, "Pendulum-v1", monkeypatch, epsilon=0.05, **SETTINGS[setting])


@dataclass(frozen=True)
class Everything(OuterLoss):
    """A loss that looks at all rows and divergences, and does not write its slopes out."""

    def __call__(self, rows: Rows, samples: Samples) -> Terms:
        clean, robust = clipped_surrogate(rows.log_prob, samples)
        kl = rows.kl()
        return Terms(samples.mean(kl.square() + 0.3 * kl - clean * robust - clean), {"kl_seen": kl.mean().detach()})


class Curious(BARPO):
    defence = Defence(KL(), Everything())


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
def test_a_loss_of_ones_own_is_differentiated_by_rows(env_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same_update(Curious, env_id, monkeypatch, epsilon=0.3)


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
@pytest.mark.parametrize("setting", ["default", "clip_range_vf", "entropy", "raw_advantage", "relu", "short"])
@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
def test_plain_ppo_by_hand(setting: str, env_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = came_by_hand(monkeypatch)
    (ours, book), (ppo, ppo_book) = (
        updated(kind, env_id, "MlpPolicy", **SETTINGS[setting]) for kind in (QuickPPO, PPO)
    )
    assert runs == [1]
    theirs = weights(ppo)
    assert max((theirs[name] - value).abs().max() for name, value in weights(ours).items()) < 2e-6
    assert book.dumps[0]["rollout/ep_rew_mean"] == ppo_book.dumps[0]["rollout/ep_rew_mean"]
    for name in ("train/loss", "train/value_loss", "train/approx_kl", "train/entropy_loss", "train/clip_fraction"):
        assert book.column(name) == pytest.approx(ppo_book.column(name), rel=2e-3, abs=2e-6)
    state, expected = ours.policy.optimizer.state_dict(), ppo.policy.optimizer.state_dict()
    assert state["param_groups"] == expected["param_groups"]
    for i, theirs in expected["state"].items():
        assert state["state"][i]["step"] == theirs["step"]
        th.testing.assert_close(state["state"][i]["exp_avg"], theirs["exp_avg"], rtol=1e-3, atol=1e-6)


class Overrides(ActorCriticPolicy):
    def evaluate_actions(self, obs: Any, actions: th.Tensor) -> Any:
        return super().evaluate_actions(obs, actions)


class OwnBuffer(RolloutBuffer):
    """Reads its values in ``get``: nothing else may stand in their place."""

    def get(self, batch_size: int | None = None) -> Any:
        assert np.abs(self.values).max() < 5
        yield from super().get(batch_size)


def by_instance(model: PPO) -> None:
    model.policy.evaluate_actions = model.policy.evaluate_actions


def without_bias(model: PPO) -> None:
    model.policy.action_net.bias = None
    model.policy.optimizer = th.optim.Adam(model.policy.parameters(), lr=1e-3, eps=1e-5)


def with_a_hook(model: PPO) -> None:
    model.policy.mlp_extractor.policy_net[0].register_forward_hook(lambda *_: None)


def on_a_parameter(model: PPO) -> None:
    model.policy.value_net.weight.register_hook(lambda gradient: 0 * gradient)


def frozen(model: PPO) -> None:
    model.policy.value_net.weight.requires_grad_(False)


def by_sgd(model: PPO) -> None:
    model.policy.optimizer = th.optim.SGD(model.policy.parameters(), lr=1e-3)


def by_amsgrad(model: PPO) -> None:
    model.policy.optimizer = th.optim.Adam(model.policy.parameters(), lr=1e-3, amsgrad=True)


def by_decoupled_decay(model: PPO) -> None:
    model.policy.optimizer.param_groups[0]["decoupled_weight_decay"] = True


def by_tensor_rate(model: PPO) -> None:
    model.policy.optimizer = th.optim.Adam(model.policy.parameters(), lr=th.tensor(1e-3))
    model._update_learning_rate = lambda optimizer: None


def by_groups(model: PPO) -> None:
    first, *rest = model.policy.parameters()
    model.policy.optimizer = th.optim.Adam([{"params": [first], "lr": 0.1}, {"params": rest}], lr=1e-3)


def of_ones_own(model: PPO) -> None:
    model.policy.mlp_extractor.policy_net[0] = nn.Sequential(model.policy.mlp_extractor.policy_net[0])


CHANGES = [
    by_instance,
    without_bias,
    with_a_hook,
    on_a_parameter,
    frozen,
    by_sgd,
    by_amsgrad,
    by_decoupled_decay,
    by_tensor_rate,
    by_groups,
    of_ones_own,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_is_not_recognised_takes_the_general_path(change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = came_by_hand(monkeypatch)
    model = BARPO("MlpPolicy", make_envs(), epsilon=0.1, **TINY)
    kept = model.policy.value_net.weight.detach().clone()
    change(model)
    learn(model, 32)
    assert runs == []
    if change in (on_a_parameter, frozen):
        assert th.equal(model.policy.value_net.weight, kept)
    else:
        assert not th.equal(model.policy.value_net.weight, kept)


@pytest.mark.parametrize("kwargs", [{"policy": Overrides}, {"rollout_buffer_class": OwnBuffer}], ids=str)
def test_classes_of_ones_own_take_the_general_path(kwargs: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    runs = came_by_hand(monkeypatch)
    model = BARPO(**{"policy": "MlpPolicy", "env": make_envs(), "epsilon": 0.1, **TINY, **kwargs})
    learn(model, 32)
    assert runs == []


class OwnObjective(Objective):
    """Without a closed form: only autograd knows its gradient."""

    def prepare(self, policy: Any, observations: th.Tensor, samples: Any = None) -> Any:
        return lambda perturbed: -policy.predict_values(perturbed).flatten()


class OwnSolver(SGLD):
    """Asks autograd for the gradient of whatever goal it gets."""

    def solve(self, goal: Any, observations: Any, ball: Any, epsilon: Any, generator: Any, start: Any = None) -> Any:
        leaf = (observations + 0.01).requires_grad_()
        return ball.project(epsilon * th.autograd.grad(goal(leaf).sum(), leaf)[0].sign(), epsilon)


@pytest.mark.parametrize(
    "adversary", [Adversary(OwnObjective(), WarmStart()), Adversary(KL(), OwnSolver()), Adversary(Value(), OwnSolver())]
)
def test_adversaries_of_ones_own_take_the_general_path(adversary: Adversary, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = came_by_hand(monkeypatch)
    model = BARPO("MlpPolicy", make_envs(), epsilon=0.1, adversary=adversary, **TINY)
    assert learn(model, 32).column("adversary/gain")[0] > 0
    assert runs == []


def test_other_loops_take_the_general_path(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(BARPO):
        def _loss(self, *args: Any, **kwargs: Any) -> th.Tensor:
            return 0 * super()._loss(*args, **kwargs)

    runs = came_by_hand(monkeypatch)
    model = Own("MlpPolicy", make_envs(), epsilon=0.1, **TINY)
    before = weights(model)
    learn(model, 32)
    assert runs == []
    assert same(before, weights(model))


def test_the_policy_keeps_its_own_tensors() -> None:
    model = BARPO("MlpPolicy", make_envs(), epsilon=0.1, adversary=Adversary(KL(), WarmStart()), **TINY)
    before = [(parameter, parameter.data_ptr()) for parameter in model.policy.parameters()]
    learn(model, 64)
    after = list(model.policy.parameters())
    assert all(new is old and new.data_ptr() == place for (old, place), new in zip(before, after, strict=True))
    assert all(parameter.untyped_storage().nbytes() == 4 * parameter.numel() for parameter in after)


def test_a_policy_that_is_not_recognised_cannot_be_flat() -> None:
    model = BARPO(General, make_envs(), **TINY)
    with pytest.raises(TypeError, match="A flat policy needs SB3's own MLP, not General"):
        FlatPolicy(model.policy, rows=4)
