"""
The RL Zoo's own programs, with our algorithms registered: :func:`run` starts one as ``python -m rl_zoo3.<command>``
would.
"""

import argparse
import contextlib
import importlib
import io
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sb3_barpo.algorithms import OURS
from sb3_barpo.environments import find_env
from sb3_barpo.resume import check_writable
from sb3_barpo.sensors import EPSILON_OF_SHEET
from sb3_barpo.zoo import robust_eval
from sb3_barpo.zoo.hub import upload
from sb3_barpo.zoo.registration import register
from sb3_barpo.zoo.settings import check_settings

#: The Zoo's programs that know algorithms, and what they do. Its plots need no registration.
COMMANDS = {
    "train": "train an agent with the RL Zoo, or tune PPO's settings",
    "enjoy": "watch a trained agent, print its returns",
    "record_video": "record a trained agent",
    "record_training": "record an agent's checkpoints, one after the other",
    "push_to_hub": "upload an agent to the Hugging Face Hub",
    "load_from_hub": "download an agent",
}
#: Those that make environments.
_WITH_ENVIRONMENTS = {"train", "enjoy", "record_video", "record_training", "push_to_hub"}
#: Those that take ``--gym-packages``.
_WITH_PACKAGES = {"train", "enjoy"}
#: Those that load an agent.
_WITH_AGENTS = {"enjoy", "record_video", "push_to_hub"}
#: The Zoo evaluates as often as this. A shorter run would end without a best model.
_EVAL_FREQ = 25_000


def run(command: str, argv: Sequence[str]) -> None:
    """
    Run one of the Zoo's programs.

    :param command: One of :data:`COMMANDS`.
    :param argv: Its arguments.
    :raises ValueError: for an unknown command, a missing package, or arguments or settings that :func:`prepare`
        refuses. Errors of the program itself are not caught.
    """
    argv = prepare(command, argv)
    check_agent(command, argv)
    launch(command, argv)


def prepare(command: str, argv: Sequence[str]) -> list[str]:
    """
    Register our algorithms, complete the arguments of one of the Zoo's programs, and check the settings before anything
    runs.

    Defaults that are added: ``--algo barpo``; for our algorithms ``--folder logs`` in commands that load agents, and in
    ``train`` this package's ``--conf-file``, the entry's ``env_kwargs`` as ``--env-kwargs`` (the Zoo would not pass
    them to the evaluation environment), and in short runs an ``--eval-freq`` that leaves a best model.

    :param command: One of :data:`COMMANDS`.
    :param argv: Its arguments.
    :return: The arguments, completed.
    :raises ValueError: for an unknown command, a missing package, ``--trial-id 0``, which the Zoo ignores, values that
        are not valid Python, or settings that the algorithm does not have.
    :raises TypeError: for a strength that is neither a number nor a schedule.
    :raises OSError: if there is no such file of settings, or the folder of agents cannot be written.
    """
    if command not in COMMANDS:
        raise ValueError(f"Unknown command {command!r}. The RL Zoo's are {', '.join(COMMANDS)}.")
    register()
    argv = list(argv)
    given = _given(argv)
    if given.algo is None:
        given.algo = "barpo"
        argv += ["--algo", given.algo]
    if given.help:
        if command == "train":
            robust_eval.parser().print_help()
        return argv
    if command == "train":
        robust_eval.split(argv)  # raises for values that do not fit
    if command in _WITH_ENVIRONMENTS:
        argv += _prepare_environment(command, given)
    if given.algo not in OURS:
        return argv
    if command == "train":
        return argv + _prepare_training(given)
    if given.folder is None and command != "load_from_hub":
        argv += ["--folder", "logs"]
    return argv


def check_agent(command: str, argv: Sequence[str]) -> None:
    """
    Check that there is an agent for the programs that load one of ours. The Zoo alone would look for it on the Hub.

    :param command: One of :data:`COMMANDS`.
    :param argv: Its arguments, as :func:`prepare` returned them.
    :raises ValueError: if there is none.
    """
    given = _given(argv)
    if command not in _WITH_AGENTS or given.algo not in OURS or given.help:
        return
    from huggingface_sb3 import EnvironmentName  # type: ignore[import-untyped]
    from rl_zoo3.utils import get_model_path

    which = {"load_best": given.load_best, "load_checkpoint": given.load_checkpoint}
    which["load_last_checkpoint"] = given.load_last_checkpoint
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            get_model_path(given.exp_id, given.folder, given.algo, EnvironmentName(given.env), **which)
    except (ValueError, AssertionError) as error:
        raise ValueError(
            f"There is no such agent of {given.algo} on {given.env}: {error}. Train one with `sb3-barpo train --algo "
            f"{given.algo} --env {given.env}`, or name its folder by --folder and --exp-id."
        ) from error


def launch(command: str, argv: Sequence[str]) -> None:
    """
    Start one of the Zoo's programs, with nothing completed or checked.

    :param command: One of :data:`COMMANDS`.
    :param argv: Its arguments.
    """
    original = sys.argv
    around: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if command == "push_to_hub":
        around = upload()
    elif command == "train":
        own, argv = robust_eval.split(argv)
        around = robust_eval.robust_evaluation(own)
    sys.argv = [command, *argv]
    try:
        with around:
            runpy.run_module(f"rl_zoo3.{command}", run_name="__main__", alter_sys=True)
    finally:
        sys.argv = original


def _given(argv: Sequence[str]) -> argparse.Namespace:
    """The Zoo's arguments that are needed here. Abbreviations work, as in the Zoo."""
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
    parser.add_argument("--exp-id", type=int, default=0)
    parser.add_argument("--load-best", action="store_true")
    parser.add_argument("--load-checkpoint")
    parser.add_argument("--load-last-checkpoint", action="store_true")
    try:
        return parser.parse_known_args(argv)[0]
    except (NameError, SyntaxError) as error:
        raise ValueError(
            "The RL Zoo reads the values of -params and --env-kwargs as Python, and in one of them there is an error: "
            f"{error}. A text needs quotes of its own: -params \"epsilon:'ramp_0.05'\"."
        ) from error


def _prepare_environment(command: str, given: argparse.Namespace) -> list[str]:
    """:return: The arguments to add, so that the Zoo finds an environment ``mymod:My-v0``."""
    find_env(given.env, given.gym_packages)
    module, _, name = given.env.rpartition(":")
    if not module:
        return []
    given.env = name
    # The program runs in this process, where the module is imported by now. The Zoo's record names it for later.
    return ["--env", name, *(["--gym-packages", *given.gym_packages, module] if command in _WITH_PACKAGES else [])]


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
        if (given.hyperparams or {}).get("sensors") is not None and "epsilon" not in given.hyperparams:
            # The entry's is in units of normalised observations; of a sheet it would be a small share.
            given.hyperparams["epsilon"] = EPSILON_OF_SHEET
            added += ["--hyperparams", *(f"{key}:{value!r}" for key, value in given.hyperparams.items())]
    if given.n_timesteps and 0 < given.n_timesteps < _EVAL_FREQ and given.eval_freq is None:
        added += ["--eval-freq", str(max(given.n_timesteps // 2, 1000))]
    if given.storage and "://" not in given.storage and not os.path.isabs(given.storage):
        # A relative journal's lock, left behind by a killed worker, would never be broken; see tuning.storage.
        given.storage = os.path.abspath(given.storage)
        added += ["--storage", given.storage]
    check_writable(Path(given.folder or "logs"))
    importlib.import_module("rl_zoo3.import_envs")
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
