"""The faces of an attack fit where Gymnasium and SB3 expect an environment or a model, and keep to the space."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.evaluation import evaluate_policy
from test_wrappers import CARTPOLE, PENDULUM, attacked, normalized, observations, random_steps, statistics, three, venv
from victims import victim

from sb3_barpo.attacks import MAD, AttackObservation, Random, UnderAttack, VecAttackObservation

both = pytest.mark.parametrize("env_id", [PENDULUM, CARTPOLE])


# --- Gymnasium


@both
@pytest.mark.parametrize("kind", [Random, MAD])
@pytest.mark.filterwarnings("ignore:.*different from the unwrapped version:UserWarning")
@pytest.mark.filterwarnings("ignore:.*symmetric and normalized:UserWarning")
@pytest.mark.filterwarnings("ignore:.*value is -?infinity:UserWarning")
def test_passes_the_checkers(env_id: str, kind: Any) -> None:
    env = AttackObservation(gym.make(env_id), kind(victim(env_id), 5.0))
    gymnasium_check_env(env, skip_render_check=True)  # rendering, which no attack touches, needs pygame
    sb3_check_env(env, skip_render_check=True)


@both
def test_can_be_made_again_from_its_spec(env_id: str) -> None:
    env = AttackObservation(gym.make(env_id), MAD(victim(env_id), 0.3), statistics(env_id))

    def seen(env: gym.Env[Any, Any]) -> list[np.ndarray]:
        env.action_space.seed(0)
        return [env.reset(seed=3)[0]] + [env.step(env.action_space.sample())[0] for _ in range(5)]

    again = gym.make(env.spec)
    assert again.get_wrapper_attr("attack") is env.attack
    assert again.get_wrapper_attr("vec_normalize") is env.vec_normalize
    np.testing.assert_array_equal(seen(again), seen(env))


@both
def test_space_stays_the_same(env_id: str) -> None:
    space = gym.make(env_id).observation_space
    assert AttackObservation(gym.make(env_id), Random(victim(env_id), 0.3)).observation_space == space
    assert attacked(env_id).observation_space == space


# --- bounds


class Witness:
    """A model that keeps what it is shown."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.observation_space = model.observation_space
        self.seen: list[np.ndarray] = []

    def get_vec_normalize_env(self) -> None:
        return None

    def predict(self, observation: np.ndarray, *args: Any) -> Any:
        self.seen.extend(observation)
        return self.model.predict(observation, *args)


def shown_to_the_model(env: Any, attack: Any, vec_normalize: Any = None) -> np.ndarray:
    witness = Witness(attack.model)
    evaluate_policy(UnderAttack(witness, attack, vec_normalize), env, n_eval_episodes=2)
    return np.array(witness.seen)


@three
@both
def test_keeps_a_bounded_space(kind: Any, env_id: str) -> None:
    """The ball is larger than the space, so that some observations end on its edge."""
    attack = kind(victim(env_id), 50.0)
    space = attack.observation_space
    inside = random_steps(venv(env_id, wrap=lambda env: AttackObservation(env, attack)), 30)
    outside = random_steps(VecAttackObservation(venv(env_id), attack), 30)
    for seen in (*(observations(given)[:, 0] for given in (inside, outside)), shown_to_the_model(venv(env_id), attack)):
        assert len(seen) > 15
        assert all(space.contains(observation) for observation in seen)
        assert np.any(np.isclose(seen, space.low) | np.isclose(seen, space.high))


@three
@both
def test_keeps_a_bounded_space_under_vec_normalize(kind: Any, env_id: str) -> None:
    """The raw observation that belongs to what the policy sees."""
    attack = kind(victim(env_id), 50.0)
    space, frozen = attack.observation_space, statistics(env_id)
    inside = random_steps(venv(env_id, wrap=lambda env: AttackObservation(env, attack, frozen)), 30)
    assert all(space.contains(observation) for observation in observations(inside)[:, 0])
    outside = observations(random_steps(VecAttackObservation(normalized(env_id), attack), 30))[:, 0]
    for seen in (outside, shown_to_the_model(normalized(env_id), attack, frozen)):
        raw = frozen.unnormalize_obs(seen)
        tolerance = 1e-5 * np.abs(raw).max()
        assert np.all((raw >= space.low - tolerance) & (raw <= space.high + tolerance))
        assert np.any(np.isclose(raw, space.low, atol=1e-4) | np.isclose(raw, space.high, atol=1e-4))


# --- the model's side


@three
def test_predict_of_one_observation_and_of_a_batch(kind: Any) -> None:
    model = victim(PENDULUM)
    attack = kind(model, 0.3)
    batch = np.random.default_rng(0).uniform(-0.6, 0.6, (100, 3)).astype(np.float32)
    batch = batch[np.abs(model.predict(batch, deterministic=True)[0][:, 0]) < 1][:4]  # clear of the torque's limits
    for given, as_batch in ((batch[0], batch[:1]), (batch, batch)):
        attack.seed(0)
        action, state = UnderAttack(model, attack).predict(given, deterministic=True)
        attack.seed(0)
        expected, _ = model.predict(attack.perturb(as_batch), deterministic=True)
        assert state is None
        assert action.shape == (*given.shape[:-1], 1)
        np.testing.assert_allclose(action, expected.reshape(action.shape), atol=1e-6)
        assert not np.array_equal(action, model.predict(given, deterministic=True)[0])


def test_predict_passes_everything_on() -> None:
    class Recurrent:
        observation_space = victim(PENDULUM).observation_space

        def predict(self, observation: np.ndarray, *args: Any) -> Any:
            return np.zeros((len(observation), 1)), args

    start, state = np.array([True, False]), (np.ones(2), np.zeros(2))
    face = UnderAttack(Recurrent(), Random(victim(PENDULUM), 0.3), statistics(PENDULUM))
    _, (seen_state, seen_start, deterministic) = face.predict(np.zeros((2, 3), np.float32), state, start, True)
    assert seen_state is state
    assert seen_start is start
    assert deterministic is True


def test_a_transferred_attack() -> None:
    """It looks for the worst case of its own model, not of the one that acts."""
    actor, other = victim(PENDULUM, seed=0), victim(PENDULUM, seed=1)
    clean = np.random.default_rng(0).uniform(-0.9, 0.9, (50, 3)).astype(np.float32)
    action, _ = UnderAttack(actor, MAD(other, 0.05, seed=0)).predict(clean, deterministic=True)
    expected, _ = actor.predict(MAD(other, 0.05, seed=0).perturb(clean), deterministic=True)
    own, _ = actor.predict(MAD(actor, 0.05, seed=0).perturb(clean), deterministic=True)
    np.testing.assert_array_equal(action, expected)
    assert not np.array_equal(action, own)


def test_statistics_default_to_those_of_the_models_environment() -> None:
    env = normalized(PENDULUM)
    model = PPO("MlpPolicy", env, device="cpu")
    assert UnderAttack(model, Random(model, 0.1)).venv is env
    assert UnderAttack(model, Random(model, 0.1), statistics(PENDULUM)).venv is statistics(PENDULUM)
    assert UnderAttack(victim(PENDULUM), Random(model, 0.1)).venv is victim(PENDULUM).env


# --- refusals


@pytest.mark.parametrize(
    ("face", "what"),
    [
        (lambda attack: AttackObservation(gym.make(PENDULUM), attack), "the environment"),
        (lambda attack: VecAttackObservation(venv(PENDULUM), attack), "the environment"),
        (lambda attack: UnderAttack(victim(PENDULUM), attack), "the model"),
    ],
    ids=["environment", "vector", "model"],
)
def test_an_attack_for_another_space(face: Any, what: str) -> None:
    with pytest.raises(ValueError, match=rf"was built for observations Box.*\(4,\).*, but {what} has Box.*\(3,\)"):
        face(Random(victim(CARTPOLE), 0.1))


@pytest.mark.parametrize("shape", [(4,), (2, 4), (1, 2, 3)])
def test_predict_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="takes a batch of observations of shape"):
        UnderAttack(victim(PENDULUM), Random(victim(PENDULUM), 0.1)).predict(np.zeros(shape, np.float32))
