"""Own environments: vectorised ones that implement less than SB3's, no early resets, episodes without an end."""

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from helpers import TINY, Still
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor, VecNormalize

from sb3_barpo import BARPO, episodes
from sb3_barpo.attacks import ATTACKS
from sb3_barpo.evaluation import RobustEvalCallback, evaluate_robustness
from sb3_barpo.evaluation.judged import env_of
from sb3_barpo.evaluation.trace import feature_names, trace_episode
from sb3_barpo.vec_envs import attribute, is_wrapped, quick_infos, seed_if_possible

SEES, DOES = spaces.Box(-1.0, 1.0, (3,)), spaces.Box(-1.0, 1.0, (1,))


class Simulator(VecEnv):
    """A batch of points, simulated together: steps, resets, and not more. Episodes last five steps."""

    lacks: type[Exception] = NotImplementedError

    def __init__(self, n: int = 3) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is no render_mode
            self._begun = False
            super().__init__(n, SEES, DOES)
        self._begun = True
        self.rng = np.random.default_rng(0)

    def reset(self) -> np.ndarray:
        self.time = 0
        self.place = self.rng.uniform(-0.9, 0.9, (self.num_envs, 3)).astype(np.float32)
        return self.place

    def step_async(self, actions: np.ndarray) -> None:
        self.actions = actions

    def step_wait(self) -> Any:
        self.time += 1
        self.place = np.clip(self.place + 0.1 * self.actions, -0.9, 0.9).astype(np.float32)
        ended, infos = self.time == 5, [{} for _ in range(self.num_envs)]
        if ended:
            infos = [{"terminal_observation": row} for row in self.place]
            self.reset()
        return self.place, -np.abs(self.place).sum(1), np.full(self.num_envs, ended), infos

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise self.lacks if self._begun else AttributeError  # SB3's constructor takes no other

    get_attr = set_attr = env_method = env_is_wrapped = has_attr = _refuse
    seed = _refuse

    def close(self) -> None:
        pass


class Attributeless(Simulator):
    lacks = AttributeError


class Seeded(Simulator):
    """Implements seed alone."""

    def seed(self, seed: int | None = None) -> list[int | None]:
        self.rng = np.random.default_rng(seed)
        return [seed] * self.num_envs


every_lack = pytest.mark.parametrize("kind", [Simulator, Attributeless])


@every_lack
def test_not_implemented_means_no(kind: type[Simulator]) -> None:
    venv = kind()
    assert attribute(venv, "spec") is None
    assert not is_wrapped(venv, Monitor, VecMonitor)
    assert not seed_if_possible(venv, 3)
    assert seed_if_possible(Seeded(), 3)
    assert env_of(venv) == ("", {})
    assert feature_names(venv) == []


@every_lack
@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_on_a_bare_simulator(kind: type[Simulator], name: str) -> None:
    model = PPO("MlpPolicy", kind(), **{**TINY, "seed": None})
    quick = {"n_steps": 8, "batch_size": 8} if name in ("sarl", "paad") else {}
    attack: Any = ATTACKS[name](model, 0.3, seed=0, **quick)
    if hasattr(attack, "fit"):
        attack.fit(kind(), total_timesteps=48)
    with pytest.warns(UserWarning, match=f"{kind.__name__} cannot be seeded, so its episodes differ"):
        report = evaluate_robustness(model, kind(), [attack], n_eval_episodes=4, warn=False)
    assert set(report.to_frame()["length"]) == {5}


def test_seeded_episodes_of_a_simulator_are_the_same() -> None:
    model = PPO("MlpPolicy", Seeded(), **TINY)
    first, again = (evaluate_robustness(model, Seeded(), ["mad"], 0.3, n_eval_episodes=4, warn=False) for _ in range(2))
    assert first.to_frame().equals(again.to_frame())
    trace = trace_episode(model, Seeded(), None, seed=0)
    assert len(trace.rewards) == 5


def test_training_on_a_simulator_with_a_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SB3's own wrappers warn that there is no render_mode
        monkeypatch.setattr(Simulator, "lacks", AttributeError)  # and take no other error
        venv, eval_env = VecNormalize(Seeded()), VecNormalize(Seeded(), training=False, norm_reward=False)
    model = BARPO("MlpPolicy", venv, epsilon=0.1, **TINY)
    callback = RobustEvalCallback(eval_env, attacks=["random"], eval_freq=16, n_eval_episodes=3, warn=False, verbose=0)
    model.learn(192, callback=callback)
    assert callback.report is not None


# Resets


def strict(n_envs: int = 2) -> VecEnv:
    def make() -> gym.Env:
        return Monitor(gym.wrappers.TimeLimit(Still(SEES, DOES), 4), allow_early_resets=False)

    return DummyVecEnv([make] * n_envs)


def test_a_monitor_that_forbids_early_resets() -> None:
    """Allowed for the evaluation, and forbidden again after it."""
    model, venv = PPO("MlpPolicy", strict(), **TINY), strict()
    report = evaluate_robustness(model, venv, ["random", "mad"], 0.1, n_eval_episodes=5)
    assert set(report.to_frame()["length"]) == {4}
    ATTACKS["sarl"](model, 0.1, n_steps=8, batch_size=8).fit(venv, 16)  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="Tried to reset an environment before done"):
        venv.reset()


class Stubborn(Still):
    """Refuses every reset but the first."""

    begun = False

    def reset(self, **kwargs: Any) -> Any:
        if self.begun:
            raise RuntimeError("not before the end!")
        self.begun = True
        return super().reset(**kwargs)


def test_an_environment_that_forbids_them() -> None:
    model = PPO("MlpPolicy", DummyVecEnv([lambda: Still(SEES, DOES)]), **TINY)
    venv = DummyVecEnv([lambda: Stubborn(SEES, DOES)])
    venv.reset()
    with pytest.raises(RuntimeError, match=r"cannot be reset: not before the end! .* begin with a reset.* allow it"):
        evaluate_robustness(model, venv, ["random"], 0.1, n_eval_episodes=1, warn=False)


# Endless episodes


class Late(Still):
    """Ends when told, after very long."""

    def reset(self, **kwargs: Any) -> Any:
        self.time = 0
        return super().reset(**kwargs)

    def step(self, action: Any) -> Any:
        self.time += 1
        return np.zeros(3, np.float32), 1.0, False, self.time == 40, {}


def test_episodes_that_do_not_end_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(episodes, "LONG", 30)
    model = PPO("MlpPolicy", DummyVecEnv([lambda: Still(SEES, DOES)]), **TINY)
    venv = DummyVecEnv([lambda: Late(SEES, DOES)] * 2)
    match = r"After 30 steps 2 of 2 episodes have not ended.*TimeLimit\(env, max_episode_steps=1000\)"
    with pytest.warns(UserWarning, match=match) as told:
        report = evaluate_robustness(model, venv, ["random"], 0.1, n_eval_episodes=2, warn=False)
    assert len(told) == 2  # without an attack, and with one
    assert set(report.to_frame()["length"]) == {40}


def test_usual_episodes_are_not_told() -> None:
    assert episodes.LONG >= 27_000  # steps of Atari's longest episode
    model = PPO("MlpPolicy", DummyVecEnv([lambda: Still(SEES, DOES)]), **TINY)
    venv = DummyVecEnv([lambda: Late(SEES, DOES)])
    evaluate_robustness(model, venv, ["random"], 0.1, n_eval_episodes=1, warn=False)  # a warning would be an error


class Telling(Still):
    """Infos with all that a deep copy has to look at: numbers, arrays, and what two of them share."""

    def __init__(self) -> None:
        super().__init__(SEES, DOES)
        self.shared = [0]

    def step(self, action: Any) -> Any:
        self.shared[0] += 1
        told = {"place": np.float64(0.5), "array": np.full(2, self.shared[0]), "shared": self.shared}
        return (*super().step(action)[:4], told | {"again": told["shared"], "nothing": None})


class Keeps(BaseCallback):
    def __init__(self) -> None:
        super().__init__()
        self.infos: list[Any] = []

    def _on_step(self) -> bool:
        self.infos.append(self.locals["infos"])
        return True


def test_infos_of_a_rollout_are_deep_copies_as_ever() -> None:
    told = []
    for algorithm in (PPO, BARPO):
        venv = VecNormalize(DummyVecEnv([Telling, Telling]))
        algorithm("MlpPolicy", venv, **TINY).learn(64, callback=(callback := Keeps()))
        assert type(venv.venv.buf_infos) is list
        told.append(repr(callback.infos))  # types too
        # What the environment has changed since is not seen, and what was one object in an info still is one.
        assert [infos[1]["shared"] for infos in callback.infos] == [[step] for step in range(1, 33)]
        assert all(info["again"] is info["shared"] for infos in callback.infos for info in infos)
        assert type(callback.infos[0]) is list
    assert told[0] == told[1]


class Own(DummyVecEnv):
    """Another class: its infos are its own affair."""


def test_infos_of_other_environments_are_left_alone() -> None:
    for venv in (Own([lambda: Still(SEES, DOES)]), Simulator()):
        before = getattr(venv, "buf_infos", None)
        with quick_infos(venv):
            assert getattr(venv, "buf_infos", None) is before
