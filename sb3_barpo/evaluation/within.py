"""Where attacks may move an agent's observations: in which ball, and at which strength by default."""

from collections.abc import Sequence
from typing import NamedTuple

from gymnasium import spaces
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_barpo.adversary import Ball, L2Ball, LinfBall, Timing
from sb3_barpo.agents.load import LoadedAgent
from sb3_barpo.schedules import as_schedule
from sb3_barpo.sensors import Sensors, SensorsLike, as_sensors
from sb3_barpo.sensors import ball as ball_of
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


#: The plain balls, by name.
BALLS = {"linf": LinfBall, "l2": L2Ball}
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
    return Within(ball_of(sheet, space, unwrap_vec_normalize(venv)), sheet)


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


def strengths_of(agents: Sequence[LoadedAgent], epsilon: Sequence[float] | None) -> list[float]:
    """
    :param agents: The agents.
    :param epsilon: Strengths, ``None`` for the one that the agents shall withstand.
    :return: Each strength once, ascending, without the 0 that natural episodes stand for.
    :raises ValueError: if the agents' training says nothing or different things of it, and none is given.
    """
    if epsilon is not None:
        return sorted({one for one in epsilon if one != 0}) or [0.0][: len(epsilon)]
    own = {agent.name: one for agent in agents if (one := own_epsilon(agent.model))}
    if len(set(own.values())) == 1:
        return [next(iter(own.values()))]
    found = ", ".join(f"{name}: {one:g}" for name, one in own.items()) or "none was trained to be robust"
    raise ValueError(
        f"At which epsilon are the agents to be attacked? Their training does not tell ({found}). Name it by epsilon; "
        "0.075 is usual for Hopper under VecNormalize."
    )


def within_of(agents: Sequence[LoadedAgent], ball: str | None, sensors: SensorsLike | None = None) -> list[Within]:
    """
    :param agents: The agents.
    :param ball: ``"linf"`` or ``"l2"``, ``None`` for the ball or sheet that they were trained with.
    :param sensors: A spec sheet in place of a ball.
    :return: Where the attacks on each agent move its observations.
    :raises ValueError: for an unknown ball, a ball and a sheet, or agents that were trained in different balls.
    """
    if ball is not None:
        if sensors is not None:
            raise ValueError("Both a ball and sensors say how far an observation may move. Leave one of them out.")
        if ball not in BALLS:
            raise ValueError(f"Unknown ball {ball!r}. Choose from {', '.join(BALLS)}.")
        return [Within(None if ball == "linf" else BALLS[ball]())] * len(agents)
    if sensors is None:
        trained = {str(own(agent.model, agent.venv)): agent for agent in agents if own_epsilon(agent.model) is not None}
        if len(trained) > 1:
            raise ValueError(
                f"The agents were trained in different balls ({', '.join(trained)}), so one attack does not suit all. "
                f"Evaluate them one by one, or name a ball, {', '.join(BALLS)}, or a spec sheet."
            )
        if not trained:
            return [DEFAULT] * len(agents)
        (one,) = trained.values()
        sensors = own_sheet(one.model)
        if sensors is None:
            return [own(one.model, one.venv)] * len(agents)
    return [within_sheet(agent.model, agent.venv, as_sensors(sensors)) for agent in agents]


def restricted(
    within: Sequence[Within], agents: Sequence[LoadedAgent], features: Sequence[int], timing: Timing | None
) -> list[Within]:
    """
    :param within: Where the attacks on each agent move its observations.
    :param agents: The agents.
    :param features: Indices of the features that attacks may move; none for all.
    :param timing: Limits over the steps of an episode, ``None`` for none.
    :return: The same within these limits.
    :raises ValueError: for features of agents whose observations differ.
    """
    spaces = {str(agent.model.observation_space) for agent in agents}
    if features and len(spaces) > 1:
        raise ValueError(
            f"The agents' observations differ ({', '.join(spaces)}), so the features {list(features)} are not the "
            "same. Evaluate them one by one."
        )
    limited = []
    for agent, place in zip(agents, within, strict=True):
        ball = place.ball
        if features:
            ball = (ball or LinfBall()).only(features, agent.model.observation_space)  # type: ignore[arg-type]  # `only` refuses others
        if timing is not None and timing != Timing():
            ball = (ball or LinfBall()).timed(timing)
        limited.append(place._replace(ball=ball))
    return limited
