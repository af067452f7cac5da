"""Everything SB3 does with a PPO works on ARPO and BARPO, and training is what it should be."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from helpers import TINY, learn, make_envs, same, spy, weights
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import CallbackList, CheckpointCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.torch_layers import FlattenExtractor
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sb3_barpo import ARPO, BARPO

BOTH = pytest.mark.parametrize("algorithm", [ARPO, BARPO])
SPACES = pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
RAMP = [0.1 / 3, 0.2 / 3, 0.1, 0.1]  # "ramp_0.1" after each of four updates


def four_updates(model: PPO, **kwargs: Any) -> list[float]:
    """:return: The strength of each."""
    return learn(model, 4 * TINY["n_steps"], **kwargs).column("adversary/epsilon")


@BOTH
@pytest.mark.parametrize("through_a_file", [False, True])
def test_strength_never_falls_back_when_training_is_continued(
    algorithm: type[PPO], through_a_file: bool, tmp_path: Path
) -> None:
    """SB3's progress climbs again, from 0 to 0.375."""
    model = algorithm("MlpPolicy", make_envs(), epsilon="ramp_0.1", **TINY)
    assert four_updates(model) == pytest.approx(RAMP)
    if through_a_file:
        model.save(tmp_path / "agent")
        model = algorithm.load(tmp_path / "agent", env=make_envs())
    assert four_updates(model, reset_num_timesteps=False) == pytest.approx([0.1] * 4)
    assert model._current_progress_remaining == 0
    assert four_updates(model, reset_num_timesteps=True) == pytest.approx(RAMP)


def test_strength_goes_on_where_training_was_interrupted() -> None:
    model = BARPO("MlpPolicy", make_envs(), epsilon="linear_0_0.1", **TINY)
    assert four_updates(model, callback=lambda seen, _: seen["self"].num_timesteps < 96) == pytest.approx([0.025, 0.05])
    # 96 steps are done and 128 to come: SB3's progress is 128/224 done after the first, 1 after the last.
    rest = [0.1 * done / 224 for done in (128, 160, 192, 224)]
    assert four_updates(model, reset_num_timesteps=False) == pytest.approx(rest)


def test_strength_stays_at_its_end_when_the_last_rollout_overshoots() -> None:
    model = BARPO("MlpPolicy", make_envs(), epsilon="linear_0.1_0.02", **TINY)
    book = learn(model, 40)
    assert model._current_progress_remaining < 0
    assert book.column("adversary/epsilon") == pytest.approx([0.1 - 0.08 * 0.8, 0.02])


def test_set_env() -> None:
    model = BARPO("MlpPolicy", make_envs(), epsilon=0.1, **TINY).learn(32)
    model.set_env(make_envs(normalized=True))
    assert learn(model, 32).column("adversary/epsilon") == [0.1]


@BOTH
def test_callbacks(algorithm: type[PPO], tmp_path: Path) -> None:
    evaluation = EvalCallback(make_envs(), n_eval_episodes=1, eval_freq=32, log_path=str(tmp_path), verbose=0)
    checkpoints = CheckpointCallback(32, str(tmp_path))
    model = algorithm("MlpPolicy", make_envs(), epsilon=0.1, **TINY)
    model.learn(64, callback=CallbackList([evaluation, checkpoints]))
    assert evaluation.evaluations_timesteps == [32, 64]
    assert len(list(tmp_path.glob("rl_model_*_steps.zip"))) == 2
    assert np.isfinite(evaluate_policy(model, make_envs(), n_eval_episodes=1)[0])


@pytest.mark.filterwarnings("ignore:rich is experimental")  # so tqdm announces its rich progress bar
def test_progress_bar(capsys: pytest.CaptureFixture[str]) -> None:
    BARPO("MlpPolicy", make_envs(), epsilon=0.1, **TINY).learn(64, progress_bar=True)
    assert "64/64" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("algorithm", "name", "folder"), [(ARPO, None, "ARPO_1"), (BARPO, None, "BARPO_1"), (BARPO, "mine", "mine_1")]
)
def test_tensorboard(algorithm: type[PPO], name: str | None, folder: str, tmp_path: Path) -> None:
    model = algorithm("MlpPolicy", make_envs(), epsilon=0.1, tensorboard_log=str(tmp_path), **TINY)
    model.learn(96, **({} if name is None else {"tb_log_name": name}))
    assert [path.name for path in tmp_path.iterdir()] == [folder]
    events = EventAccumulator(str(tmp_path / folder)).Reload()
    assert {"train/loss", "adversary/epsilon", "adversary/gain"} <= set(events.Tags()["scalars"])
    assert [event.value for event in events.Scalars("adversary/epsilon")] == pytest.approx([0.1, 0.1])


@BOTH
@SPACES
def test_logged_values(algorithm: type[PPO], env_id: str) -> None:
    bold = {"policy_kwargs": {"ortho_init": False}}  # SB3's first policies hardly move, their KL is below rounding
    model = algorithm("MlpPolicy", make_envs(env_id), epsilon="ramp_0.2", kappa=0.5, **TINY, **bold)
    book = learn(model, 4 * 32)
    for dump in book.dumps[1:]:
        assert 0 < dump["adversary/radius_used"] <= dump["adversary/epsilon"] * (1 + 1e-4)
        assert dump["adversary/kl"] >= 0
        assert dump["adversary/kappa"] == 0.5
        guided = (dump["adversary/robust_surrogate"] + 0.5 * dump["adversary/clean_surrogate"]) / 1.5
        assert dump["train/policy_gradient_loss"] == pytest.approx(-guided, abs=1e-6)
        if algorithm is BARPO:
            assert dump["adversary/gain"] == dump["adversary/kl"] > 0
        else:
            assert dump["adversary/robust_surrogate"] < dump["adversary/clean_surrogate"]
            assert dump["adversary/gain"] > 0


class Dropped(FlattenExtractor):
    """Half of the features are missing in training."""

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return th.nn.functional.dropout(super().forward(observations), training=self.training)


def test_the_adversary_is_measured_on_the_policy_as_it_acts() -> None:
    """With dropout in play, the measure would show its noise rather than the perturbation."""
    model = BARPO("MlpPolicy", make_envs(), epsilon=1e-6, policy_kwargs={"features_extractor_class": Dropped}, **TINY)
    modes: list[bool] = []
    evaluate = model.policy.evaluate_actions
    model.policy.evaluate_actions = lambda *args: modes.append(model.policy.training) or evaluate(*args)
    assert learn(model, 32).column("adversary/kl")[0] < 1e-9
    assert modes == [True] * 4  # and training goes on in training mode


@BOTH
@SPACES
def test_one_seed_one_result(algorithm: type[PPO], env_id: str) -> None:
    runs = []
    for seed in (3, 3, 4):
        model = algorithm("MlpPolicy", make_envs(env_id), epsilon=0.1, **{**TINY, "seed": seed})
        book = learn(model, 96)
        runs.append((weights(model), book.column("adversary/gain"), book.column("train/loss")))
    assert same(runs[0], runs[1])
    assert runs[0][1] != runs[2][1]
    assert not same(runs[0][0], runs[2][0])


def test_without_a_seed() -> None:
    """The adversary draws its own: with everything else equal, the perturbations are others."""
    perturbed = []
    for _ in range(2):
        model = BARPO("MlpPolicy", make_envs(), epsilon=0.1, **{**TINY, "seed": None})
        calls = spy(model)
        th.manual_seed(0)
        model.learn(32)
        perturbed.append(calls[0].perturbed - calls[0].observations)
    assert not th.equal(perturbed[0].sign(), perturbed[1].sign())


def random_states() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state()[1].tolist(), np.random.get_state()[2], th.get_rng_state()


@BOTH
@SPACES
def test_the_global_generators_move_as_under_ppo(algorithm: type[PPO], env_id: str) -> None:
    PPO("MlpPolicy", make_envs(env_id), **TINY).learn(64)
    theirs = random_states()
    algorithm("MlpPolicy", make_envs(env_id), epsilon=0.1, **TINY).learn(64)
    assert same(random_states(), theirs)


def test_policy_kwargs_and_schedules_of_ppo() -> None:
    model = BARPO(
        "MlpPolicy",
        make_envs(),
        epsilon=0.1,
        learning_rate=lambda left: 1e-3 * left,
        policy_kwargs={"net_arch": {"pi": [8], "vf": [5, 4]}, "activation_fn": th.nn.ReLU},
        **TINY,
    )
    assert model.policy.mlp_extractor.policy_net[0].out_features == 8
    assert learn(model, 128).column("train/learning_rate") == pytest.approx([7.5e-4, 5e-4, 2.5e-4, 0])


@BOTH
def test_gsde_with_strength(algorithm: type[PPO]) -> None:
    model = algorithm("MlpPolicy", make_envs(), epsilon=0.1, use_sde=True, **TINY)
    assert min(learn(model, 64).column("adversary/radius_used")) > 0


@BOTH
def test_the_environment_by_its_name(algorithm: type[PPO]) -> None:
    assert algorithm("MlpPolicy", "Pendulum-v1", epsilon=0.1, **TINY).learn(32).num_timesteps == 32
