"""Learned attacks: fitted, stored and found again; what a fit leaves as it was; the adversary's side of things."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from conftest import NoisyFeatures
from gymnasium import spaces
from helpers import Still, make_envs, same, weights
from learned import EPSILON, STEPS, answers, build, by_policy, clean, fit, knowledge, learned
from sb3_contrib import TRPO
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.vec_env import VecEnvWrapper, VecNormalize
from victims import victim

from sb3_barpo.adversary import KL, PGD, Adversary, L2Ball, LinfBall
from sb3_barpo.attacks import PAAD, SARL, GradientAttack, LearnedAttack, RobustSarsa, RoleReversedVecEnv, SarsaMAD
from sb3_barpo.attacks.two_rates import TwoRatesPolicy

# --- stored and found again


@learned
@pytest.mark.parametrize("ball", [LinfBall(), L2Ball([2.0, 1.0, 0.0])], ids=repr)
def test_a_stored_attack_does_the_same(kind: Any, ball: Any, tmp_path: Path) -> None:
    attack = fit(kind, ball=ball)
    attack.save(tmp_path / "new" / "attack.zip")
    for loaded in (
        kind.load(tmp_path / "new" / "attack.zip", victim()),
        LearnedAttack.load(tmp_path / "new" / "attack.zip", victim()),
    ):
        assert type(loaded) is kind
        np.testing.assert_array_equal(answers(loaded), answers(attack))
        assert (loaded.origin, loaded.epsilon, repr(loaded.ball)) == (attack.origin, EPSILON, repr(ball))
        assert same(knowledge(loaded), knowledge(attack))
        loaded.save(tmp_path / "again.zip")
        np.testing.assert_array_equal(answers(kind.load(str(tmp_path / "again.zip"), victim())), answers(attack))


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (RobustSarsa, {"n_steps": 3, "sarsa_epsilon": 0.3, "regularization": 2.0, "gamma": 0.5, "learning_rate": 0.1}),
        (SarsaMAD, {"n_steps": 3, "rho": 0.5}),
        (PAAD, {"actor_steps": 3}),
    ],
)
def test_settings_are_stored(kind: Any, settings: dict[str, Any], tmp_path: Path) -> None:
    attack = fit(kind, **settings)
    attack.save(tmp_path / "attack")
    loaded = kind.load(tmp_path / "attack", victim())
    assert {name: getattr(loaded, name) for name in settings} == settings
    np.testing.assert_array_equal(answers(loaded), answers(attack))


def test_the_origin_tells_of_the_fit() -> None:
    origin = fit(SARL).at(0.3).origin
    assert (origin.epsilon, origin.total_timesteps, origin.seed, origin.normalizer) == (EPSILON, STEPS, 0, None)
    normalized = build(SARL).fit(make_envs(normalized=True), np.int64(STEPS)).origin
    assert normalized.normalizer is not None
    assert normalized.victim == origin.victim


@learned
def test_another_strength_keeps_what_was_learned(kind: Any) -> None:
    attack = fit(kind)
    stronger = attack.at(0.2)
    assert same(knowledge(stronger), knowledge(attack))
    assert stronger.origin is attack.origin
    assert EPSILON < np.abs(answers(stronger) - clean()).max() <= 0.2 + 1e-6
    assert np.abs(answers(attack) - clean()).max() <= EPSILON + 1e-6
    np.testing.assert_array_equal(answers(attack.at(0)), clean())


def test_sarl_perturbs_in_proportion_to_its_strength() -> None:
    attack = fit(SARL)
    np.testing.assert_allclose(answers(attack.at(0.2)) - clean(), 2 * (answers(attack) - clean()), atol=1e-6)


# --- dice


@learned
def test_a_seed_tells_all(kind: Any) -> None:
    first, second, other = fit(kind), fit(kind), fit(kind, seed=1)
    assert same(knowledge(first), knowledge(second))
    np.testing.assert_array_equal(answers(first), answers(second))
    assert not same(knowledge(first), knowledge(other))


@learned
def test_without_a_seed_each_fit_is_another(kind: Any) -> None:
    assert not same(knowledge(fit(kind, seed=None)), knowledge(fit(kind, seed=None)))


# --- what a fit leaves as it was


class Broken(VecEnvWrapper):
    """Fails at the tenth step, after an episode or two."""

    steps = 0

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        self.steps += 1
        if self.steps == 10:
            raise ConnectionError("the simulator is gone")
        return self.venv.step_wait()


def state_of_everything(model: PPO, venv: VecNormalize) -> dict[str, Any]:
    return {
        "weights": weights(model),
        "training": model.policy.training,
        "switches": [venv.training, venv.norm_reward],
        "statistics": [
            np.copy(part).tolist()
            for moments in (venv.obs_rms, venv.ret_rms)
            for part in (moments.mean, moments.var, moments.count)
        ],
        "torch": th.get_rng_state(),
        "numpy": np.random.get_state()[1].tolist(),
        "python": random.getstate(),
        "gradients": [parameter.grad is None for parameter in model.policy.parameters()],
    }


def noisy_victim() -> PPO:
    """Its statistics of batch normalisation would move, were it not in evaluation mode."""
    return PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"features_extractor_class": NoisyFeatures}, device="cpu")


@learned
@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("switch", [False, True])
def test_a_fit_leaves_no_trace(kind: Any, broken: bool, switch: bool) -> None:
    model, envs = noisy_victim(), make_envs("CartPole-v1", n_envs=2)
    venv = VecNormalize(Broken(envs) if broken else envs)
    for _ in range(3):
        venv.reset()
    model.policy.set_training_mode(switch)
    venv.training = venv.norm_reward = switch
    attack = build(kind, model)
    before = state_of_everything(model, venv)
    if broken:
        with pytest.raises(ConnectionError, match="the simulator is gone"):
            attack.fit(venv, STEPS)
        assert attack.origin is None
    else:
        attack.fit(venv, STEPS)
        attack.perturb(clean(model))
    assert same(state_of_everything(model, venv), before)


@learned
def test_to_load_an_attack_leaves_no_trace(kind: Any, tmp_path: Path) -> None:
    model, venv = noisy_victim(), make_envs("CartPole-v1", normalized=True)
    assert isinstance(venv, VecNormalize)
    build(kind, model).fit(venv, STEPS).save(tmp_path / "attack")
    model.policy.set_training_mode(True)
    dropout_and_all = state_of_everything(model, venv)
    kind.load(tmp_path / "attack", model)
    assert same(state_of_everything(model, venv)["weights"], dropout_and_all["weights"])
    assert model.policy.training


@by_policy
def test_an_adversary_holds_no_environments(kind: Any) -> None:
    adversary = fit(kind).adversary_model
    assert adversary.get_env() is None
    assert adversary.get_vec_normalize_env() is None


@learned
def test_progress_shows_if_asked(kind: Any, capsys: pytest.CaptureFixture[str]) -> None:
    build(kind).fit(make_envs(), 32)
    assert not capsys.readouterr().err
    build(kind).fit(make_envs(), 32, progress_bar=True)
    shown = capsys.readouterr().err
    assert kind.name in shown
    assert "100%" in shown


# --- victims and algorithms


@learned
def test_discrete_victims(kind: Any) -> None:
    model = victim("CartPole-v1")
    attack = fit(kind, model, "CartPole-v1")
    delta = np.abs(answers(attack) - clean(model))
    assert EPSILON / 10 < delta.max() <= EPSILON + 1e-6


@pytest.mark.parametrize(
    ("space", "n_outputs"),
    [
        (spaces.MultiDiscrete([2, 3]), 5),
        (spaces.MultiBinary(2), 2),
        (spaces.Box(-1, 1, (2,)), 2),
        (spaces.Discrete(3), 3),
    ],
    ids=str,
)
def test_the_director_s_space_is_that_of_the_policy_s_output(space: spaces.Space[Any], n_outputs: int) -> None:
    model = PPO("MlpPolicy", Still(spaces.Box(-1.0, 1.0, (4,)), space), device="cpu")
    attack = build(PAAD, model)
    assert attack.adversary_space().shape == (n_outputs,)
    attack.fit(model.get_env(), 16)
    assert 0 < np.abs(answers(attack) - clean(model)).max() <= EPSILON + 1e-6


@by_policy
@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        (A2C, {"n_steps": 8, "ent_coef": 0.02}),
        (SAC, {"learning_starts": 10, "buffer_size": 50, "batch_size": 8}),
        (TRPO, {"n_steps": 16, "batch_size": 16, "n_critic_updates": 1}),
    ],
)
def test_other_algorithms_serve(kind: Any, algorithm: Any, settings: dict[str, Any], tmp_path: Path) -> None:
    attack = kind(victim(), EPSILON, algorithm, seed=0, **settings).fit(make_envs(n_envs=2), STEPS)
    assert type(attack.adversary_model) is algorithm
    assert {name: getattr(attack.adversary_model, name) for name in settings} == settings
    attack.save(tmp_path / "attack")
    np.testing.assert_array_equal(answers(kind.load(tmp_path / "attack", victim())), answers(attack))


@by_policy
def test_arguments_of_the_algorithm_are_passed_on(kind: Any, tmp_path: Path) -> None:
    arguments = {
        "learning_rate": 1e-5,
        "ent_coef": 0.1,
        "gamma": 0.5,
        "policy_kwargs": {"net_arch": [8], "value_rate": 0.5},
    }
    attack = fit(kind, policy=TwoRatesPolicy, **arguments)
    attack.save(tmp_path / "attack")
    for model in (attack.adversary_model, kind.load(tmp_path / "attack", victim()).adversary_model):
        assert (model.learning_rate, model.ent_coef, model.gamma) == (1e-5, 0.1, 0.5)
        assert type(model.policy) is TwoRatesPolicy
        assert model.policy.value_rate == 0.5
        assert [layer.out_features for layer in model.policy.mlp_extractor.policy_net[::2]] == [8]


def test_mixed_sarsa_lies_between_what_sarsa_learned_and_mad() -> None:
    sarsa = fit(RobustSarsa, n_steps=3, ball=LinfBall(0.5))
    mixed = SarsaMAD.from_sarsa(sarsa, rho=0.0)
    assert (mixed.rho, mixed.n_steps, mixed.ball, mixed.origin) == (0.0, 3, sarsa.ball, sarsa.origin)
    np.testing.assert_array_equal(answers(mixed), answers(sarsa))
    mad = GradientAttack(victim(), EPSILON, Adversary(KL(), PGD(3, 1 / 3, 1 / 3), LinfBall(0.5)), seed=5)
    np.testing.assert_array_equal(answers(SarsaMAD.from_sarsa(sarsa, rho=1.0)), mad.perturb(clean()))
    assert not np.array_equal(answers(sarsa), mad.perturb(clean()))


# --- the adversary's side


@by_policy
def test_the_adversary_s_spaces(kind: Any) -> None:
    venv = make_envs()
    reversed_roles = RoleReversedVecEnv(venv, build(kind))
    assert reversed_roles.observation_space == venv.observation_space
    space = reversed_roles.action_space
    expected = spaces.Box(-1.0, 1.0, (3,)) if kind is SARL else spaces.Box(-100.0, 100.0, (1,))
    assert space == expected


@pytest.mark.parametrize("normalized", [False, True])
def test_roles_are_reversed(normalized: bool) -> None:
    """The same environments, played by hand: the victim acts on what the adversary makes of the clean observation."""
    model, dice = victim(), np.random.default_rng(0)
    twin, venv = (make_envs(n_envs=2, normalized=normalized) for _ in range(2))
    for each in (twin, venv):
        if isinstance(each, VecNormalize):
            each.training = each.norm_reward = False
    adversary = RoleReversedVecEnv(venv, build(SARL, model, epsilon=0.5))
    low, high = twin.observation_space.low, twin.observation_space.high
    if isinstance(twin, VecNormalize):
        low, high = twin.normalize_obs(low), twin.normalize_obs(high)
    seen = twin.reset()
    np.testing.assert_array_equal(adversary.reset(), seen)
    for _ in range(40):
        actions = dice.uniform(-1, 1, (2, 3)).astype(np.float32)
        perturbed = np.clip(seen + np.float32(0.5) * actions, low, high)
        seen, rewards, dones, infos = twin.step(model.predict(perturbed, deterministic=True)[0])
        by_adversary, losses, ends, reports = adversary.step(actions)
        np.testing.assert_array_equal(by_adversary, seen)
        np.testing.assert_array_equal(losses, -rewards)
        np.testing.assert_array_equal(ends, dones)
        assert [report.get("episode", {}).get("r") for report in reports] == [
            info.get("episode", {}).get("r") for info in infos
        ]
    assert dones.all()
    assert all(info["episode"]["r"] < 0 for info in infos)  # Pendulum's rewards are negative: these are the victim's


def test_the_direction_alone_tells_the_actor_what_to_do() -> None:
    observations = th.as_tensor(clean())
    attack = build(PAAD)
    attack.seed(0)
    near = attack.respond(observations, th.full((16, 1), 0.1), attack.victim())
    attack.seed(0)
    assert th.equal(attack.respond(observations, th.full((16, 1), 70.0), attack.victim()), near)
    attack.seed(0)
    opposite = attack.respond(observations, th.full((16, 1), -0.1), attack.victim())
    means = [victim().policy.get_distribution(z).distribution.mean.clone() for z in (opposite, observations, near)]
    assert (means[0] < means[1]).all()
    assert (means[1] < means[2]).all()
