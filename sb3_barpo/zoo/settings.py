"""Entries of the RL Zoo's files of settings, checked before anything runs."""

import difflib
import functools
import inspect
from collections.abc import Mapping
from typing import Any

from sb3_barpo.algorithms import OURS, algorithm
from sb3_barpo.checks import require_margin
from sb3_barpo.schedules import as_schedule
from sb3_barpo.sensors import as_sensors

#: Keys of an entry that the Zoo itself takes. All others are arguments of the algorithm.
_ZOO_KEYS = {"callback", "env_kwargs", "env_wrapper", "frame_stack", "monitor_kwargs", "n_envs", "n_timesteps"}
_ZOO_KEYS |= {"normalize", "vec_env_wrapper"}
#: Those that the Zoo makes schedules of.
_ZOO_SCHEDULES = ["learning_rate", "clip_range", "clip_range_vf"]


def check_settings(algo: str, settings: Mapping[str, Any]) -> None:
    """
    Check an entry of a file of settings, as the Zoo reads it.

    :param algo: One of this package's algorithms, or one on which they build, such as ``"ppo"``.
    :param settings: The entry.
    :raises ValueError: for a key that neither the Zoo nor the algorithm knows, a number written as text, or an invalid
        schedule, margin or spec sheet.
    :raises TypeError: for a strength that is neither a number nor a schedule, or a sheet of another type.
    :raises OSError: if the file of a sheet cannot be read.
    """
    known = known_settings(algo)
    for key, value in settings.items():
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(
                f"Unknown setting {key!r}, with the value {value!r}.{hint} Settings are the arguments of "
                f"{algorithm(algo).__name__} and the RL Zoo's own keys: {', '.join(sorted(_ZOO_KEYS))}."
            )
        if isinstance(value, str) and _is_number(value):
            raise ValueError(
                f"The setting {key!r} is the text {value!r}, not a number. YAML reads 1e-3 as text: write 0.001 or "
                "!!float 1e-3."
            )
        if key in _ZOO_SCHEDULES and isinstance(value, str) and not _is_linear(value):
            raise ValueError(
                f"The setting {key!r} is {value!r}, but here the RL Zoo takes a number or 'lin_0.001', which falls to "
                "0. Only epsilon and the settings of the outer loss, such as kappa, take other schedules."
            )
    strengths = ("epsilon", *algorithm(algo).defence.loss.schedules()) if algo in OURS else ()  # type: ignore[attr-defined]
    for key in strengths:
        if settings.get(key) is not None:
            as_schedule(settings[key])
    if settings.get("margin") is not None:
        require_margin("margin", settings["margin"])
    if settings.get("sensors") is not None:
        as_sensors(settings["sensors"])


def known_settings(algo: str) -> frozenset[str]:
    """
    :param algo: One of this package's algorithms, or one on which they build.
    :return: The keys that an entry may have: the Zoo's own and the algorithm's arguments.
    """
    return _arguments(algo) | _ZOO_KEYS


@functools.cache
def _arguments(algo: str) -> frozenset[str]:
    """The names of an algorithm's arguments, those of the one on which it builds among them."""
    base, own = (OURS[algo].base, OURS[algo].settings) if algo in OURS else (algo, ())
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    signatures = (inspect.signature(algorithm(name)).parameters for name in (algo, base))
    names = {name for parameters in signatures for name, p in parameters.items() if p.kind not in variadic}
    # The Zoo gives these by itself.
    given = {"env", "_init_setup_model", "tensorboard_log", "seed", "verbose", "device"}
    return frozenset(names - given | set(own))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_linear(text: str) -> bool:
    """Whether the Zoo can read it. Whatever the word, it makes a line to 0 of it."""
    word, _, number = text.partition("_")
    return word in ("lin", "linear") and _is_number(number)
