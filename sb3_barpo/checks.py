"""Checks of settings that are numbers: one form of error everywhere, with the rule, the value and the remedy."""

import math
from numbers import Integral
from os import PathLike
from typing import TypeGuard


def require(rule: bool, name: str, value: object, remedy: str) -> None:
    """
    :param rule: Whether the setting is as it must be.
    :param name: Name of the setting.
    :param value: Its value.
    :param remedy: What it must be; completes "..., but".
    :raises ValueError: if it is not.
    """
    if not rule:
        raise ValueError(f"{name} is {value!r}, but {remedy}.")


def require_model(model: object) -> None:
    """
    :param model: What was given for an agent.
    :raises TypeError: if it is a text or a path.
    """
    _require_no_text(
        model,
        "an agent",
        "Load it: PPO.load({0}), or sb3_barpo.agents.load_agent, which finds its algorithm, its environment and its "
        "statistics too.",
    )


def require_env(env: object) -> None:
    """
    :param env: What was given for an environment.
    :raises TypeError: if it is a text or a path.
    """
    _require_no_text(
        env,
        "an environment",
        "Make it: make_vec_env({0}), wrapped as in training, by VecNormalize.load(path, venv) for example; or take it "
        "from sb3_barpo.agents.load_agent.",
    )


def require_attack(attack: object) -> None:
    """
    :param attack: What was given for an attack.
    :raises TypeError: if it is a text or a path.
    """
    _require_no_text(
        attack,
        "an attack",
        "Make it for the model that it attacks: MAD(model, epsilon=0.075), or LearnedAttack.load(path, model).",
    )


def _require_no_text(value: object, what: str, remedy: str) -> None:
    if isinstance(value, str | PathLike):
        text = repr(str(value))
        raise TypeError(f"{text} is a text, where {what} belongs. {remedy.replace('{0}', text)}")


def is_number(value: object) -> TypeGuard[float]:
    """:return: Whether it is a plain number. ``True`` and ``False`` are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def require_count(name: str, value: object, remedy: str) -> None:
    """
    :param name: Name of the setting.
    :param value: Its value.
    :param remedy: What it must be; completes "..., but".
    :raises ValueError: if it is not a whole number of at least 1.
    """
    require(isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1, name, value, remedy)


def require_margin(name: str, value: object) -> None:
    """
    :param name: Name of the setting.
    :param value: Its value.
    :raises ValueError: if it is not a finite number above 0.
    """
    require(is_number(value) and 0 < value < math.inf, name, value, "a margin is a finite number above 0, such as 2.0")


def require_strength(name: str, value: object) -> None:
    """
    :param name: Name of the setting.
    :param value: Its value.
    :raises ValueError: if it is not a finite number of at least 0.
    """
    require(is_number(value) and 0 <= value < math.inf, name, value, "a strength is a finite number, at least 0")
