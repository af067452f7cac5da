"""Where attacks may move an agent's observations: in which ball, and at which strength by default."""

from typing import NamedTuple

from gymnasium import spaces
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_barpo.adversary import Ball, LinfBall
from sb3_barpo.schedules import as_schedule
from sb3_barpo.sensors import Sensors, as_sensors, ball
from sb3_barpo.training.robust import RobustUpdate


class Within(NamedTuple):
    """
    The ball of attacks on an agent.

    :param ball: The ball, ``None`` for the default one.
    :param sheet: The spec sheet that it comes from, if it does.
    """

    ball: Ball | None = None
    sheet: Sensors | None = None

    def unit(self, venv: VecEnv) -> str:
        """
        :param venv: The agent's environments.
        :return: The unit of ε: ``"sheet"`` for shares of a spec sheet, ``"std"`` under ``VecNormalize``, which scales
            observations, otherwise ``"raw"``.
        """
        layer = unwrap_vec_normalize(venv)
        return "sheet" if self.sheet is not None else "std" if layer is not None and layer.norm_obs else "raw"

    def __str__(self) -> str:
        return repr(self.ball or LinfBall()) if self.sheet is None else f"the spec sheet ({self.sheet})"


#: The default ball.
DEFAULT = Within()


def own_epsilon(model: OnPolicyAlgorithm) -> float | None:
    """
    :return: The strength that an agent shall withstand, ε at the end of its training without the margin; ``None`` for
        one that is not trained to be robust.
    """
    return float(as_schedule(model.epsilon)(0.0)) if isinstance(model, RobustUpdate) else None


def own_sheet(model: OnPolicyAlgorithm) -> Sensors | None:
    """:return: The spec sheet that an agent was trained with, ``None`` if there is none."""
    sheet = getattr(model, "sensors", None) if isinstance(model, RobustUpdate) else None
    return None if sheet is None else as_sensors(sheet)


def within_sheet(model: OnPolicyAlgorithm, venv: VecEnv, sheet: Sensors) -> Within:
    """
    :param model: The agent.
    :param venv: Its environments, with their statistics.
    :param sheet: The spec sheet.
    :return: The ball of the sheet, in the units of what the policy sees.
    :raises ValueError: if the sheet does not fit the observations.
    :raises TypeError: if a sensor measures what is not a ``Box`` of numbers.
    """
    space: spaces.Box | spaces.Dict = model.observation_space  # type: ignore[assignment]
    return Within(ball(sheet, space, unwrap_vec_normalize(venv)), sheet)


def own(model: OnPolicyAlgorithm, venv: VecEnv) -> Within:
    """
    :param model: The agent.
    :param venv: Its environments, with their statistics.
    :return: Where its adversary was in training; the default for one that was not trained to be robust.
    """
    if (sheet := own_sheet(model)) is not None:
        return within_sheet(model, venv, sheet)
    if not isinstance(model, RobustUpdate) or repr(model._adversary.ball) == repr(LinfBall()):
        return DEFAULT
    return Within(model._adversary.ball)
