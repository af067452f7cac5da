"""
Pretrained agents: folders with an agent, its statistics, attackers, a model card and the SHA-256 of every file.

A folder is called ``<name>-<env>`` and has the files of a repository of the RL Zoo on the Hugging Face Hub:
``<name>-<env>.zip``, ``vec_normalize.pkl``, ``config.yml``, ``args.yml``, ``env_kwargs.yml``,
``train_eval_metrics.zip``, ``README.md``; besides ``results.json``, ``LICENSE``, attackers under ``attacks``, and
``SHA256SUMS``, in the form of the program ``sha256sum``.
"""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from sb3_barpo.agents.find import plain
from sb3_barpo.agents.load import LoadedAgent, load_agent

#: The agents that are installed with this package.
INSTALLED = Path(__file__).parents[1] / "pretrained"
#: Name of the list of SHA-256.
SUMS = "SHA256SUMS"
#: Name of the file of statistics.
STATISTICS = "vec_normalize.pkl"


def load_pretrained(
    name: str,
    env_id: str,
    folder: str | Path | None = None,
    hub: str | None = None,
    revision: str | None = None,
    n_envs: int = 1,
) -> LoadedAgent:
    """
    Load a pretrained agent: one that is installed with this package, or from a folder or the Hugging Face Hub. The
    SHA-256 of every file is compared with the folder's list before anything is unpickled. That shows damage and
    changes, but not whether those who wrote the list are to be trusted: from the Hub, load only what you trust, and pin
    the revision.

    :param name: Name of the agent, usually of its algorithm: ``"barpo"``.
    :param env_id: Id of its environment.
    :param folder: The agent's folder, or the one that holds it as ``<name>-<env_id>``; by default that of the installed
        package.
    :param hub: Organisation on the Hugging Face Hub: the agent is that of the repository ``<hub>/<name>-<env_id>``, as
        the RL Zoo calls it.
    :param revision: Of the repository: a branch, a tag or a commit.
    :param n_envs: Number of environments that step together.
    :return: The agent with its environments, named ``<name>-<env_id>``.
    :raises OSError: if there is no such agent, or the Hub cannot be reached.
    :raises ValueError: if a file is missing, not listed, or not the one that the list names; for both a folder and the
        Hub; or if the agent cannot be loaded, see :func:`sb3_barpo.agents.load.load_agent`.
    :raises ImportError: for the Hub, if huggingface_hub is not installed.
    """
    if folder is not None and hub is not None:
        raise ValueError(f"An agent comes from a folder or from the Hub, but both are given: {str(folder)!r}, {hub!r}.")
    stem = f"{name}-{plain(env_id)}"
    place = _downloaded(f"{hub}/{stem}", revision) if hub is not None else _found(Path(folder or INSTALLED), stem)
    listed = verify(place)
    if f"{stem}.zip" not in listed:
        raise ValueError(f"{str(place)!r} lists no {stem}.zip: it is the folder of another agent.")
    statistics = place / STATISTICS if STATISTICS in listed else None
    return load_agent(place / f"{stem}.zip", env_id, n_envs, vec_normalize=statistics)


def pretrained(folder: str | Path | None = None) -> list[str]:
    """
    :param folder: The folder that holds the agents, by default that of the installed package.
    :return: The names of the agents' folders, ``<name>-<env>``.
    """
    return sorted(path.parent.name for path in Path(folder or INSTALLED).glob(f"*/{SUMS}"))


def verify(folder: Path) -> list[str]:
    """
    Compare every file of an agent's folder with its list of SHA-256. Hidden files are left out.

    :param folder: The folder.
    :return: The files that it lists, relative to the folder.
    :raises ValueError: if a file is missing, not listed, or has another SHA-256 than the listed one.
    :raises OSError: if there is no list.
    """
    listed = _read(folder / SUMS)
    for name, expected in listed.items():
        file = folder / name
        if not file.is_file():
            raise ValueError(f"{SUMS} lists {name!r}, but {str(file)!r} is missing. Install or download it again.")
        found = digest(file)
        if found != expected:
            raise ValueError(
                f"{str(file)!r} is not the file that {SUMS} lists: its SHA-256 is {found}, but {expected} was "
                "expected. It is damaged or was changed, and nothing of it was loaded. Install or download it again."
            )
    others = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    hidden = [name.as_posix() for name in others if not any(part.startswith(".") for part in name.parts)]
    if unknown := sorted(set(hidden) - {SUMS, *listed}):
        raise ValueError(
            f"{SUMS} does not list {', '.join(unknown)} in {str(folder)!r}, so nothing of it was loaded. Remove what "
            "does not belong there."
        )
    return list(listed)


def write_sums(folder: Path) -> None:
    """:param folder: An agent's folder, of whose files the list is written."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    lines = [f"{digest(folder / name)}  {name}" for name in names if name != SUMS]
    (folder / SUMS).write_text("\n".join(lines) + "\n", encoding="utf-8")


def digest(file: Path) -> str:
    """:return: The file's SHA-256, in hexadecimal."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _read(file: Path) -> dict[str, str]:
    """SHA-256 by name."""
    if not file.is_file():
        raise FileNotFoundError(
            f"There is no {str(file)!r}, without which files are not loaded as pretrained. If you trust them, load the "
            "agent by load_agent."
        )
    listed = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        match = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)
        path = PurePosixPath(match[2]) if match else None
        if match is None or path is None or path.is_absolute() or ".." in path.parts:
            raise ValueError(
                f"{str(file)!r} must list a SHA-256 and a file of its folder in each line, but not {line!r}."
            )
        listed[match[2]] = match[1]
    return listed


def _found(folder: Path, stem: str) -> Path:
    for place in (folder / stem, folder):
        if (place / SUMS).is_file() or (place / f"{stem}.zip").is_file():
            return place
    raise FileNotFoundError(f"There is no pretrained agent {stem!r} in {str(folder)!r}. {_there(pretrained(folder))}")


def _there(names: Iterable[str]) -> str:
    listed = ", ".join(names)
    return f"There are {listed}." if listed else "It holds none."


def _downloaded(repo_id: str, revision: str | None) -> Path:
    """The folder of a repository, of which only the listed files are fetched."""
    try:
        from huggingface_hub import hf_hub_download, snapshot_download
    except ImportError as error:
        raise ImportError('Agents from the Hub need huggingface_hub: pip install "sb3-barpo[zoo]"') from error
    try:
        sums = hf_hub_download(repo_id, SUMS, revision=revision)
    except Exception as error:  # of many kinds: no such repository, no such file, no network
        raise OSError(
            f"{SUMS} of {repo_id!r} cannot be fetched from the Hugging Face Hub: {error}. Files without such a list "
            "are not loaded as pretrained; if you trust them, download them and load the agent by load_agent."
        ) from error
    return Path(snapshot_download(repo_id, revision=revision, allow_patterns=[SUMS, *_read(Path(sums))]))
