"""Every kind of observation with every kind of action: parity, balls, spaces, faces, attacks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import learn, same, spy, weights
from sights import ACTIONS, SIGHTS, agent, ball_of, epsilon_of, make_sights
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_barpo import ARPO, BARPO
from sb3_barpo.adversary import KL, SGLD, Adversary, LinfBall, Value
from sb3_barpo.attacks import (
    MAD,
    PAAD,
    SARL,
    AttackObservation,
    Critic,
    Random,
    RobustSarsa,
    UnderAttack,
    VecAttackObservation,
)
from sb3_barpo.attacks.attack import GradientAttack
from sb3_barpo.evaluation import RobustEvalCallback, evaluate_robustness
from sb3_barpo.evaluation.budgets import Budget, Member
from sb3_barpo.evaluation.trace import trace_episode
from sb3_barpo.policies.spaces import by_key, by_parts

every_sight = pytest.mark.parametrize("sight", SIGHTS)


def adversary(sight: str, objective: Any = None) -> Adversary:
    return Adversary(KL() if objective is None else objective, SGLD(n_steps=3), ball_of(sight))


def reach_of(sight: str, key: str) -> float:
    """How far the features of a key may move."""
    scales = ball_of(sight).scales
    return epsilon_of(sight) * (1.0 if scales is None else float(scales.get(key, 0.0)))


@pytest.mark.parametrize("action", ACTIONS)
@every_sight
def test_parity_at_strength_0(sight: str, action: str) -> None:
    models = []
    for algorithm, own in ((PPO, {}), (BARPO, {"epsilon": 0, "adversary": adversary(sight)})):
        model = agent(algorithm, sight, action, **own)
        learn(model, 128)
        models.append(model)
    assert same(weights(models[1]), weights(models[0]))
    assert same(models[1].policy.optimizer.state_dict(), models[0].policy.optimizer.state_dict())


@pytest.mark.parametrize("algorithm", [ARPO, BARPO])
@every_sight
def test_training_stays_in_the_ball_and_in_the_space(algorithm: type[PPO], sight: str) -> None:
    own = algorithm("MlpPolicy", make_sights("vector")).default_adversary().objective
    model = agent(algorithm, sight, epsilon=epsilon_of(sight), adversary=adversary(sight, own))
    calls = spy(model)
    learn(model, 64)
    for call in calls:
        perturbed, clean = by_parts(call.perturbed), by_parts(call.observations)
        for key, space in by_parts(model.observation_space).items():
            delta = (perturbed[key].double() - clean[key].double()).abs()
            reach = reach_of(sight, key)
            assert delta.max() <= reach * (1 + 1e-4)
            if reach > 0:
                assert delta.max() > 0.3 * reach
                assert (perturbed[key].double() >= th.as_tensor(space.low).double()).all()
                assert (perturbed[key].double() <= th.as_tensor(space.high).double()).all()
    assert not same(weights(model), weights(agent(PPO, sight)))


@pytest.mark.parametrize("kind", [Random, Critic, MAD])
@every_sight
def test_attacks_stay_in_the_ball_and_in_the_space(kind: Any, sight: str) -> None:
    model = agent(PPO, sight)
    attack = kind(model, epsilon_of(sight), ball=ball_of(sight), seed=0)
    observations = model.env.reset()
    seen = by_parts(attack.perturb(observations, None))
    limited = by_parts(UnderAttackSpy(model, attack).see(observations))
    for key, clean in by_parts(observations).items():
        space = by_parts(model.observation_space)[key]
        assert seen[key].dtype == clean.dtype
        assert seen[key].shape == clean.shape
        reach = reach_of(sight, key)
        assert np.abs(seen[key].astype(float) - clean).max() <= reach * (1 + 1e-5)
        assert (seen[key] != clean).any() <= (reach > 0)
        if clean.dtype != bool:  # which can move in one direction only, perhaps not the attack's
            assert (seen[key] != clean).any() == (reach > 0)
        assert all(space.contains(row) for row in limited[key])


class UnderAttackSpy:
    """Catches what a model is shown under attack."""

    def __init__(self, model: PPO, attack: Any) -> None:
        self.observation_space = model.observation_space
        self._face = UnderAttack(self, attack, model.get_vec_normalize_env())

    def get_vec_normalize_env(self) -> None:
        return None

    def predict(self, observation: Any, *args: Any) -> tuple[Any, None]:
        return observation, None

    def see(self, observations: Any) -> Any:
        return self._face.predict(observations)[0]


@every_sight
def test_the_three_faces_give_the_same_returns(sight: str) -> None:
    model = agent(PPO, sight, n_envs=1)
    learn(model, 32)

    def attack() -> MAD:
        return MAD(model, epsilon_of(sight), ball=ball_of(sight), seed=0)

    def returns(predictor: Any, venv: Any, one: Any) -> list[float]:
        venv.seed(5)
        one.seed(5)
        return evaluate_policy(predictor, venv, n_eval_episodes=3, return_episode_rewards=True, warn=False)[0]

    clean = returns(model, make_sights(sight, n_envs=1), attack())
    outside = attack()
    by_model = returns(UnderAttack(model, outside), make_sights(sight, n_envs=1), outside)
    outside = attack()
    by_vector = returns(model, VecAttackObservation(make_sights(sight, n_envs=1), outside), outside)
    assert by_model == by_vector
    assert by_model != clean


@pytest.mark.parametrize("sight", [sight for sight in SIGHTS if sight != "stack"])
def test_one_environment_is_attacked_as_many_are(sight: str) -> None:
    """Channels last, as environments have them."""
    model = agent(PPO, sight, n_envs=1)
    attack = Critic(model, epsilon_of(sight), ball=ball_of(sight))
    env = make_sights(sight, n_envs=1)
    inner = AttackObservation(env.unwrapped.envs[0], attack)
    attack.seed(1)
    ours, _ = inner.reset(seed=1)
    attack.seed(1)
    env.seed(1)
    theirs = VecAttackObservation(env, attack).reset()
    assert inner.observation_space.contains(ours)
    for key, part in by_parts(ours).items():
        turned = np.moveaxis(part, -1, 0) if np.shape(part) == (36, 36, 1) else part
        assert np.array_equal(turned, by_parts(theirs)[key][0])


def test_gradients_flow_through_the_preprocessing_of_images() -> None:
    """A pixel's gradient is that of the normalised image, over 255."""
    model = agent(PPO, "image")
    image = th.as_tensor(model.env.reset()).float()
    goal = Value().prepare(model.policy, image)
    image.requires_grad_()
    (ours,) = th.autograd.grad(goal(image).sum(), image)
    normalised = (image.detach() / 255).requires_grad_()
    features = model.policy.vf_features_extractor(normalised)
    values = model.policy.value_net(model.policy.mlp_extractor.forward_critic(features))
    (theirs,) = th.autograd.grad(-values.sum(), normalised)
    assert ours.abs().max() > 0
    assert ours == pytest.approx(theirs / 255, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("sight", ["image", "dict", "bytes"])
def test_a_search_finds_more_than_chance(sight: str) -> None:
    model = agent(PPO, sight)
    observations = model.policy.obs_to_tensor(model.env.reset())[0]
    gains = [
        adversary(sight).gain(model.policy, observations, attack._perturb(observations, model.policy)).sum()
        for attack in (
            Random(model, epsilon_of(sight), ball=ball_of(sight), seed=0),
            GradientAttack(model, epsilon_of(sight), adversary(sight), seed=0),
        )
    ]
    assert gains[1] > 2 * gains[0]


@every_sight
def test_named_attacks_take_a_ball(sight: str) -> None:
    model = agent(PPO, sight)
    named = evaluate_robustness(
        model, make_sights(sight), ["critic"], epsilon_of(sight), n_eval_episodes=3, ball=ball_of(sight)
    )
    built = evaluate_robustness(
        model, make_sights(sight), [Critic(model, epsilon_of(sight), ball=ball_of(sight))], n_eval_episodes=3
    )
    assert named.to_frame().equals(built.to_frame())


def test_a_search_takes_a_ball(tmp_path: Path) -> None:
    model, ball = agent(PPO, "vectors"), LinfBall({"gps": 2.0})
    budget = Budget({"sarl": [Member("sarl", 32, {"n_steps": 16, "batch_size": 16})]}, 2)
    report = evaluate_robustness(
        model, make_sights("vectors"), ["sarl"], 0.1, n_eval_episodes=2, budget=budget, folder=tmp_path, ball=ball
    )
    assert report.attacks == ["sarl"]
    (stored,) = tmp_path.glob("sarl-*.zip")
    assert repr(SARL.load(stored, model).ball) == repr(ball)


def test_a_callback_takes_a_ball() -> None:
    model = agent(BARPO, "dict", epsilon=0.1, adversary=adversary("dict"))
    callback = RobustEvalCallback(
        make_sights("dict"),
        attacks="random",
        epsilon=0.1,
        n_eval_episodes=1,
        eval_freq=16,
        verbose=0,
        ball=ball_of("dict"),
    )
    model.learn(64, callback=callback)
    assert callback.report is not None
    assert callback.report.attacks == ["random"]


@every_sight
def test_an_episode_can_be_followed(sight: str) -> None:
    model = agent(PPO, sight)
    attack = Random(model, epsilon_of(sight), ball=ball_of(sight), seed=0)
    trace = trace_episode(model, make_sights(sight), attack, seed=3)
    assert len(trace.observations) == len(trace.perturbations) == len(trace.rewards) == 10
    assert trace.perturbations.any()
    reach = max(reach_of(sight, key) for key in by_parts(model.observation_space))
    assert np.abs(trace.perturbations).max() <= reach * (1 + 1e-5)


@pytest.mark.parametrize("sight", ["image", "dict", "vectors", "bytes"])
def test_the_director_knows_every_observation(sight: str, tmp_path: Path) -> None:
    model = agent(PPO, sight)
    attack = PAAD(model, epsilon_of(sight), ball=ball_of(sight), seed=0, n_steps=16, batch_size=16)
    attack.fit(make_sights(sight), total_timesteps=32)
    attack.save(tmp_path / "attack")
    again = PAAD.load(tmp_path / "attack", model)
    assert repr(again.ball) == repr(ball_of(sight))
    observations = make_sights(sight).reset()
    for one in (attack, again):
        one.seed(1)
    assert same(by_key(th.as_tensor, attack.perturb(observations)), by_key(th.as_tensor, again.perturb(observations)))
    assert evaluate_robustness(model, make_sights(sight), [attack], n_eval_episodes=2).attacks == ["paad"]


def test_sa_rl_moves_the_keys_of_its_ball() -> None:
    model = agent(PPO, "vectors")
    attack = SARL(model, 0.1, ball=LinfBall({"gps": 2.0}), seed=0, n_steps=16, batch_size=16)
    assert attack.adversary_space() == spaces.Box(-1.0, 1.0, (3,))
    attack.fit(make_sights("vectors"), total_timesteps=32)
    observations = make_sights("vectors").reset()
    perturbed = attack.perturb(observations)
    assert np.array_equal(perturbed["imu"], observations["imu"])
    assert 0 < np.abs(perturbed["gps"] - observations["gps"]).max() <= 0.2 * (1 + 1e-5)


def test_sa_rl_takes_no_images() -> None:
    with pytest.raises(TypeError, match=r"1296 pixels by one action each.* Take PA-AD"):
        SARL(agent(PPO, "image"), 8.0).fit(make_sights("image"), total_timesteps=16)


@pytest.mark.parametrize("sight", ["image", "vectors"])
def test_robust_sarsa_takes_flat_observations(sight: str) -> None:
    with pytest.raises(TypeError, match=r"learned from flat Box observations.*random, critic, mad, paad"):
        RobustSarsa(agent(PPO, sight), epsilon_of(sight))


@pytest.mark.parametrize(
    ("scale", "sight", "match"),
    [
        (1.0, "dict", r"not all of one kind.*LinfBall\(\{'camera': 1.0\}\)"),
        ([1.0, 2.0], "vectors", "not all of one kind"),
        ({"lidar": 1.0}, "dict", "a scale for 'lidar', but the keys are camera, imu, mode"),
        ({"mode": 1.0}, "dict", r"a scale for 'mode', but Discrete\(3\) has no neighbours"),
        ({"imu": [1.0, 1.0, 1.0]}, "dict", r"The scale of 'imu' .* shape \(2,\), but its shape is \(3,\)"),
        ({"imu": 1.0}, "vector", "names keys, imu, but the space .* has none"),
    ],
)
def test_a_ball_that_does_not_fit(scale: Any, sight: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        agent(BARPO, sight, adversary=Adversary(KL(), SGLD(), LinfBall(scale)))


@pytest.mark.parametrize("scale", [{}, {"imu": 0.0}, {"imu": -1.0}, {"imu": np.nan}])
def test_a_ball_of_keys_that_is_none(scale: Any) -> None:
    with pytest.raises(ValueError, match="The scale of a ball must be finite"):
        LinfBall(scale)


def test_a_saved_model_keeps_its_keys(tmp_path: Any) -> None:
    model = agent(BARPO, "dict", adversary=adversary("dict"))
    model.save(tmp_path / "agent")
    assert repr(BARPO.load(tmp_path / "agent")._adversary.ball) == repr(LinfBall({"camera": 80.0, "imu": 1.0}))


def test_an_observation_of_other_keys() -> None:
    attack = Random(agent(PPO, "vectors"), 0.1)
    with pytest.raises(ValueError, match=r"of shape gps \(B, \*\(3,\)\), imu .* but got imu \(1, 2\)"):
        attack.perturb({"imu": np.zeros((1, 2))})
    with pytest.raises(ValueError, match="NaN or infinite"):
        attack.perturb({"imu": np.full((1, 2), np.nan), "gps": np.zeros((1, 3))})
