"""Evaluation under attack, on episodes whose returns are known from their seeds."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_barpo.adversary import KL, SGLD, Adversary, Uniform
from sb3_barpo.attacks import MAD, AttackObservation, GradientAttack, VecAttackObservation
from sb3_barpo.evaluation import evaluate_robustness


class Known(gym.Env[np.ndarray, np.ndarray]):
    """Two to four steps; the first rewards the first draw of the seed, every one the action's likeness to the state."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.draw = float(self.np_random.normal())
        self.left = 2 + int(self.np_random.integers(3))
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward, self.draw = self.draw, 0.0
        self.left -= 1
        return self._observation(), reward, self.left == 0, False, {}

    def _observation(self) -> np.ndarray:
        return np.array([self.draw, self.left], dtype=np.float32)


def known_return(seed: int) -> float:
    return float(gym.utils.seeding.np_random(seed)[0].normal())


def make_model(normalize: bool = False) -> PPO:
    venv = make_vec_env(Known, 2)
    return PPO("MlpPolicy", VecNormalize(venv) if normalize else venv, n_steps=8, batch_size=8, seed=0, device="cpu")


@pytest.mark.parametrize("n_envs", [1, 3, 4])
def test_episode_k_starts_from_seed_plus_k_whatever_the_attack(n_envs: int) -> None:
    venv = make_vec_env(Known, n_envs)
    rows = evaluate_robustness(make_model(), venv, epsilon=0.1, n_eval_episodes=5, seed=7).to_frame()
    assert rows["attack"].unique().tolist() == ["natural", "random", "critic", "mad"]
    for _, episodes in rows.groupby("attack"):
        assert episodes["seed"].tolist() == [7, 8, 9, 10, 11]
        assert episodes["return"].to_numpy() == pytest.approx([known_return(seed) for seed in range(7, 12)], abs=1e-5)


def test_several_strengths_and_attacks_that_are_built_already() -> None:
    model = make_model()
    rows = evaluate_robustness(model, make_vec_env(Known), ["random", MAD(model, 0.3)], [0.1, 0.2], 2).to_frame()
    met = rows[["attack", "epsilon"]].drop_duplicates().to_numpy().tolist()
    assert met == [["natural", 0.0], ["random", 0.1], ["random", 0.2], ["mad", 0.3]]


def test_a_deterministic_attack_does_not_depend_on_the_number_of_environments() -> None:
    env = "Pendulum-v1"
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=8, seed=0, device="cpu")
    attack = GradientAttack(model, 0.0, Adversary(KL(), SGLD()))
    one, two = (evaluate_robustness(model, make_vec_env(env, n), attack, n_eval_episodes=2) for n in (1, 2))
    assert one.to_frame()["return"].to_numpy() == pytest.approx(two.to_frame()["return"].to_numpy(), rel=1e-4)


def test_statistics_switches_mode_and_global_generator_are_left_alone() -> None:
    model = make_model(normalize=True)
    env = model.get_vec_normalize_env()
    assert env is not None
    env.reset()
    model.policy.set_training_mode(True)
    before = env.obs_rms.mean.copy(), env.obs_rms.count, env.ret_rms.var.copy(), th.get_rng_state()
    rows = evaluate_robustness(model, env, epsilon=0.1, n_eval_episodes=3, seed=7).to_frame()
    after = env.obs_rms.mean, env.obs_rms.count, env.ret_rms.var, th.get_rng_state()
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert (env.training, env.norm_reward, model.policy.training) == (True, True, True)
    assert rows["return"][0] == pytest.approx(known_return(7), abs=1e-5)  # not normalised


def test_switches_are_put_back_after_an_error() -> None:
    model = make_model(normalize=True)
    env = model.get_vec_normalize_env()
    attack = GradientAttack(model, 0.1, Adversary(None, Uniform()))
    attack._perturb = None  # type: ignore[assignment,method-assign]
    with pytest.raises(TypeError):
        evaluate_robustness(model, env, attack, n_eval_episodes=1)
    assert (env.training, env.norm_reward) == (True, True)  # type: ignore[union-attr]


def test_the_progress_bar_counts_every_episode(capsys: pytest.CaptureFixture[str]) -> None:
    evaluate_robustness(make_model(), make_vec_env(Known), "mad", 0.1, 3, name="Ada", progress_bar=True)
    assert "Ada, mad at ε = 0.1: 100%" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"n_eval_episodes": 0}, ValueError, "n_eval_episodes must be at least 1, but it is 0"),
        ({"epsilon": -0.1}, ValueError, "epsilon must be a finite number, at least 0"),
        ({"epsilon": [0.1, float("nan")]}, ValueError, "epsilon must be a finite number"),
        ({"epsilon": []}, ValueError, "nothing to evaluate"),
        ({"attacks": []}, ValueError, "nothing to evaluate"),
        ({"attacks": ["fog"]}, ValueError, "Unknown attack 'fog'"),
        ({"attacks": ["mad", "mad"]}, ValueError, "Each attack needs a name of its own"),
        ({"attacks": [3]}, TypeError, "An attack is a name or an Attack object"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        evaluate_robustness(make_model(), make_vec_env(Known), **settings)


def test_environments_that_are_refused() -> None:
    model = make_model()
    for other, what in (("CartPole-v1", "observation_space"), ("Pendulum-v1", "observation_space")):
        with pytest.raises(ValueError, match=f"The environment's {what} must be the model's"):
            evaluate_robustness(model, make_vec_env(other))
    attack = MAD(model, 0.1)
    attacked = DummyVecEnv([lambda: AttackObservation(Known(), attack)])
    for env in (attacked, VecAttackObservation(make_vec_env(Known), attack)):
        with pytest.raises(ValueError, match="must not be under attack already"):
            evaluate_robustness(model, env)


def test_it_warns_where_returns_or_observations_may_not_be_what_they_seem() -> None:
    with pytest.warns(UserWarning, match="not wrapped by SB3's Monitor"):
        evaluate_robustness(make_model(), DummyVecEnv([Known]), "random", n_eval_episodes=1)
    with pytest.warns(UserWarning, match="trained with VecNormalize"):
        evaluate_robustness(make_model(normalize=True), make_vec_env(Known), "random", n_eval_episodes=1)
