"""The episodes of an evaluation: known returns, known seeds, nothing disturbed, clear refusals."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.utils import seeding
from helpers import General, make_envs
from stable_baselines3 import PPO
from stable_baselines3.common.atari_wrappers import EpisodicLifeEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize
from victims import linear_victim, victim

from sb3_barpo.attacks import MAD, Attack, AttackObservation, UnderAttack, VecAttackObservation
from sb3_barpo.evaluation import evaluate_robustness


class Slope(gym.Env[np.ndarray, np.ndarray]):
    """
    Shows a height drawn from the seed, for as many steps as drawn from the seed. The reward is the action.

    :param poison: Added to each reward.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = spaces.Box(-1, 1, (1,))

    def __init__(self, poison: float = 0.0) -> None:
        self.poison = poison

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.height, self.left = draw(self.np_random)
        return np.array([self.height]), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        return np.array([self.height]), float(action[0]) + self.poison, self.left == 0, False, {}


def draw(rng: np.random.Generator) -> tuple[float, int]:
    return rng.uniform(-0.5, 0.5), int(rng.integers(2, 7))


def known(seed: int, shift: float = 0.0) -> tuple[float, int]:
    """Return and length of the agent that does what it sees, where what it sees is lower by ``shift``."""
    height, length = draw(seeding.np_random(seed)[0])
    return length * (height - shift), length


class Lower(Attack):
    """Every observation looks lower by ε."""

    name = "lower"

    def _perturb(self, observations: th.Tensor, policy: Any) -> th.Tensor:
        return observations - self.epsilon


class Broken(Attack):
    name = "broken"

    def _perturb(self, observations: th.Tensor, policy: Any) -> th.Tensor:
        raise RuntimeError("broken")


class Lives(gym.Wrapper[Any, Any, Any, Any]):
    """Says after every step that the episode has ended, as Atari's wrapper does when a life is lost."""

    over = True

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        if self.over or kwargs.get("seed") is not None:
            self.over = False
            return self.env.reset(**kwargs)
        return np.array([self.env.unwrapped.height]), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, self.over, truncated, info = self.env.step(action)
        return observation, reward, True, truncated, info


def slopes(n_envs: int = 2, make: Callable[[], gym.Env[Any, Any]] = lambda: Monitor(Slope())) -> VecEnv:
    return DummyVecEnv([make] * n_envs)


def follower() -> Any:
    """Does what it sees, and values it so."""
    return linear_victim([1.0])


@pytest.mark.parametrize("n_envs", [1, 3, 8])
def test_every_row_is_the_episode_of_its_seed(n_envs: int) -> None:
    model = follower()
    report = evaluate_robustness(model, slopes(n_envs), Lower(model, 0.25), n_eval_episodes=7, seed=40, name="it")
    frame = report.to_frame()
    assert list(frame["agent"].unique()) == ["it"]
    assert frame["attack"].to_list() == ["natural"] * 7 + ["lower"] * 7
    assert frame["epsilon"].to_list() == [0.0] * 7 + [0.25] * 7
    assert frame["episode"].to_list() == list(range(7)) * 2
    assert frame["seed"].to_list() == list(range(40, 47)) * 2
    returns, lengths = zip(*[known(seed, shift) for shift in (0.0, 0.25) for seed in range(40, 47)], strict=True)
    assert frame["length"].to_list() == list(lengths)
    assert frame["return"].to_list() == pytest.approx(returns, abs=1e-5)


def test_fewer_episodes_than_environments_start_at_the_seed() -> None:
    frame = evaluate_robustness(follower(), slopes(8), "random", n_eval_episodes=2, seed=0).to_frame()
    assert frame["return"][:2].to_list() == pytest.approx([known(0)[0], known(1)[0]], abs=1e-5)


def test_named_attacks_stay_within_epsilon_and_the_critic_goes_down() -> None:
    report = evaluate_robustness(follower(), slopes(4), epsilon=0.2, n_eval_episodes=8)
    frame = report.to_frame()
    assert report.attacks == ["random", "critic", "mad"]
    change = frame["return"] / frame["length"] - [known(seed)[0] / known(seed)[1] for seed in frame["seed"]]
    assert change.abs().max() <= 0.2 + 1e-5
    # Ten steps of a tenth of ε, from a start within a tenth.
    assert change[frame["attack"] == "critic"].between(-0.2 - 1e-5, -0.18 + 1e-5).all()


def test_at_strength_0_nothing_changes() -> None:
    frame = evaluate_robustness(follower(), slopes(), epsilon=0, n_eval_episodes=3).to_frame()
    assert frame["return"].to_list() == frame["return"][:3].to_list() * 4


def test_several_strengths_and_attacks_with_one_of_their_own() -> None:
    model = follower()
    report = evaluate_robustness(model, slopes(), ["mad", Lower(model, 0.3)], np.array([0.1, 0.2]), n_eval_episodes=1)
    rows = report.to_frame()[["attack", "epsilon"]].to_numpy().tolist()
    assert rows == [["natural", 0.0], ["mad", 0.1], ["mad", 0.2], ["lower", 0.3]]


def test_attacks_by_name() -> None:
    names = ["random", "critic", "mad"]
    assert set(names) <= set(evaluate_robustness(follower(), slopes(), names).attacks)


def test_one_batch_is_as_evaluate_policy_has_it() -> None:
    model, venv = victim(), make_envs(n_envs=4)
    report = evaluate_robustness(model, venv, "mad", 0.1, n_eval_episodes=4, seed=5)
    attack = MAD(model, 0.1)
    for predictor, label in ((model, "natural"), (UnderAttack(model, attack), "mad")):
        venv.seed(5)
        attack.seed(5)
        returns, _ = evaluate_policy(predictor, venv, n_eval_episodes=4, return_episode_rewards=True)
        frame = report.to_frame()
        assert frame.loc[frame["attack"] == label, "return"].to_list() == returns  # all end at the same step


def test_sampled_actions_are_the_same_again_and_leave_torch_s_generator_alone() -> None:
    model = follower()
    state = th.get_rng_state()
    first, second = (evaluate_robustness(model, slopes(), "mad", deterministic=False) for _ in range(2))
    assert th.equal(state, th.get_rng_state())
    assert first.to_frame().equals(second.to_frame())
    assert first.natural != pytest.approx(evaluate_robustness(model, slopes(), "mad").natural)


@pytest.mark.parametrize("fails", [False, True])
def test_statistics_switches_and_mode_are_as_before(fails: bool) -> None:
    model, venv = follower(), VecNormalize(slopes(), norm_reward=True)
    venv.reset()
    for _ in range(20):
        venv.step(np.ones((2, 1)))
    statistics = [(one.mean.copy(), one.var.copy(), one.count) for one in (venv.obs_rms, venv.ret_rms)]
    model.policy.set_training_mode(True)
    if fails:
        with pytest.raises(RuntimeError, match="broken"):
            evaluate_robustness(model, venv, Broken(model, 0.1))
    else:
        evaluate_robustness(model, venv, "mad")
    assert [(one.mean, one.var, one.count) for one in (venv.obs_rms, venv.ret_rms)] == statistics
    assert venv.training
    assert venv.norm_reward
    assert model.policy.training


def test_rewards_are_not_normalised_and_strength_is_in_normalised_units() -> None:
    model = follower()
    venv = VecNormalize(slopes(1, Slope), norm_reward=True)
    venv.obs_rms.var = np.array([4.0])
    frame = evaluate_robustness(model, venv, Lower(model, 0.25), n_eval_episodes=1, warn=False).to_frame()
    natural, length = known(0)
    assert frame["return"].to_list() == pytest.approx([natural / 2, natural / 2 - 0.25 * length], abs=1e-5)


def test_an_environment_alone_gets_a_monitor() -> None:
    assert evaluate_robustness(follower(), Slope(), "mad", n_eval_episodes=1).natural == pytest.approx(known(0)[0])


def test_without_monitor_rewards_are_counted_as_they_come() -> None:
    with pytest.warns(UserWarning, match="not wrapped by SB3's Monitor"):
        report = evaluate_robustness(follower(), slopes(3, Slope), "mad", n_eval_episodes=5)
    natural = report.to_frame()[:5]
    assert natural["return"].to_list() == pytest.approx([known(seed)[0] for seed in range(5)], abs=1e-5)
    assert natural["length"].to_list() == [known(seed)[1] for seed in range(5)]


def test_a_lost_life_is_no_end() -> None:
    report = evaluate_robustness(follower(), slopes(3, lambda: Lives(Monitor(Slope()))), "mad", n_eval_episodes=5)
    assert report.to_frame()["length"].to_list() == [known(seed)[1] for seed in range(5)] * 2


class Game(Slope):
    """A life is lost at every second step."""

    @property
    def ale(self) -> "Game":
        return self

    def lives(self) -> int:
        return 100 - self._steps // 2

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        self._steps = 0
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        return super().step(np.atleast_1d(action))  # the wrapper's own action is 0


def test_episodes_of_several_lives_keep_their_seeds() -> None:
    """SB3's own wrapper resets for real only after the game."""
    frames = [
        evaluate_robustness(
            follower(), slopes(n_envs, lambda: EpisodicLifeEnv(Monitor(Game()))), "random", 0.0, n_eval_episodes=5
        ).to_frame()
        for n_envs in (1, 3)
    ]
    assert frames[0].equals(frames[1])
    assert frames[0]["seed"].to_list() == [*range(5)] * 2


def test_a_model_of_normalised_environments_on_raw_ones_is_pointed_out() -> None:
    model = follower()
    model.set_env(VecNormalize(slopes(1)))
    with pytest.warns(UserWarning, match="trained with VecNormalize.*raw"):
        evaluate_robustness(model, slopes(), "mad", n_eval_episodes=1)


def test_the_progress_bar_names_what_is_evaluated(capsys: pytest.CaptureFixture[str]) -> None:
    evaluate_robustness(follower(), slopes(), "mad", 0.1, n_eval_episodes=3, name="Ann", progress_bar=True)
    shown = capsys.readouterr().err
    assert "Ann, natural" in shown
    assert "Ann, mad at ε = 0.1" in shown
    assert "6/6" in shown
    evaluate_robustness(follower(), slopes(), "mad", n_eval_episodes=1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"n_eval_episodes": 0}, ValueError, "n_eval_episodes must be at least 1, but it is 0"),
        ({"attacks": []}, ValueError, "There are no attacks: attacks is \\[\\]"),
        ({"epsilon": []}, ValueError, "epsilon is an empty list: name at least one strength"),
        ({"attacks": ["mad", "mda"]}, ValueError, "Unknown attack 'mda'. Choose from random, critic, mad"),
        ({"attacks": [42]}, TypeError, "a name or an Attack object.*not 42"),
        ({"attacks": [MAD]}, TypeError, "a name or an Attack object"),
        ({"attacks": ["mad", "mad"]}, ValueError, "a name of its own.*'mad', 0.075"),
        ({"epsilon": [0.1, 0.1]}, ValueError, "name each strength once"),
        ({"epsilon": -0.1}, ValueError, "epsilon must be a finite number, at least 0.*-0.1"),
        ({"epsilon": [0.1, float("nan")]}, ValueError, "epsilon must be a finite number"),
        ({"epsilon": float("inf")}, ValueError, "epsilon must be a finite number"),
    ],
)
def test_bad_settings(settings: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        evaluate_robustness(follower(), slopes(), **settings)


def test_other_spaces_than_the_model_s() -> None:
    with pytest.raises(ValueError, match="observation_space must be the model's"):
        evaluate_robustness(linear_victim([1.0, 2.0]), slopes())
    with pytest.raises(ValueError, match="action_space must be the model's"):
        evaluate_robustness(follower(), gym.wrappers.RescaleAction(Slope(), np.float32(-2), np.float32(2)))


def test_an_environment_that_is_under_attack_already() -> None:
    model = follower()
    attack = Lower(model, 0.1)
    for env in (VecAttackObservation(slopes(), attack), AttackObservation(Slope(), attack)):
        with pytest.raises(ValueError, match="must not be under attack already"):
            evaluate_robustness(model, env)


def test_a_return_that_is_no_number_is_an_error() -> None:
    venv = slopes(2, lambda: Monitor(Slope(poison=float("nan"))))
    with pytest.raises(ValueError, match=r"return must be finite.*under natural in the\s+episode of seed 3"):
        evaluate_robustness(follower(), venv, "mad", seed=3, n_eval_episodes=2)


def test_within_inference_mode() -> None:
    """Where PyTorch forbids gradients, attacks that need them do the same."""
    model = PPO(General, make_envs(), seed=0, device="cpu")  # not recognised: its gradients are autograd's
    usual = evaluate_robustness(model, make_envs(), epsilon=0.1, n_eval_episodes=1)
    with th.inference_mode():
        within = evaluate_robustness(model, make_envs(), epsilon=0.1, n_eval_episodes=1)
        assert th.is_inference_mode_enabled()
    assert (within.natural, within.worst_case) == (usual.natural, usual.worst_case)
