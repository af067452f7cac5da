"""Clean observations outside the space that their environment declares: said once, and no limit of an attack."""

import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import TINY, Still, learn
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from sb3_barpo import ATLA, BARPO
from sb3_barpo.adversary import Bounds, DictBounds, HeldLimits, SpaceWarning
from sb3_barpo.agents.load import LoadedAgent
from sb3_barpo.attacks import MAD, Attack, AttackObservation, UnderAttack, VecAttackObservation
from sb3_barpo.evaluation import evaluate_robustness
from sb3_barpo.evaluation.campaign import evaluate

NARROW, WIDE = 0.01, np.inf
LIES = spaces.Box(-1.0, 1.0, (2,))


class Declared(gym.ObservationWrapper):
    """CartPole whose space is declared so."""

    def __init__(self, env: gym.Env, limit: float) -> None:
        super().__init__(env)
        self.observation_space = spaces.Box(-limit, limit, (4,))

    def observation(self, observation: Any) -> Any:
        return observation


class Liar(Still):
    """Its feature 1 goes up to 5, where 1 is declared."""

    def _look(self) -> Any:
        look = super()._look()
        inner = look["own"] if isinstance(look, dict) else look
        inner[1] = 5 * abs(inner[1]) if abs(inner[1]) > 0.5 else inner[1]
        return look


class Upwards(Attack):
    """Goes up by ε."""

    name = "upwards"

    def _perturb(self, observations: Any, policy: Any) -> Any:
        return observations + self.epsilon


def cart_pole(limit: float, n_envs: int = 5) -> VecEnv:
    arguments = {"max_episode_steps": 200}
    return make_vec_env("CartPole-v1", n_envs, wrapper_class=lambda env: Declared(env, limit), env_kwargs=arguments)


def balancer(limit: float) -> PPO:
    """It pushes to where the pole falls: 200 steps without an attack."""
    model = PPO("MlpPolicy", cart_pole(limit, 1), policy_kwargs={"net_arch": []}, **TINY)
    with th.no_grad():
        towards = th.tensor([0.05, 0.2, 1.0, 1.0])
        model.policy.action_net.weight.copy_(th.stack([-towards, towards]) * 3)
        model.policy.action_net.bias.zero_()
    return model


def worst(limit: float, epsilon: float = 0.15) -> float:
    model = balancer(limit)
    report = evaluate_robustness(model, cart_pole(limit), [Upwards(model, epsilon)], n_eval_episodes=5)
    assert report.natural == 200
    return report.worst_case


def test_a_wrong_space_does_not_flatter_an_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    right = worst(WIDE)
    with pytest.warns(
        SpaceWarning, match=r"feature \d is -?0\.\d+, where -0.01 to 0.01 is declared\. Features"
    ) as told:
        held = worst(NARROW)
    assert len(told) == 1
    monkeypatch.setattr(HeldLimits, "look", lambda *args, **kwargs: None)
    cut = worst(NARROW)
    assert right < 120
    assert abs(held - right) < 0.05 * right
    assert cut > 1.3 * right


def liar(space: Any = LIES) -> Liar:
    return Liar(space, spaces.Box(-1.0, 1.0, (1,)))


def lying(space: Any = LIES, n_envs: int = 3) -> VecEnv:
    return DummyVecEnv([lambda: liar(space)] * n_envs)


def statistics(venv: VecEnv) -> VecNormalize:
    layer = VecNormalize(venv, training=False)
    layer.obs_rms.mean[...], layer.obs_rms.var[...] = 0.5, 4.0  # type: ignore[union-attr]
    return layer


SHOWS: dict[str, Callable[[PPO, Attack], Any]] = {
    "around environments": lambda model, attack: VecAttackObservation(lying(), attack),
    "around normalised environments": lambda model, attack: VecAttackObservation(statistics(lying()), attack),
    "around one environment": lambda model, attack: DummyVecEnv([lambda: AttackObservation(liar(), attack)]),
    "around one environment, normalised behind": lambda model, attack: DummyVecEnv(
        [lambda: AttackObservation(liar(), attack, statistics(lying()))]
    ),
}


@pytest.mark.parametrize("how", SHOWS)
def test_every_wrapper_lets_go_of_a_broken_limit_alone(how: str) -> None:
    """Feature 0 keeps its limits, feature 1 has none from the first time on."""
    normalized = "normalised" in how
    model = PPO("MlpPolicy", lying(), **TINY)
    venv = SHOWS[how](model, Upwards(model, 2.0 if normalized else 4.0))
    venv.seed(0)
    declared = "-0.75 to 0.25 is declared (all normalised)" if normalized else "-1 to 1 is declared"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        venv.reset()
        shown = np.concatenate([venv.step(np.zeros((venv.num_envs, 1)))[0] for _ in range(50)])[20:]
    (one,) = [str(warning.message) for warning in told if warning.category is SpaceWarning]
    assert one.startswith("A clean observation lies outside the space that its environment declares: feature 1 is")
    assert declared in one
    inside = normalized and "behind" not in how
    assert shown[:, 0] == pytest.approx(0.25 if inside else 1.0)
    # Clean values lie between -0.5 and 5, in normalised units between -0.5 and 2.25.
    assert shown[:, 1].min() > (1.4 if inside else 3.4)


def test_in_front_of_a_model_key_by_key() -> None:
    space = spaces.Dict({"own": LIES, "other": LIES})
    model = PPO("MultiInputPolicy", lying(space), **TINY)
    predictor = UnderAttack(model, MAD(model, 4.0))
    clean = {"own": np.array([[0.0, 0.0]], np.float32), "other": np.array([[0.0, 3.0]], np.float32)}
    with pytest.warns(SpaceWarning, match="feature 1 of 'other' is 3, where -1 to 1 is declared"):
        predictor.predict(clean)
    predictor.predict(clean)  # once
    bounds = predictor._limits.behind(space, None, clean)
    assert isinstance(bounds, DictBounds)
    assert bounds["own"] is not None
    assert bounds["own"].high.tolist() == [1, 1]
    assert bounds["other"] is not None
    assert bounds["other"].high.tolist() == [1, np.inf]
    assert bounds["other"].low.tolist() == [-1, -np.inf]


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("kind", [BARPO, ATLA])
def test_in_training(normalized: bool, kind: type[BARPO]) -> None:
    venv = VecNormalize(lying()) if normalized else lying()
    model: Any = kind("MlpPolicy", venv, epsilon=0.3, **TINY)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        learn(model, 300)
    texts = [str(warning.message) for warning in told if warning.category is SpaceWarning]
    assert len(texts) == 1
    assert "feature 1 is" in texts[0]
    bounds = model._bounds()
    assert bounds.high[1] == np.inf
    assert bounds.high[0] < np.inf


def test_plain_ppo_asks_for_nothing() -> None:
    learn(BARPO("MlpPolicy", lying(), epsilon=0, **TINY), 64)  # a warning would be an error


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int32, np.uint8])
def test_what_lies_on_a_limit_is_inside(kind: Any) -> None:
    space = spaces.Box(0, 1 if np.dtype(kind).kind == "f" else 7, (3,), kind)
    limits = HeldLimits(PPO("MlpPolicy", lying(), **TINY))
    bounds = limits.behind(space, None, np.stack([space.low, space.high]))
    assert isinstance(bounds, Bounds)
    assert bounds.high.tolist() == space.high.tolist()
    slightly = space.high * (1 + 1e-6)  # rounding
    assert limits.behind(space, None, slightly[None]).high.tolist() == space.high.tolist()


def test_a_report_says_it_too(tmp_path: Any) -> None:
    """And the processes that run its trials do not repeat it."""
    gym.register("Liar-v0", liar, max_episode_steps=5, disable_env_checker=True)
    try:
        model = PPO("MlpPolicy", lying(), **TINY)
        venv = make_vec_env("Liar-v0", 2)
        agent = LoadedAgent("it", model, venv)
        with pytest.warns(SpaceWarning, match="it: A clean observation lies outside") as told:
            evaluate([agent], ["random", "critic"], [0.5], output=tmp_path, n_eval_episodes=2, progress_bar=False)
        assert len(told) == 1
        assert "**A clean observation lies outside the space" in (tmp_path / "report.md").read_text(encoding="utf-8")
        report = evaluate_robustness(model, venv, ["random"], 0.5, n_eval_episodes=2, warn=False)
        assert "feature 1 is" in report.judged["agents"]["PPO"]["warning"]
    finally:
        del gym.registry["Liar-v0"]
