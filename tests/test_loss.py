"""The loss, against the formulas written out by hand, and its limits in the strength and in the guidance."""

import math
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch as th
from helpers import TINY, Call, LogBook, learn, make_envs, same, spy, weights
from stable_baselines3 import PPO
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_barpo import ARPO, BARPO
from sb3_barpo.adversary import KL, SGLD, Adversary, L2Ball, LinfBall, Objective, Perturbation, Surrogate

N_STEPS = 64
CLIP = 0.06
#: One update is one step of gradient descent of length 1 on one minibatch: the weights move by minus the gradient.
ONE_STEP: dict[str, Any] = {
    "n_steps": N_STEPS,
    "batch_size": N_STEPS,
    "n_epochs": 1,
    "learning_rate": 1.0,
    "max_grad_norm": 1e9,
    "clip_range": CLIP,
    "policy_kwargs": {"optimizer_class": th.optim.SGD, "net_arch": [16]},
    "device": "cpu",
    "seed": 5,
}
BOTH = pytest.mark.parametrize("algorithm", [ARPO, BARPO])
SPACES = pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])


class Step(NamedTuple):
    """One update, seen from all sides."""

    model: PPO
    before: dict[str, th.Tensor]
    after: dict[str, th.Tensor]
    batch: RolloutBufferSamples
    calls: list[Call]
    book: LogBook

    def gradient(self) -> dict[str, th.Tensor]:
        return {name: self.before[name] - self.after[name] for name in self.before}


def one_step(
    algorithm: type[PPO], env_id: str, drift: float = 0.15, answer: list[list[float]] | None = None, **own: Any
) -> Step:
    """
    Collect a rollout, let the policy drift away from the one that collected it, and update.

    :param answer: Perturbed observations, instead of those that the adversary would find.
    """
    model = algorithm("MlpPolicy", make_envs(env_id), **{**ONE_STEP, **own})
    if answer is not None:
        moved = th.tensor(answer)
        model._adversary.search = lambda _, observations, *rest: Perturbation(moved, moved - observations)
    batches, calls = listen_to_buffer(model), spy(model) if hasattr(model, "_adversary") else []
    train, seen = model.train, []

    def drift_and_train() -> None:
        noise = th.Generator().manual_seed(0)
        with th.no_grad():
            for parameter in model.policy.parameters():
                parameter += drift * th.randn(parameter.shape, generator=noise)
        seen.append(weights(model))
        train()
        seen.append(weights(model))

    model.train = drift_and_train
    book = learn(model, N_STEPS)
    (before, after), (batch,) = seen, batches
    return Step(model, before, after, batch, calls, book)


def listen_to_buffer(model: PPO) -> list[RolloutBufferSamples]:
    batches: list[RolloutBufferSamples] = []
    get = model.rollout_buffer.get

    def listen(batch_size: int) -> Any:
        for batch in get(batch_size):
            batches.append(batch)
            yield batch

    model.rollout_buffer.get = listen
    return batches


def log_prob_and_entropy(policy: Any, observations: th.Tensor, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    output = policy.action_net(policy.mlp_extractor.policy_net(observations))
    if not hasattr(policy, "log_std"):  # categorical
        log_p = output - output.exp().sum(1, keepdim=True).log()
        return log_p[th.arange(len(actions)), actions.flatten().long()], -(log_p.exp() * log_p).sum(1)
    sigma = policy.log_std.exp()
    log_prob = (-0.5 * ((actions - output) / sigma) ** 2 - policy.log_std - 0.5 * math.log(2 * math.pi)).sum(1)
    return log_prob, (policy.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum().expand(len(actions))


def surrogate(policy: Any, observations: th.Tensor, batch: RolloutBufferSamples) -> th.Tensor:
    """``mean min(r A, clip(r, 1 - c, 1 + c) A)``; where it is clipped, the sign of A tells which of the two it is."""
    advantages = (batch.advantages - batch.advantages.mean()) / (batch.advantages.std() + 1e-8)
    ratio = (log_prob_and_entropy(policy, observations, batch.actions)[0] - batch.old_log_prob).exp()
    capped = th.where(advantages > 0, ratio.clamp(max=1 + CLIP), ratio.clamp(min=1 - CLIP))
    return (capped * advantages).mean()


def loss_by_hand(step: Step, perturbed: th.Tensor, kappa: float) -> th.Tensor:
    model, policy, batch = step.model, step.model.policy, step.batch
    robust, clean = (surrogate(policy, seen, batch) for seen in (perturbed, batch.observations))
    _, entropy = log_prob_and_entropy(policy, batch.observations, batch.actions)
    values = policy.value_net(policy.mlp_extractor.value_net(batch.observations)).flatten()
    if model.clip_range_vf is not None:
        reach = model.clip_range_vf(1.0)
        values = th.min(th.max(values, batch.old_values - reach), batch.old_values + reach)
    value_loss = ((values - batch.returns) ** 2).mean()
    guided = (robust + kappa * clean) / (1 + kappa)
    return -guided + model.vf_coef * value_loss - model.ent_coef * entropy.mean()


def by_hand(step: Step, perturbed: th.Tensor, kappa: float) -> tuple[float, dict[str, th.Tensor]]:
    """The loss and its gradient, at the weights before the update."""
    step.model.policy.load_state_dict(step.before)
    names, parameters = zip(*step.model.policy.named_parameters(), strict=True)
    loss = loss_by_hand(step, perturbed, kappa)
    gradients = th.autograd.grad(loss, parameters, allow_unused=True)
    return loss.item(), {
        n: th.zeros_like(p) if g is None else g for n, p, g in zip(names, parameters, gradients, strict=True)
    }


def distance(left: dict[str, th.Tensor], right: dict[str, th.Tensor]) -> float:
    return max((left[name] - right[name]).abs().max().item() for name in left)


@BOTH
@SPACES
@pytest.mark.parametrize("kappa", [0, 1, 3.5])
@pytest.mark.parametrize(
    "others", [{"vf_coef": 1e-3}, {"vf_coef": 0.02, "ent_coef": 0.1, "clip_range_vf": 0.1}], ids=["plain", "full"]
)
def test_loss_and_gradient(algorithm: type[PPO], env_id: str, kappa: float, others: dict[str, float]) -> None:
    step = one_step(algorithm, env_id, epsilon=0.1, kappa=kappa, **others)
    (call,) = step.calls
    loss, gradient = by_hand(step, call.perturbed, kappa)
    assert step.book.column("train/loss") == [pytest.approx(loss, rel=1e-6, abs=1e-6)]
    assert distance(step.gradient(), gradient) < 2e-6
    # The test can tell: with clean observations alone, both would be otherwise.
    other_loss, other_gradient = by_hand(step, call.observations, kappa)
    assert abs(other_loss - loss) > 1e-4
    assert distance(gradient, other_gradient) > 1e-4


@SPACES
def test_some_ratios_are_clipped(env_id: str) -> None:
    """Otherwise the comparison above would say nothing about the clip."""
    step = one_step(BARPO, env_id, epsilon=0.1)
    assert 0.02 < step.book.column("train/clip_fraction")[0] < 0.95


@SPACES
def test_arpo_gains_what_the_surrogate_loses(env_id: str) -> None:
    log = one_step(ARPO, env_id, epsilon=0.1).book.dumps[-1]
    lost = log["adversary/clean_surrogate"] - log["adversary/robust_surrogate"]
    assert log["adversary/gain"] == pytest.approx(lost, abs=1e-6)
    assert lost > 1e-3


def test_barpo_gains_the_kl_of_two_gaussians() -> None:
    step = one_step(BARPO, "Pendulum-v1", epsilon=0.1)
    step.model.policy.load_state_dict(step.before)
    policy, (call,) = step.model.policy, step.calls
    mu, mu_perturbed = (
        policy.action_net(policy.mlp_extractor.policy_net(seen)) for seen in (call.observations, call.perturbed)
    )
    kl = (0.5 * ((mu_perturbed - mu) / policy.log_std.exp()) ** 2).sum(1).mean().item()
    log = step.book.dumps[-1]
    assert kl > 1e-4
    assert log["adversary/kl"] == pytest.approx(kl, rel=1e-4)
    assert log["adversary/gain"] == log["adversary/kl"]


@BOTH
@SPACES
def test_strong_guidance_is_ppo(algorithm: type[PPO], env_id: str) -> None:
    ppo = one_step(PPO, env_id).after
    distances = [distance(one_step(algorithm, env_id, epsilon=0.1, kappa=k).after, ppo) for k in (0, 9, 1e7)]
    assert distances[0] > 1e-3
    assert distances[1] == pytest.approx(distances[0] / 10, rel=1e-2)  # both policy losses are linear in the update
    assert distances[2] < 1e-6


@BOTH
@SPACES
def test_small_strength_runs_into_ppo(algorithm: type[PPO], env_id: str) -> None:
    """The difference shrinks in proportion. Without drift no ratio stands at the kink of the clip."""
    ppo = one_step(PPO, env_id, drift=0).after
    wide, small = (
        distance(one_step(algorithm, env_id, drift=0, epsilon=epsilon).after, ppo) for epsilon in (1e-2, 1e-3)
    )
    assert wide > 1e-5
    assert small == pytest.approx(wide / 10, rel=0.2)


@BOTH
@SPACES
def test_the_critic_learns_as_in_ppo(algorithm: type[PPO], env_id: str) -> None:
    """The value loss sees clean observations: a critic with its own network moves as PPO's, bit for bit."""
    ppo, robust = one_step(PPO, env_id), one_step(algorithm, env_id, epsilon=0.3)
    critic = [name for name in ppo.after if "value" in name]
    assert len(critic) == 4
    assert same({name: robust.after[name] for name in critic}, {name: ppo.after[name] for name in critic})
    assert not same(robust.after, ppo.after)
    for key in ("train/value_loss", "train/entropy_loss", "train/approx_kl", "train/clip_fraction"):
        assert robust.book.column(key) == pytest.approx(ppo.book.column(key), rel=1e-5)


@BOTH
def test_the_perturbed_observation_is_a_constant(algorithm: type[PPO]) -> None:
    """Handing in the same ``s'`` as plain numbers changes nothing."""
    first = one_step(algorithm, "Pendulum-v1", epsilon=0.1)
    assert not first.calls[0].perturbed.requires_grad
    again = one_step(algorithm, "Pendulum-v1", answer=first.calls[0].perturbed.tolist(), epsilon=0.1)
    assert same(again.after, first.after)


BALLS = {
    "linf": (LinfBall(), lambda delta: delta.abs().amax(1)),
    "one feature": (LinfBall(scale=[0, 1, 0]), lambda delta: (delta.abs() * th.tensor([1e9, 1, 1e9])).amax(1)),
    "l2": (L2Ball(), lambda delta: delta.norm(dim=1)),
}


def pendulum_limits(envs: VecEnv) -> tuple[th.Tensor, th.Tensor]:
    """The ends of Pendulum's space as the policy sees them."""
    ends = np.array([[-1, -1, -8], [1, 1, 8]])
    if isinstance(envs, VecNormalize):
        ends = ((ends - envs.obs_rms.mean) / np.sqrt(envs.obs_rms.var + 1e-8)).clip(-10, 10)
    low, high = th.as_tensor(ends, dtype=th.float32)
    return low, high


@BOTH
@pytest.mark.parametrize("ball", BALLS)
@pytest.mark.parametrize("normalized", [False, True])
def test_the_minibatch_stays_in_the_ball_and_in_the_space(algorithm: type[PPO], ball: str, normalized: bool) -> None:
    objective: Objective = Surrogate() if algorithm is ARPO else KL()
    shape, norm = BALLS[ball]
    envs, bold = make_envs(normalized=normalized), {"policy_kwargs": {"ortho_init": False}}
    model = algorithm("MlpPolicy", envs, epsilon=0.4, adversary=Adversary(objective, SGLD(), shape), **TINY, **bold)
    calls = spy(model)
    model.learn(32)
    low, high = pendulum_limits(envs)
    clean, perturbed = (th.cat([getattr(call, side) for call in calls]) for side in ("observations", "perturbed"))
    used = norm(perturbed - clean)
    assert len(calls) == 4
    assert used.max() <= 0.4 * (1 + 1e-4)
    assert used.max() > 0.99 * 0.4
    # An observation from before the running statistics moved may lie outside already, but is never moved further out.
    assert (perturbed >= th.minimum(low, clean) - 1e-6).all()
    assert (perturbed <= th.maximum(high, clean) + 1e-6).all()
    assert (perturbed == low).any() or (perturbed == high).any()  # the limits were felt
