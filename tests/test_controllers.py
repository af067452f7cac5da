"""Controllers: sequences by hand, the dual's known answer, and their life within a model."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from helpers import TINY, assert_same_training, learn, make_envs, same, spy, weights
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from sb3_barpo import ARPO, ATLA, BARPO, RADIALPPO, RecurrentBARPO
from sb3_barpo.controllers import Competence, Controller, DualKappa, DualKappaByKL, HoldKL
from sb3_barpo.evaluation.within import own_epsilon
from sb3_barpo.schedules import as_schedule

ALL = [Competence(-1500, 4000, 0.15), HoldKL(0.02, 0.1), DualKappa(0.05), DualKappaByKL(0.1, 2.0, 0.1, 4.0)]


def run(controller: Controller, *measured: float) -> list[float]:
    """The strengths after what was measured, one after the other, the first before."""
    state = controller.begin()
    strengths = [float(controller.strength(state))]
    for one in measured:
        state = controller.step(state, one)
        strengths.append(float(controller.strength(state)))
    return strengths


# Sequences by hand


def test_competence_follows_the_return_within_its_ends() -> None:
    strengths = run(Competence(-100, 300, 0.2), -500, -100, 0, 200, 300, 1000, 100)
    assert strengths == pytest.approx([0, 0, 0, 0.05, 0.15, 0.2, 0.2, 0.1])


def test_hold_kl_grows_shrinks_and_rests() -> None:
    controller = HoldKL(0.1, 2.0, rate=np.log(2).item(), start=0.25)
    # far below: doubled; again, to the top; far above: halved; at the target: at rest; a factor of e² above: halved
    strengths = run(controller, 0.0, 1e-9, 1e-9, 10.0, 0.1, 0.1 * np.e**2)
    assert strengths == pytest.approx([0.5, 1, 2, 2, 1, 1, 0.5])
    # half a factor of e below: by half of the rate
    assert run(controller, 0.1 / np.e**0.5)[1] == pytest.approx(0.5 * 2**0.5)
    assert run(controller, *[99.0] * 50)[-1] == pytest.approx(2.0 * HoldKL.lowest)


def test_dual_kappa_goes_along_the_constraint() -> None:
    controller = DualKappa(0.1, initial=1.0, rate=0.1, highest=4.0)
    # λ = 1/2; gap 0 and below: -1/10 each, to the end at 1/5; at the bound: at rest; 1.5 times it: +1/20; above: +1/10
    strengths = run(controller, 0.0, -3.0, 0.0, 0.0, 0.1, 0.15, 9.0)
    multipliers = np.array([0.5, 0.4, 0.3, 0.2, 0.2, 0.2, 0.25, 0.35])
    assert strengths == pytest.approx((1 - multipliers) / multipliers)
    assert run(controller, *[9.0] * 9)[-1] == 0.0


@pytest.mark.parametrize("controller", ALL, ids=str)
def test_many_at_once_are_each_as_alone(controller: Controller) -> None:
    states = np.array([0.1, 0.5, 1.0])
    measured = np.array([0.0, 0.07, 2000.0])
    together = controller.strength(controller.step(states, measured))
    alone = [controller.strength(controller.step(*each)) for each in zip(states, measured, strict=True)]
    assert together == pytest.approx(np.array(alone))


@pytest.mark.parametrize(("bound", "multiplier"), [(1.4, 0.3), (1.0, 0.5), (0.5, 0.75)])
def test_the_multiplier_settles_where_the_bound_is_met(bound: float, multiplier: float) -> None:
    """
    C(x) = 1 - (x - 1)² and R(x) = -x²: what maximises (1 - λ) C + λ R is x = 1 - λ, and the gap there is
    C - R = 2 x = 2 (1 - λ). So the bound is met at λ = 1 - bound / 2.
    """
    controller = DualKappa(bound, rate=0.05)
    state = controller.begin()
    for _ in range(200):
        kappa = controller.strength(state)
        best = kappa / (1 + kappa)  # of (R + κ C) / (1 + κ)
        clean, robust = 1 - (best - 1) ** 2, -(best**2)
        state = controller.step(state, clean - robust)
    assert state == pytest.approx(multiplier, abs=1e-6)
    assert clean - robust == pytest.approx(bound, abs=1e-6)


@pytest.mark.parametrize(("bound", "kappa"), [(1e-3, 0.1), (100.0, 10.0)])
def test_a_bound_that_cannot_bind_leaves_the_multiplier_at_an_end(bound: float, kappa: float) -> None:
    strengths = run(DualKappa(bound, highest=10.0), *[1.0] * 100)
    assert strengths[-1] == pytest.approx(0.0 if bound < 1 else kappa)


# As schedules


@pytest.mark.parametrize("controller", ALL, ids=str)
def test_strings_and_specs_come_back(controller: Controller) -> None:
    assert as_schedule(str(controller)) == controller
    assert as_schedule(controller.to_spec()) == controller


def test_strings_known_answers() -> None:
    assert as_schedule("competence_-1500_4000_0.15") == ALL[0]
    assert as_schedule("holdkl_0.02_0.1") == ALL[1]
    assert as_schedule("dualkappa_0.05") == ALL[2]


def test_what_shall_be_withstood_is_the_full_strength() -> None:
    for controller in ALL[:2]:
        model = BARPO("MlpPolicy", make_envs(), epsilon=controller, margin=2.0, **TINY)
        assert own_epsilon(model) == controller.value  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Competence(1, 1, 0.1), r"low and high is \(1, 1\), but they are finite returns, the lower first"),
        (lambda: Competence(0, float("inf"), 0.1), "finite returns, the lower first"),
        (lambda: Competence(0, 1, -0.1), "Competence's value is -0.1, but a strength is a finite number"),
        (lambda: HoldKL(0.0, 0.1), "HoldKL's target is 0.0, but it must be a finite number above 0"),
        (lambda: HoldKL(0.1, 0.1, rate=-1.0), "HoldKL's rate is"),
        (lambda: HoldKL(0.1, 0.1, start=1.5), "HoldKL's start is 1.5, but it is a share of the highest strength"),
        (lambda: HoldKL(0.1, -1), "HoldKL's value is -1, but a strength is"),
        (lambda: DualKappa(-0.1), "DualKappa's bound is -0.1, but it must be a finite number above 0"),
        (lambda: DualKappaByKL(0.1, highest=float("nan")), "DualKappaByKL's highest is nan"),
        (lambda: DualKappa(0.1, initial=11.0), "DualKappa's initial is 11.0, but it must be at most highest"),
        (lambda: DualKappa(0.1, initial=-1.0), "DualKappa's initial is -1.0, but a strength is"),
        (lambda: as_schedule("competence_0_1"), "does not fit: write 'competence_low_high_value'"),
        (lambda: as_schedule("competence_0_1_0.1 > 0.5 > constant_1"), "joins the other schedules"),
    ],
)
def test_wrong_settings(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


# Within a model


def make(algorithm: type[PPO] = BARPO, **own: Any) -> Any:
    return algorithm("MlpPolicy", make_envs(), **TINY, **own)


def test_competence_listens_to_monitor() -> None:
    """Pendulum's returns over 20 steps lie far above -1000: from the first update on the strength is full."""
    model = make(epsilon=Competence(-2000, -1000, 0.1), margin=2.0)
    calls = spy(model)
    book = learn(model, 3 * 32)
    assert book.column("adversary/epsilon") == pytest.approx([0, 0.2, 0.2])
    assert book.column("adversary/epsilon_share") == [0, 1, 1]
    assert book.column("adversary/target_epsilon") == [0.1] * 3
    assert {call.epsilon for call in calls} == {0.2}


def test_competence_between_its_ends() -> None:
    model = make(epsilon=Competence(-400, 0, 0.1))
    book = learn(model, 4 * 32)
    returns = np.array(book.column("rollout/ep_rew_mean"))
    shares = np.clip((returns + 400) / 400, 0, 1)
    assert 0 < shares.min() < 1
    assert book.column("adversary/epsilon")[1:] == pytest.approx(0.1 * shares[:-1], rel=1e-5)


def test_hold_kl_holds_it() -> None:
    model = make(epsilon=HoldKL(1e-4, 2.0, rate=0.5))
    book = learn(model, 40 * 32)
    assert np.median(book.column("adversary/kl")[20:]) == pytest.approx(1e-4, rel=0.5)
    assert book.column("adversary/epsilon")[0] == 0.1


def test_dual_kappa_follows_what_is_logged() -> None:
    controller = DualKappa(0.01, rate=0.1)
    book = learn(make(epsilon=0.3, kappa=controller), 6 * 32)
    gaps = book.column("adversary/gap")
    clean, robust = (np.array(book.column(f"adversary/{name}_surrogate")) for name in ("clean", "robust"))
    assert gaps == pytest.approx(clean - robust, abs=1e-6)
    assert book.column("adversary/kappa") == pytest.approx(run(controller, *gaps[:-1]), rel=1e-6)
    assert 1 / (1 + np.array(book.column("adversary/kappa"))) == pytest.approx(
        book.column("adversary/kappa_multiplier")
    )


def test_a_recurrent_algorithm_has_controllers_too() -> None:
    own = {"epsilon": Competence(-2000, -1000, 0.1), "kappa": DualKappa(0.05)}
    model = RecurrentBARPO("MlpLstmPolicy", make_envs(), **TINY, **own)
    book = learn(model, 3 * 32)
    assert book.column("adversary/epsilon") == pytest.approx([0, 0.1, 0.1])
    assert len(set(book.column("adversary/kappa"))) == 2  # at strength 0 nothing is measured


@pytest.mark.parametrize(
    "own",
    [
        {"epsilon": Competence(1e6, 2e6, 0.1)},
        {"epsilon": Competence(-2000, -1000, 0.0), "kappa": DualKappa(0.05)},
        {"epsilon": HoldKL(0.1, 0.0)},
    ],
    ids=["not yet", "no strength", "none to hold"],
)
@pytest.mark.parametrize("algorithm", [ARPO, BARPO])
def test_at_strength_0_it_is_ppo(algorithm: type[PPO], own: dict[str, Any]) -> None:
    books, models = [], []
    for kind, settings in ((algorithm, own), (PPO, {})):
        models.append(make(kind, **settings))
        books.append(learn(models[-1], 96))
    assert_same_training(models[0], books[0], models[1], books[1])


def test_states_are_saved_and_kept(tmp_path: Path) -> None:
    own = {"epsilon": HoldKL(0.02, 1.0), "kappa": DualKappa(0.01, rate=0.1)}
    model = make(**own)
    learn(model, 96)
    assert set(model.controls) == {"epsilon_share", "kappa_multiplier"}
    before = dict(model.controls)
    model.save(tmp_path / "agent")
    again = BARPO.load(tmp_path / "agent", env=make_envs())
    assert again.controls == before
    assert learn(again, 32, reset_num_timesteps=False).column("adversary/kappa_multiplier") == [
        before["kappa_multiplier"]
    ]
    book = learn(again, 32)  # a training of its own
    assert book.column("adversary/kappa_multiplier") == [0.5]
    PPO.load(tmp_path / "agent", env=make_envs()).learn(32)


def test_a_continued_training_is_as_one_in_one_go() -> None:
    own = {"epsilon": 0.3, "kappa": DualKappa(0.01, rate=0.1)}
    one = make(**own)
    whole = learn(one, 4 * 32)
    other = make(**own)
    parts = learn(other, 2 * 32)
    parts.dumps += learn(other, 2 * 32, reset_num_timesteps=False).dumps
    assert parts.column("adversary/kappa") == whole.column("adversary/kappa")
    assert same(weights(one), weights(other))


def test_they_may_be_set_at_any_time() -> None:
    model = make(epsilon=0.1)
    model.learn(32)
    model.kappa = DualKappa(0.05, initial=3.0)
    assert learn(model, 32, reset_num_timesteps=False).column("adversary/kappa") == [3.0]
    model.kappa = HoldKL(0.1, 0.1)
    with pytest.raises(ValueError, match="HoldKL controls epsilon, but it was given for kappa"):
        model.learn(32)


@pytest.mark.parametrize(
    ("algorithm", "own", "match"),
    [
        (BARPO, {"kappa": Competence(0, 1, 1.0)}, "Competence controls epsilon, but it was given for kappa"),
        (BARPO, {"epsilon": DualKappa(0.1)}, "DualKappa controls kappa, but it was given for epsilon"),
        (RADIALPPO, {"epsilon": HoldKL(0.1, 0.1)}, "HoldKL listens to what is found by the search for perturbed"),
        (ATLA, {"epsilon": HoldKL(0.1, 0.1)}, "of ATLA searches for none. Take Competence or a schedule"),
    ],
)
def test_controllers_that_do_not_fit(algorithm: type[PPO], own: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make(algorithm, **own)


def test_competence_needs_monitor() -> None:
    def bare() -> DummyVecEnv:
        return DummyVecEnv([lambda: gym.make("Pendulum-v1", max_episode_steps=20)])

    own = {"epsilon": Competence(-2000, -1000, 0.1)}
    with pytest.raises(ValueError, match=r"not wrapped by Monitor, which counts them\. Wrap it: make_vec_env does"):
        BARPO("MlpPolicy", bare(), **TINY, **own)
    model = BARPO("MlpPolicy", VecMonitor(bare()), **TINY, **own)
    assert learn(model, 64).column("adversary/epsilon") == [0, 0.1]
