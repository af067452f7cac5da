"""
A seat in the RL Zoo: its own commands, with ARPO, BARPO and their recurrent forms among its algorithms.

The Zoo finds algorithms, and what samples their settings, in dicts that all of its programs share. :func:`register`
adds to these; :func:`run` then starts the Zoo's program as ``python -m rl_zoo3.<command>`` would. Nothing of the Zoo
is imported before.
"""

import argparse
import contextlib
import difflib
import functools
import importlib
import importlib.util
import inspect
import io
import re
import runpy
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium

from sb3_barpo.algorithms import OURS, algorithm
from sb3_barpo.schedules import as_schedule

#: What is added to the Zoo's algorithms, and the one of the Zoo on which each builds.
ALGORITHMS = {name: row.base for name, row in OURS.items()}
#: The Zoo's programs that know algorithms, and what they do. Its plots need no registration.
COMMANDS = {
    "train": "train an agent with the RL Zoo, or tune PPO's settings",
    "enjoy": "watch a trained agent, print its returns",
    "record_video": "record a trained agent",
    "record_training": "record an agent's checkpoints, one after the other",
    "push_to_hub": "upload an agent to the Hugging Face Hub",
    "load_from_hub": "download an agent",
}
#: Keys of an entry that the Zoo itself takes. All others are arguments of the algorithm.
_ZOO_KEYS = {"callback", "env_kwargs", "env_wrapper", "frame_stack", "monitor_kwargs", "n_envs", "n_timesteps"}
_ZOO_KEYS |= {"normalize", "vec_env_wrapper"}
#: The Zoo evaluates as often as this. A shorter run would end without a best model.
_EVAL_FREQ = 25_000
#: Those that the Zoo makes schedules of.
_ZOO_SCHEDULES = ["learning_rate", "clip_range", "clip_range_vf"]


def register() -> None:
    """
    Add our algorithms to the RL Zoo: the classes, and PPO's samplers and converters for its ``-optimize``. In place,
    and as often as you like. What ``-optimize`` scores is the return without an attack, so the strength is not sampled:
    it would be tuned away.

    :raises ValueError: if the Zoo is not installed.
    """
    _require_zoo()
    from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER
    from rl_zoo3.utils import ALGOS

    for algo, base in ALGORITHMS.items():
        ALGOS[algo] = algorithm(algo)
        HYPERPARAMS_SAMPLER[algo] = HYPERPARAMS_SAMPLER[base]
        HYPERPARAMS_CONVERTER[algo] = HYPERPARAMS_CONVERTER[base]


def run(command: str, argv: Sequence[str]) -> None:
    """
    Run one of the Zoo's programs.

    :param command: One of :data:`COMMANDS`.
    :param argv: Its arguments.
    :raises ValueError: for an unknown command, a missing package, or arguments or settings that :func:`prepare`
        refuses. What the program itself raises passes through.
    """
    launch(command, prepare(command, argv))


def prepare(command: str, argv: Sequence[str]) -> list[str]:
    """
    Register, complete the arguments of one of the Zoo's programs, and check the settings before anything runs.

    What is completed where it is missing: ``--algo barpo``; for our algorithms ``--folder logs`` where agents are
    read, and in ``train`` ``--conf-file`` with this package's settings, ``--env-kwargs`` with those of the settings,
    which the Zoo would keep from the evaluation environment, and in a short run ``--eval-freq``, for a best model.

    :param command: One of :data:`COMMANDS`.
    :param argv: Its arguments.
    :return: The arguments, completed.
    :raises ValueError: for an unknown command, a missing package, ``--trial-id 0``, which the Zoo ignores, values that
        are no Python, or settings that the algorithm does not take.
    :raises TypeError: for a strength that is nothing of the kind.
    :raises OSError: if there is no such file of settings.
    """
    if command not in COMMANDS:
        raise ValueError(f"Unknown command {command!r}. The RL Zoo's are {', '.join(COMMANDS)}.")
    register()
    argv = list(argv)
    given = _given(argv)
    if given.algo is None:
        given.algo = "barpo"
        argv += ["--algo", given.algo]
    if given.algo not in ALGORITHMS or given.help:
        return argv
    if command == "train":
        return argv + _prepare_training(given)
    if given.folder is None and command != "load_from_hub":
        argv += ["--folder", "logs"]
    return argv


def launch(command: str, argv: Sequence[str]) -> None:
    """
    Start one of the Zoo's programs, with nothing completed or checked.

    :param command: One of :data:`COMMANDS`.
    :param argv: Its arguments.
    """
    original = sys.argv
    sys.argv = [command, *argv]
    try:
        with _hub() if command == "push_to_hub" else contextlib.nullcontext():
            runpy.run_module(f"rl_zoo3.{command}", run_name="__main__", alter_sys=True)
    finally:
        sys.argv = original


def check_settings(algo: str, settings: Mapping[str, Any]) -> None:
    """
    Check an entry of a file of settings, as the Zoo reads it.

    :param algo: One of :data:`ALGORITHMS`.
    :param settings: The entry.
    :raises ValueError: for a key that neither the Zoo nor the algorithm takes, a number written as text, a schedule in
        the wrong grammar.
    :raises TypeError: for a strength that is nothing of the kind.
    """
    known = _ZOO_KEYS | _arguments(algo)
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
    for key in ("epsilon", *algorithm(algo).defence.loss.schedules()):  # type: ignore[attr-defined]  # one of ours
        if settings.get(key) is not None:
            as_schedule(settings[key])


def _require_zoo() -> None:
    # `requests` is imported by the Zoo without being among its requirements.
    missing = [name for name in ("rl_zoo3", "requests") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f'The RL Zoo\'s commands need {" and ".join(missing)}: pip install "sb3-barpo[zoo]"')


def _given(argv: Sequence[str]) -> argparse.Namespace:
    """What of the Zoo's arguments matters here. It takes abbreviations, and so does this."""
    from rl_zoo3.utils import StoreDict

    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--algo")
    parser.add_argument("--env", default="CartPole-v1")  # the Zoo's default
    parser.add_argument("-f", "--folder")
    parser.add_argument("-conf", "--conf-file")
    parser.add_argument("-params", "--hyperparams", nargs="+", action=StoreDict)
    parser.add_argument("--env-kwargs", nargs="+", action=StoreDict)
    parser.add_argument("--gym-packages", nargs="+", default=[])
    parser.add_argument("-n", "--n-timesteps", type=int)
    parser.add_argument("--eval-freq")
    parser.add_argument("--storage")
    parser.add_argument("--study-name")
    parser.add_argument("--trial-id", type=int)
    try:
        return parser.parse_known_args(argv)[0]
    except (NameError, SyntaxError) as error:
        raise ValueError(
            "The RL Zoo reads the values of -params and --env-kwargs as Python, and in one of them there is an error: "
            f"{error}. A text needs quotes of its own: -params \"epsilon:'ramp_0.05'\"."
        ) from error


def _prepare_training(given: argparse.Namespace) -> list[str]:
    """:return: The arguments to add."""
    if given.trial_id == 0:
        raise ValueError(
            "The RL Zoo takes --trial-id 0 for 'none given'. It counts as Python does, so name the trial from the end: "
            "the first of 20 trials is --trial-id -20."
        )
    added = []
    if given.conf_file is None:
        # A module, not a path: it is recorded with the agent, which may be uploaded.
        given.conf_file = f"sb3_barpo.hyperparams.{given.algo}"
        added += ["--conf-file", given.conf_file]
    if given.n_timesteps and 0 < given.n_timesteps < _EVAL_FREQ and given.eval_freq is None:
        added += ["--eval-freq", str(max(given.n_timesteps // 2, 1000))]
    for package in ["rl_zoo3.import_envs", *given.gym_packages]:
        importlib.import_module(package)
    if given.env in gymnasium.registry:  # if not, the Zoo says so, and what may have been meant
        settings = _read_settings(given)
        check_settings(given.algo, settings)
        if settings.get("env_kwargs") and not given.env_kwargs:
            added += ["--env-kwargs", *(f"{key}:{value!r}" for key, value in settings["env_kwargs"].items())]
    return added


def _read_settings(given: argparse.Namespace) -> dict[str, Any]:
    """The entry of the environment, as the Zoo reads it: with what the arguments and a study's trial change."""
    from rl_zoo3.exp_manager import ExperimentManager

    manager = ExperimentManager(
        given,
        given.algo,
        given.env,
        log_folder=given.folder or "logs",
        hyperparams=given.hyperparams,
        env_kwargs=given.env_kwargs,
        storage=given.storage,
        study_name=given.study_name,
        config=given.conf_file,
        trial_id=given.trial_id,
    )
    with contextlib.redirect_stdout(io.StringIO()):  # the Zoo is about to print the same
        settings, _ = manager.read_hyperparameters()
    return dict(settings)


@functools.cache
def _arguments(algo: str) -> frozenset[str]:
    """The names of an algorithm's arguments, those of the one on which it builds among them."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    signatures = (inspect.signature(algorithm(name)).parameters for name in (algo, ALGORITHMS[algo]))
    names = {name for parameters in signatures for name, p in parameters.items() if p.kind not in variadic}
    # The Zoo gives these by itself.
    given = {"env", "_init_setup_model", "tensorboard_log", "seed", "verbose", "device"}
    return frozenset(names - given | set(OURS[algo].settings))


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


def model_card(text: str) -> str:
    """
    :param text: A model card as the Zoo writes it.
    :return: The card; for our algorithms with the commands that know them.
    """
    ours = re.sub(rf"python -m rl_zoo3\.(\w+)(?= --algo (?:{'|'.join(OURS)}) )", r"python -m sb3_barpo \1", text)
    return text if ours == text else ours.replace("pip install rl_zoo3", 'pip install "sb3-barpo[zoo]"')


@contextlib.contextmanager
def _hub() -> Iterator[None]:
    """Within, the Zoo's upload works and its model card names our commands."""
    from huggingface_hub import repocard

    # Not by `from`: the package has a function of the same name.
    uploads = importlib.import_module("huggingface_sb3.push_to_hub")
    save = repocard.metadata_save

    # The Zoo's own function for the card cannot be replaced, since the program that calls it defines it. This one adds
    # the figures to the card, last before the upload.
    def save_ours(local_path: str | Path, data: dict[str, Any]) -> None:
        path = Path(local_path)
        path.write_text(model_card(path.read_text(encoding="utf-8")), encoding="utf-8")
        save(local_path, data)

    # The Zoo imports it by its name of before sb3-team-hf-integration 3.2, and wants a dict of it.
    renamed = not hasattr(uploads, "generate_metadata")
    if renamed:
        uploads.generate_metadata = lambda *args: uploads._generate_metadata(*args).to_dict()  # type: ignore[attr-defined]
    repocard.metadata_save = save_ours
    try:
        yield
    finally:
        repocard.metadata_save = save
        if renamed:
            del uploads.generate_metadata
