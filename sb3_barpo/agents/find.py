"""Which file of a folder is the agent, which are its statistics, and which environment it was trained on."""

import json
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

from sb3_barpo.agents import zoo_envs
from sb3_barpo.algorithms import ALGORITHMS

#: Names of files that say nothing about the agent in them.
_FINAL, _BEST = ["agent", "model"], ["best_robust_model", "best_model"]
WHICH = ["last", "best"]
_RECORDS = ["args.yml", "config.yml", "vecnormalize.pkl"]
#: What a repository of the Hugging Face Hub holds beside the agent, also as a ``.zip``.
_METRICS = "train_eval_metrics.zip"


def plain(env_id: str) -> str:
    """:return: The environment's name in RL Zoo's files."""
    return env_id.rpartition(":")[2].replace("/", "-")


def records_of(folder: Path, env_id: str) -> Path:
    """
    :param folder: The agent's folder.
    :param env_id: Id of the environment.
    :return: RL Zoo's folder of records and statistics there: named after the environment, or the only one there is, if
        the agent was trained on a former version of it.
    """
    own = folder / plain(env_id)
    if own.is_dir() or not folder.is_dir():
        return own
    others = [one for one in sorted(folder.iterdir()) if any((one / name).is_file() for name in _RECORDS)]
    return others[0] if len(others) == 1 else own


def stem_of(file: Path) -> str:
    """:return: The file's name without ``.zip``. Not ``Path.stem``: a name may have dots of its own."""
    return file.name.removesuffix(".zip")


def name_of(file: Path, env_id: str) -> str:
    """:return: The file's name, or its folder's if the file's says nothing about the agent."""
    stem, folder = stem_of(file), file.resolve().parent
    return folder.name if stem in [*_FINAL, *_BEST, plain(env_id), records_of(folder, env_id).name] else stem


def find_file(path: Path, env_id: str, which: str | None = None) -> Path:
    """
    :param path: A ``.zip`` file, its path without the ending, or a folder.
    :param env_id: Id of the environment.
    :param which: Of a folder, ``"last"`` (the default) for the agent at the end of training, ``"best"`` for
        ``best_robust_model.zip`` or, where there is none, ``best_model.zip``.
    :return: The agent's file.
    :raises OSError: if there is none.
    :raises ValueError: for another ``which``, or one for a path that is no folder.
    """
    if which not in (None, *WHICH):
        raise ValueError(f"which must be one of {', '.join(WHICH)}, but it is {which!r}.")
    # Files before the folder, since RL Zoo puts a folder of the same name beside its agent.
    for file in (path, Path(f"{path}.zip")):
        if file.is_file():
            if which is not None:
                raise ValueError(f"which={which!r} chooses among the files of a folder, but {str(file)!r} is a file.")
            return file
    stems = [*_FINAL, plain(env_id), records_of(path, env_id).name, *_BEST]
    names = [f"{stem}.zip" for stem in (_BEST if which == "best" else dict.fromkeys(stems))]
    for name in names:
        if (path / name).is_file():
            return path / name
    if which != "best" and (hub := _from_the_hub(path)) is not None:
        return hub
    if path.is_dir():
        raise FileNotFoundError(f"The folder {str(path)!r} holds none of {', '.join(names)}. Name the agent's file.")
    raise FileNotFoundError(f"There is no agent {str(path)!r}. Name a .zip file that model.save has written.")


def _from_the_hub(folder: Path) -> Path | None:
    """The agent of a folder that was downloaded from the Hugging Face Hub: ``<algo>-<env>.zip``, the only one."""
    files = [file for file in folder.glob("*.zip") if file.name != _METRICS]
    return files[0] if len(files) == 1 and files[0].name.partition("-")[0] in ALGORITHMS else None


def find_env(path: Path) -> str:
    """
    :param path: The agent's file or folder.
    :return: Id of the environment that RL Zoo's records or ``agent.json`` beside it name.
    :raises OSError: if there is no such path.
    :raises ValueError: if they name none, or several.
    """
    folder = path if path.is_dir() else path.parent
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no agent {str(path)!r}. Name a .zip file that model.save has written.")
    if (record := folder / "agent.json").is_file():
        return str(json.loads(record.read_text(encoding="utf-8"))["env"])
    places = [folder, *sorted(one for one in folder.iterdir() if one.is_dir())]
    found = {env for place in places if (env := _named_by(place, folder)) is not None}
    hub = path if path.is_file() else _from_the_hub(folder)
    if not found and hub is not None and (parts := stem_of(hub).partition("-"))[0] in ALGORITHMS:
        found = {parts[2]} - {""}
    if len(found) != 1:
        named = f"the records beside it name {', '.join(sorted(found))}" if found else "no record says so"
        raise ValueError(f"On which environment was {str(path)!r} trained? Name it by env: {named}.")
    return found.pop()


def _named_by(place: Path, folder: Path) -> str | None:
    """
    The environment that RL Zoo's records in a place name. Where the agent beside is called otherwise, its name counts:
    SB3's own ``Pendulum-v1`` was renamed, its records were not.
    """
    env_id = zoo_envs.env_id(place)
    renamed = env_id is not None and plain(env_id) != place.name and (folder / f"{place.name}.zip").is_file()
    return place.name if renamed else env_id


def was_normalised(file: Path, records: Sequence[Path]) -> bool | None:
    """
    :param file: The agent's file.
    :param records: RL Zoo's records of it.
    :return: Whether it was trained under ``VecNormalize``, ``None`` if neither the file nor a record says so.
    """
    with zipfile.ZipFile(file) as archive:
        recorded = json.loads(archive.read("data")).get("vec_normalize")
    if isinstance(recorded, bool):
        return recorded
    if (ours := file.parent / "agent.json").is_file():
        return bool(json.loads(ours.read_text(encoding="utf-8")).get("normalize"))
    return zoo_envs.normalised(records)


def find_statistics(
    file: Path, zoo: Path, given: str | Path | None, normalised: bool | None
) -> tuple[Path | None, str]:
    """
    :param file: The agent's file.
    :param zoo: The folder in which RL Zoo keeps its statistics.
    :param given: The file of the statistics, ``"none"`` for none, ``None`` to look for it.
    :param normalised: Whether the agent was trained under ``VecNormalize``, ``None`` if unknown.
    :return: The file of the statistics, if any, and one line on what was assumed, empty for nothing.
    :raises OSError: if the given file does not exist.
    :raises ValueError: if the agent needs statistics and there are none, or it is not clear which are its own.
    """
    if given == "none":
        return None, "VecNormalize switched off by the caller, though it was trained with it" if normalised else ""
    if given is not None:
        if not Path(given).is_file():
            raise FileNotFoundError(
                f"There are no statistics {str(given)!r}. Name the file that VecNormalize.save has written, or 'none'."
            )
        return Path(given), ""
    stem = stem_of(file)
    checkpoint = re.sub(r"_(\d+_steps)$", r"_vecnormalize_\1", stem)  # as SB3's CheckpointCallback names them
    # The agent's own before those that several agents of one folder may share.
    names = [f"{stem}-vecnormalize", f"{stem}_vecnormalize", checkpoint, "vecnormalize", "vec_normalize"]
    places = [*(file.parent / f"{name}.pkl" for name in names), zoo / "vecnormalize.pkl"]
    if (usual := next((place for place in places if place.is_file()), None)) is not None:
        return usual, ""
    if normalised is False:
        return None, ""
    others = [place for folder in dict.fromkeys([file.parent, zoo]) for place in _statistics_in(folder, file)]
    if len(others) == 1:
        return others[0], f"{others[0].name} beside it was assumed to hold its statistics of VecNormalize"
    if others or normalised:
        there = f"there are several beside it: {', '.join(one.name for one in others)}" if others else "none were found"
        raise ValueError(
            f"{str(file)!r} {'was' if normalised else 'may have been'} trained under VecNormalize, whose statistics it "
            f"needs, but {there}. Name their file by vec_normalize, or 'none' to evaluate without them."
        )
    return None, "no statistics of VecNormalize were found, so it was assumed to be trained without"


def _statistics_in(folder: Path, agent: Path) -> list[Path]:
    """Files that hold a pickled ``VecNormalize``, except those named after another agent beside them."""
    others = [stem_of(one) for one in folder.glob("*.zip") if one != agent]
    return [
        file
        for file in sorted(folder.glob("*.pkl"))
        if not any(re.split("[-_]vec_?normalize", file.stem)[0] == other for other in others)
        and b"vec_normalize" in file.read_bytes()[:200]  # the module that the pickle names first
    ]
