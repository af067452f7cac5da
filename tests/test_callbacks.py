"""RobustEvalCallback: what it logs, stores and keeps."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from brief import BRIEF as ENV
from helpers import same, weights
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, StopTrainingOnRewardThreshold
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import VecNormalize

from sb3_barpo import BARPO, RecurrentBARPO
from sb3_barpo.attacks import MAD
from sb3_barpo.evaluation import RobustEvalCallback, RobustnessReport, evaluate_robustness

QUICK: dict[str, Any] = {"n_steps": 32, "batch_size": 32, "n_epochs": 1, "seed": 0, "device": "cpu"}


class Kept(KVWriter):
    def __init__(self) -> None:
        self.values: dict[str, list[Any]] = {}

    def write(self, key_values: dict[str, Any], key_excluded: Any, step: int = 0) -> None:
        for key, value in key_values.items():
            self.values.setdefault(key, []).append(value)

    def close(self) -> None:
        pass


class Times(BaseCallback):
    """Writes down when it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[int] = []

    def _on_step(self) -> bool:
        self.times.append(self.num_timesteps)
        return True


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations whose natural return rises while the worst case falls."""
    results = iter([(1.0, 9.0), (2.0, 8.0), (3.0, 7.0)])

    def evaluate(self: RobustEvalCallback) -> RobustnessReport:
        natural, worst = next(results)
        rows = [("A", "natural", 0.0, 0, 0, natural, 5), ("A", "mad", 0.1, 0, 0, worst, 5)]
        columns = ["agent", "attack", "epsilon", "episode", "seed", "return", "length"]
        self.report = RobustnessReport(pd.DataFrame(rows, columns=columns))
        return self.report

    monkeypatch.setattr(RobustEvalCallback, "evaluate", evaluate)


@pytest.mark.usefixtures("scripted")
def test_the_best_model_is_the_one_of_the_highest_worst_case(tmp_path: Path) -> None:
    model = PPO("MlpPolicy", ENV, **QUICK)
    callback = RobustEvalCallback(
        make_vec_env(ENV), attacks="mad", eval_freq=32, best_model_save_path=str(tmp_path), verbose=0
    )
    model.learn(96, callback=callback)
    assert callback.best_mean_reward == 9.0
    assert callback.last_mean_reward == 3.0
    assert PPO.load(tmp_path / "best_model").num_timesteps == 32


@pytest.mark.usefixtures("scripted")
@pytest.mark.parametrize(("threshold", "steps"), [(8.5, 32), (9.5, 96)])
def test_a_threshold_is_one_of_the_worst_case(threshold: float, steps: int) -> None:
    model = PPO("MlpPolicy", ENV, **QUICK)
    stop = StopTrainingOnRewardThreshold(threshold)
    model.learn(96, callback=RobustEvalCallback(make_vec_env(ENV), eval_freq=32, callback_on_new_best=stop, verbose=0))
    assert model.num_timesteps == steps


def test_a_real_run_logs_stores_and_synchronises(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    env, eval_env = VecNormalize(make_vec_env(ENV)), VecNormalize(make_vec_env(ENV, 2), training=False)
    model = BARPO("MlpPolicy", env, epsilon=0.1, **QUICK)
    kept = Kept()
    model.set_logger(Logger(None, [kept]))
    callback = RobustEvalCallback(
        eval_env, attacks=["random", "mad"], epsilon=0.2, n_eval_episodes=2, eval_freq=32, log_path=str(tmp_path)
    )
    model.learn(64, callback=callback)

    stored = np.load(tmp_path / "evaluations.npz")
    assert stored["timesteps"].tolist() == [32, 64]
    for name in ("results", "ep_lengths", "results_random", "results_mad"):
        assert stored[name].shape == (2, 2)
    assert stored["ep_lengths"].tolist() == [[20, 20], [20, 20]]
    natural = stored["results"].mean(1)
    worst = np.minimum(stored["results_random"].mean(1), stored["results_mad"].mean(1))
    assert kept.values["eval/mean_reward"] == pytest.approx(natural)
    assert kept.values["eval/robust_mad"] == pytest.approx(stored["results_mad"].mean(1))
    assert kept.values["eval/worst_case"] == pytest.approx(worst)
    assert kept.values["eval/robustness"] == pytest.approx((worst - natural) / np.abs(natural))
    assert kept.values["eval/mean_ep_length"] == [20, 20]
    assert np.array_equal(eval_env.obs_rms.mean, env.obs_rms.mean)
    assert env.training
    assert "worst case=" in capsys.readouterr().out


@pytest.mark.parametrize(("algorithm", "policy"), [(PPO, "MlpPolicy"), (RecurrentBARPO, "MlpLstmPolicy")])
def test_its_figures_are_those_of_evaluate_robustness(algorithm: type[PPO], policy: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"attacks": ["mad"], "epsilon": 0.2, "n_eval_episodes": 2, "seed": 4}
    report = evaluate_robustness(algorithm(policy, ENV, **QUICK), make_vec_env(ENV), **settings)
    callback = RobustEvalCallback(make_vec_env(ENV), eval_freq=32, log_path=str(tmp_path), verbose=0, **settings)
    algorithm(policy, ENV, **QUICK).learn(32, callback=callback)  # it looks before the first update
    stored = np.load(tmp_path / "evaluations.npz")
    returns = report.to_frame()["return"].tolist()
    assert [*stored["results"][0], *stored["results_mad"][0]] == returns
    assert callback.best_mean_reward == report.worst_case


def test_training_goes_on_as_without_it() -> None:
    # Each is built just before it learns, since that seeds the generators which all models share.
    watched, alone = (
        BARPO("MlpPolicy", ENV, **QUICK).learn(96, callback=callback)
        for callback in (RobustEvalCallback(make_vec_env(ENV), eval_freq=32, n_eval_episodes=1, verbose=0), None)
    )
    assert same(weights(watched), weights(alone))


@pytest.mark.usefixtures("scripted")
def test_its_own_callbacks_are_called() -> None:
    best, after = (Times() for _ in range(2))
    callback = RobustEvalCallback(
        make_vec_env(ENV), eval_freq=32, callback_on_new_best=best, callback_after_eval=after, verbose=0
    )
    PPO("MlpPolicy", ENV, **QUICK).learn(96, callback=callback)
    assert best.times == [32]
    assert after.times == [32, 64, 96]


def test_eval_freq_of_zero_never_evaluates() -> None:
    callback = RobustEvalCallback(make_vec_env(ENV), eval_freq=0)
    PPO("MlpPolicy", ENV, **QUICK).learn(32, callback=callback)
    assert callback.best_mean_reward == -np.inf


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"attacks": ["fog"]}, ValueError, "Unknown attack 'fog'"),
        ({"attacks": []}, ValueError, "There are no attacks"),
        ({"attacks": "all"}, ValueError, "robust_sarsa, sarl, paad would have to be fitted anew"),
        ({"epsilon": -1}, ValueError, "epsilon must be a finite number"),
        ({"epsilon": [0.1, 0.2]}, ValueError, "epsilon must be a finite number"),
        ({"n_eval_episodes": 0}, ValueError, "n_eval_episodes must be at least 1"),
        ({"render": True}, ValueError, "does not support render"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        RobustEvalCallback(make_vec_env(ENV), **settings)


def test_an_attack_of_another_model_is_refused() -> None:
    attack = MAD(PPO("MlpPolicy", ENV, **QUICK), 0.1)
    with pytest.raises(TypeError, match="The attacks of a callback are names"):
        RobustEvalCallback(make_vec_env(ENV), attacks=[attack])  # type: ignore[list-item]


def test_an_evaluation_environment_without_the_normalisation_is_refused() -> None:
    model = PPO("MlpPolicy", VecNormalize(make_vec_env(ENV)), **QUICK)
    callback = RobustEvalCallback(make_vec_env(ENV))
    with (
        pytest.warns(UserWarning, match="not of the same type"),
        pytest.raises(ValueError, match="the evaluation environment must be too"),
    ):
        model.learn(32, callback=callback)
