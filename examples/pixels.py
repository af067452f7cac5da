"""
An agent that sees pixels: catch a falling ball, with a camera that may be off by a few shades of grey.

Takes a few minutes. The environment below is registered as ``Catch-v0`` when this file is imported:
``gymnasium.make("pixels:Catch-v0")``.
"""

import argparse
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

from sb3_barpo import BARPO
from sb3_barpo.evaluation import RobustnessReport, evaluate_robustness

CELLS, SIDE = 12, 3  # the board has 12 × 12 cells of 3 × 3 pixels
SHADE = 64  # of ball and paddle, on black: 0 to 255


class Catch(gym.Env[np.ndarray, int]):
    """A ball falls by one cell a step; the paddle catches it with its own cell and the two beside it."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 8}  # noqa: RUF012, as Gymnasium has it

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        # uint8 from 0 to 255: what SB3 takes for an image.
        self.observation_space = gym.spaces.Box(0, 255, (CELLS * SIDE, CELLS * SIDE, 1), np.uint8)
        self.action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.row = 0
        self.column, self.paddle = self.np_random.integers(CELLS, size=2)
        return self._look(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.paddle = np.clip(self.paddle + action - 1, 0, CELLS - 1)
        self.row += 1
        landed = self.row == CELLS - 1
        reward = float(landed) * (1.0 if abs(self.paddle - self.column) <= 1 else -1.0)
        return self._look(), reward, landed, False, {}

    def render(self) -> np.ndarray:
        return np.repeat(self._look(), 3, axis=-1)

    def _look(self) -> np.ndarray:
        board = np.zeros((CELLS, CELLS), np.uint8)
        board[self.row, self.column] = board[-1, self.paddle] = SHADE
        return np.kron(board, np.ones((SIDE, SIDE), np.uint8))[..., None]


gym.register("Catch-v0", Catch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timesteps", type=int, default=60_000, help="environment steps of training, per algorithm")
    parser.add_argument("--episodes", type=int, default=64, help="episodes per agent and attack")
    args = parser.parse_args()

    # Epsilon is counted in pixels from 0 to 255: at 16, a shade of 64 may look like one of 48.
    settings = {"n_steps": 64, "batch_size": 128, "n_epochs": 4, "learning_rate": 5e-4, "seed": 0}
    reports = []
    for algorithm, own in ((PPO, {}), (BARPO, {"epsilon": "ramp_16"})):
        model = algorithm("CnnPolicy", make_vec_env("Catch-v0", n_envs=8, seed=0), **settings, **own)
        model.learn(args.timesteps)
        eval_env = make_vec_env("Catch-v0", n_envs=16)
        reports.append(evaluate_robustness(model, eval_env, epsilon=16.0, n_eval_episodes=args.episodes))
    print(RobustnessReport.merge(reports).to_markdown())


if __name__ == "__main__":
    main()
