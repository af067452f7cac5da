"""Adversaries that begin with what another attack does."""

from typing import Any

import numpy as np
import pytest
import torch as th
from helpers import make_envs, same, weights
from learned import build, by_policy, fit, knowledge
from linear_system import controller, damage, systems
from stable_baselines3 import SAC
from victims import victim

from sb3_barpo.adversary import KL, PGD, Adversary, L2Ball, LinfBall
from sb3_barpo.attacks import MAD, PAAD, SARL

EPSILON = 0.1


@pytest.mark.parametrize("ball", [LinfBall([1.0, 2.0, 0.0]), L2Ball()], ids=repr)
def test_sarl_would_choose_what_another_attack_did(ball: Any) -> None:
    attack = SARL(victim(), EPSILON, ball=ball)
    clean = th.randn(6, 3, generator=th.Generator().manual_seed(0))
    adversary = Adversary(KL(), PGD(), ball)
    adversary.seed(0)
    perturbed = adversary.perturb(victim().policy, clean, EPSILON)
    chosen = attack.action_for(clean, perturbed, victim().policy)
    assert chosen.abs().max() <= 1 + 1e-5
    th.testing.assert_close(attack.respond(clean, chosen, victim().policy), perturbed)


def test_paad_would_choose_the_direction_in_which_the_action_went() -> None:
    attack = PAAD(controller(), EPSILON)
    clean, shift = th.randn(5, 2), th.randn(5, 2)
    chosen = attack.action_for(clean, clean + shift, attack.model.policy)
    gain = th.tensor([-0.5, -0.8])  # of the victim
    th.testing.assert_close(chosen, th.nn.functional.normalize(gain * shift, dim=1))


@by_policy
def test_the_imitator_does_nearly_the_same_damage(kind: Any) -> None:
    """On the linear system, whose worst case is known."""
    model, venv = controller(), systems()
    attack = kind(model, 0.2, seed=0, n_steps=64, batch_size=64).imitate(Outwards(model, 0.2), venv, 2048)
    taken = damage(model, fitted(attack)).mean()
    assert taken == pytest.approx(damage(model, Outwards(model, 0.2)).mean(), abs=0.1)
    assert attack.origin is None


class Outwards(MAD):
    """The worst there is: shows every coordinate too small, so that the victim pushes back too little."""

    def _perturb(self, observations: Any, policy: Any) -> Any:
        return observations - self.epsilon * observations.sign()


def fitted(attack: Any) -> Any:
    """Declared ready as it is."""
    attack.check_fitted = lambda: None
    return attack


@by_policy
def test_an_imitator_leaves_no_trace_and_learns_on(kind: Any) -> None:
    venv, model = make_envs(n_envs=2), victim()
    before = weights(model)
    dice = th.get_rng_state()
    attack = build(kind).imitate(MAD(model, EPSILON, seed=0), venv, 64)
    assert same(weights(model), before)
    assert th.equal(th.get_rng_state(), dice)
    cloned = knowledge(attack)
    attack.fit(venv, 64)
    assert not same(knowledge(attack), cloned)
    assert attack.origin.total_timesteps == 64
    again = build(kind).imitate(MAD(model, EPSILON, seed=1), make_envs(n_envs=2), 64)
    assert same(knowledge(again), cloned)


@by_policy
def test_values_are_learned_too(kind: Any) -> None:
    """In units of the rewards that the adversary will get, so that the first update has a critic."""
    venv = systems()
    model = controller()
    attack = kind(model, 0.2, seed=0, n_steps=64, batch_size=64).imitate(Outwards(model, 0.2), venv, 8192)
    assert float(attack._rewards.count) > 8000
    policy = attack.adversary_model.policy
    with th.no_grad():
        small, large = (policy.predict_values(th.full((1, 2), size)).item() for size in (0.1, 1.0))
    assert large > small + 0.5  # the victim loses more where the state is large


def test_only_a_fresh_attack_imitates() -> None:
    with pytest.raises(ValueError, match="SARL has learned before, so it cannot begin by imitating"):
        fit(SARL).imitate(MAD(victim(), EPSILON), make_envs(n_envs=2))


def test_only_actors_with_a_critic_imitate() -> None:
    attack = SARL(victim(), EPSILON, algorithm=SAC, buffer_size=10)
    with pytest.raises(TypeError, match=r"Only adversaries of SB3's on-policy algorithms can imitate.*SAC"):
        attack.imitate(MAD(victim(), EPSILON), make_envs(n_envs=2))


def test_nothing_moves_where_the_scale_is_0() -> None:
    moves = LinfBall([2.0, 0.0]).moves(th.tensor([[0.1, 0.0]]), 0.1)
    np.testing.assert_allclose(moves, [[0.5, 0.0]])
