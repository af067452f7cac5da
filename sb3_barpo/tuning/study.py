"""Studies of the settings of a defence or of PPO: how they are stored, opened and resumed."""

from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from sb3_barpo.tuning.storage import open_storage
from sb3_barpo.tuning.trials import Tuning

_SETTINGS, ERROR = "settings", "error"
#: A setting that is not given.
_UNSET = "not set"
#: Seconds to wait for the settings of a study that another process has just created.
_PATIENCE = 10.0


def open_study(tuning: Tuning, storage: str | Path, name: str) -> optuna.Study:
    """
    The study of this name, made if it is missing. The one who makes it enqueues the paper's setting as its first trial,
    if the space holds it, with the agent's own settings of PPO, or what is closest to those in the space.

    :param tuning: What its trials do.
    :param storage: See :func:`sb3_barpo.tuning.storage.open_storage`.
    :param name: The study's name.
    :return: The study.
    :raises ValueError: if there is one of this name with other settings.
    """
    backend = open_storage(storage)
    pruner = tuning.make_pruner()
    directions = [StudyDirection.MAXIMIZE] * len(tuning.criterion.values)
    try:
        study = optuna.create_study(storage=backend, study_name=name, directions=directions, pruner=pruner)
    except DuplicatedStudyError:
        study = optuna.load_study(storage=backend, study_name=name, pruner=pruner)
        _check_settings(study, tuning)
        return study
    with suppress(ValueError):  # without it by the user's choice; the winners are compared with it all the same
        study.enqueue_trial(*tuning.first())
    study.set_user_attr(_SETTINGS, tuning.to_spec())  # last: who finds them finds the whole study
    return study


def load_study(storage: str | Path, name: str) -> optuna.Study:
    """
    :param storage: See :func:`sb3_barpo.tuning.storage.open_storage`.
    :param name: The study's name.
    :return: The study, which must exist.
    :raises ValueError: if it does not exist, or was not created by this package.
    """
    if "://" not in str(storage) and not Path(storage).exists():
        raise ValueError(f"There is no study {name!r}: there is no journal {str(storage)!r}. Tune one first.")
    backend = open_storage(storage)
    names = [summary.study_name for summary in optuna.get_all_study_summaries(backend)]
    if name not in names:
        held = f"holds {', '.join(names)}" if names else "is empty"
        raise ValueError(f"There is no study {name!r}: the storage {held}. Name one of these, or tune one first.")
    study = optuna.load_study(storage=backend, study_name=name)
    stored_tuning(study)
    return study


def stored_tuning(study: optuna.Study) -> Tuning:
    """
    :param study: A study.
    :return: What its trials do.
    :raises ValueError: if the study was not created by this package.
    """
    if _SETTINGS not in study.user_attrs:
        raise ValueError(
            f"The study {study.study_name!r} was not created by sb3_barpo: it does not store what its trials do. Name "
            "another study."
        )
    return Tuning.from_spec(study.user_attrs[_SETTINGS])


def _check_settings(study: optuna.Study, tuning: Tuning) -> None:
    if len(study.directions) != len(tuning.criterion.values):
        raise ValueError(
            f"The study {study.study_name!r} has {len(study.directions)} objectives, but {tuning.criterion.kind} has "
            f"{len(tuning.criterion.values)}. Choose another name for a new study, or the study's own criterion."
        )
    patience = monotonic() + _PATIENCE  # who has just made it may not have said yet what its trials do
    while _SETTINGS not in study.user_attrs and monotonic() < patience:
        sleep(0.2)
    stored, asked = stored_tuning(study).to_spec(), tuning.to_spec()
    if differing := differences(stored, asked):
        raise ValueError(
            f"The study {study.study_name!r} was created with other settings: {'; '.join(differing)}. Trials of both "
            "cannot be compared: choose another name, or the same settings."
        )


def differences(stored: Any, asked: Any, path: str = "") -> list[str]:
    """
    :param stored: Settings, such as JSON can hold.
    :param asked: Others.
    :param path: Where they belong.
    :return: One sentence for each setting that differs: ``agent.steps was 100, now it is 200``.
    """
    if isinstance(stored, dict) and isinstance(asked, dict):
        keys = list(dict.fromkeys([*stored, *asked]))
        parts = ((stored.get(key, _UNSET), asked.get(key, _UNSET), f"{path}.{key}".lstrip(".")) for key in keys)
        return [line for part in parts for line in differences(*part)]
    return [] if stored == asked else [f"{path} was {stored}, now it is {asked}"]


def state_name(trial: FrozenTrial) -> str:
    """:return: The trial's state as users know it: Optuna's, but a failed trial without an error was interrupted."""
    interrupted = trial.state == TrialState.FAIL and ERROR not in trial.user_attrs
    return "interrupted" if interrupted else trial.state.name.lower()


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """:return: The trials that are complete or pruned."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
