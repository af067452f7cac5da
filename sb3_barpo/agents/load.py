"""Loads saved agents with their environments."""

import json
import re
import zipfile
from pathlib import Path
from typing import NamedTuple

from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecNormalize

from sb3_barpo.agents import zoo_envs
from sb3_barpo.algorithms import ALGORITHMS, Algorithm, find, recognize

#: Names of files that say nothing about the agent in them.
_COMMON = ["agent", "best_model", "model"]


class LoadedAgent(NamedTuple):
    """
    An agent, ready to be evaluated.

    :param name: The name of the file, or that of its folder if the file's is a common one such as ``agent.zip``.
    :param model: The agent, on the CPU.
    :param venv: Its environments, normalised by the agent's statistics, which are frozen.
    """

    name: str
    model: OnPolicyAlgorithm
    venv: VecEnv


def load_agent(
    path: str | Path,
    env_id: str,
    n_envs: int = 1,
    algo: str | None = None,
    vec_normalize: str | Path | None = None,
) -> LoadedAgent:
    """
    Load an agent that SB3, the RL Zoo or this package has saved. The environments of the Zoo's agents are rebuilt with
    the wrappers, arguments and frame stacks in its records. Models, statistics and these records are pickles or YAML
    with Python objects, which can run any code: load only files that you trust.

    :param path: A ``.zip`` file, its path without the ending, or a folder with ``agent.zip``, ``best_model.zip``,
        ``model.zip`` or ``<env_id>.zip``, looked for in this order.
    :param env_id: Id of the environment that the agent was trained on.
    :param n_envs: Number of environments that step together.
    :param algo: A name from :data:`sb3_barpo.algorithms.ALGORITHMS`, such as ``"ppo"`` or ``"barpo_lstm"``. By default
        it is inferred from the file. Files of ARPO and BARPO that were saved before they named their algorithm cannot
        be told apart, and act alike: both are loaded as BARPO.
    :param vec_normalize: File with the statistics of ``VecNormalize``, or ``"none"``. By default they are looked for
        beside the agent, under the usual names, and where the RL Zoo saves them.
    :return: The agent with its environments.
    :raises OSError: if there is no agent, or if ``vec_normalize`` names a file that does not exist.
    :raises ValueError: for an unknown algorithm, one that is not installed, ``n_envs`` below 1, a file that holds no
        agent, an agent that does not match the algorithm, the environment or the statistics, or an environment of the
        RL Zoo that cannot be rebuilt.
    """
    given = None if algo is None else find(algo)
    if n_envs < 1:
        raise ValueError(f"n_envs must be at least 1, but it is {n_envs}. 8 is usual.")
    file = _find(Path(path), env_id)
    kind = _chosen(file, given)
    zoo = file.parent / _plain(env_id)
    statistics = _statistics(file, zoo, vec_normalize)
    venv, n_frames = _environments(file, [file.parent, zoo], env_id, n_envs)
    try:
        if statistics is not None:
            venv = _normalized(venv, statistics, env_id)
        if n_frames:
            venv = VecFrameStack(venv, n_frames)
        return LoadedAgent(_name(file, env_id), _loaded(kind, file, venv, env_id), venv)
    except BaseException:
        venv.close()
        raise


def _plain(env_id: str) -> str:
    """The environment's name in RL Zoo's files."""
    return env_id.replace("/", "-")


def _stem(file: Path) -> str:
    return file.name.removesuffix(".zip")  # not Path.stem: a name may have dots of its own


def _name(file: Path, env_id: str) -> str:
    stem = _stem(file)
    return file.resolve().parent.name if stem in [*_COMMON, _plain(env_id)] else stem


def _find(path: Path, env_id: str) -> Path:
    """The agent's file."""
    # Before the folder, since RL Zoo puts a folder of the same name beside its agent.
    for file in (path, Path(f"{path}.zip")):
        if file.is_file():
            return file
    names = [f"{stem}.zip" for stem in [*_COMMON, _plain(env_id)]]
    for name in names:
        if (path / name).is_file():
            return path / name
    if path.is_dir():
        raise FileNotFoundError(f"The folder {str(path)!r} holds none of {', '.join(names)}. Name the agent's file.")
    raise FileNotFoundError(f"There is no agent {str(path)!r}. Name a .zip file that model.save has written.")


def _recognized(file: Path) -> Algorithm | None:
    """The algorithm by the file's content, ``None`` if it cannot be inferred."""
    try:
        with zipfile.ZipFile(file) as archive:
            settings = json.loads(archive.read("data"))
            weights = archive.read("policy.pth")
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ValueError(
            f"{str(file)!r} is no model of Stable-Baselines3: {error}. Name a .zip file that model.save has written."
        ) from error
    # As RecurrentPPO calls its network. Its other settings are PPO's.
    return recognize(settings.get("algorithm"), settings, memory=b"lstm_actor" in weights)


def _chosen(file: Path, given: Algorithm | None) -> type[OnPolicyAlgorithm]:
    """The class to load a file with."""
    recognized = _recognized(file)
    chosen = given or recognized
    if chosen is None:
        raise ValueError(
            f"{str(file)!r} does not look like an agent of {', '.join(ALGORITHMS)}, which are supported. If it is one, "
            "name it by algo."
        )
    if recognized is not None and chosen.memory != recognized.memory:
        raise ValueError(
            f"{str(file)!r} holds an agent of {recognized.name}, judging by its networks, but algo is "
            f"{chosen.name!r}. Name its own algorithm, or none."
        )
    return chosen.load_class()


def _environments(file: Path, folders: list[Path], env_id: str, n_envs: int) -> tuple[VecEnv, int]:
    """The environments, as RL Zoo has built them if it has, and how many frames are to be stacked around them."""
    files = zoo_envs.records(folders)
    if files:
        zoo_envs.register(env_id)
    if not (changes := zoo_envs.changes(files)):
        return make_vec_env(env_id, n_envs), 0
    try:
        return zoo_envs.rebuild(files, env_id, n_envs)
    except Exception as error:  # wrappers run their own code
        raise ValueError(
            f"{str(file)!r} was trained with {', '.join(changes)}, says {str(files[0])!r}, and such an environment "
            f'could not be rebuilt: {error}. Install what it needs, RL Zoo at first: pip install "sb3-barpo[zoo]"; or '
            "build it in Python and call evaluate_robustness(model, env)."
        ) from error


def _statistics(file: Path, zoo: Path, given: str | Path | None) -> Path | None:
    if given == "none":
        return None
    if given is not None:
        if not Path(given).is_file():
            raise FileNotFoundError(
                f"There are no statistics {str(given)!r}. Name the file that VecNormalize.save has written, or 'none'."
            )
        return Path(given)
    stem = _stem(file)
    checkpoint = re.sub(r"_(\d+_steps)$", r"_vecnormalize_\1", stem)  # as SB3's CheckpointCallback names them
    # The agent's own before those that several agents of one folder may share.
    names = [f"{stem}-vecnormalize", f"{stem}_vecnormalize", checkpoint, "vecnormalize", "vec_normalize"]
    places = [*(file.parent / f"{name}.pkl" for name in names), zoo / "vecnormalize.pkl"]
    return next((place for place in places if place.is_file()), None)


def _normalized(venv: VecEnv, statistics: Path, env_id: str) -> VecNormalize:
    try:
        layer = VecNormalize.load(str(statistics), venv)
        layer.training = layer.norm_reward = False
    except Exception as error:  # unpickling runs the file's own code
        raise ValueError(
            f"The statistics {str(statistics)!r} do not fit {env_id}: {error}. Name the environment that the agent was "
            "trained on, and by vec_normalize its own statistics, or 'none'."
        ) from error
    return layer


def _loaded(kind: type[OnPolicyAlgorithm], file: Path, venv: VecEnv, env_id: str) -> OnPolicyAlgorithm:
    try:
        return kind.load(file, env=venv, device="cpu")
    except Exception as error:  # unpickling runs the file's own code
        raise ValueError(
            f"Cannot load {str(file)!r} as {kind.__name__} for {env_id}: {error}. Name the environment that the agent "
            "was trained on, and its algorithm by algo if it was not recognised."
        ) from error
