"""Loads saved agents with their environments."""

import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecNormalize

from sb3_barpo.agents import find, zoo_envs
from sb3_barpo.algorithms import ALGORITHMS, Algorithm, recognize
from sb3_barpo.algorithms import find as find_algorithm
from sb3_barpo.environments import build


@dataclass(frozen=True)
class LoadedAgent:
    """
    An agent, ready to be evaluated. ``name, model, venv = load_agent(...)`` works too.

    :param name: The name of the file, or that of its folder if the file's is a common one such as ``agent.zip``.
    :param model: The agent, on the CPU.
    :param venv: Its environments, normalised by the agent's statistics, which are frozen.
    :param file: The agent's file, an empty path for one that was not loaded from any.
    :param env_id: Id of its environment.
    :param statistics: File of the statistics, ``None`` if there are none.
    :param note: One line on what was assumed, empty for nothing.
    """

    name: str
    model: OnPolicyAlgorithm
    venv: VecEnv
    file: Path = Path()
    env_id: str = ""
    statistics: Path | None = None
    note: str = ""

    def __iter__(self) -> Iterator[Any]:
        return iter((self.name, self.model, self.venv))


def load_agent(
    path: str | Path,
    env_id: str | None = None,
    n_envs: int = 1,
    algo: str | None = None,
    vec_normalize: str | Path | None = None,
    which: str | None = None,
    gym_packages: Sequence[str] = (),
) -> LoadedAgent:
    """
    Load an agent that SB3, the RL Zoo or this package has saved. The environments of the Zoo's agents are rebuilt with
    the wrappers, arguments and frame stacks in its records. Models, statistics and these records are pickles or YAML
    with Python objects, which can run any code: load only files that you trust.

    :param path: A ``.zip`` file, its path without the ending, or a folder with ``agent.zip``, ``model.zip``,
        ``<env_id>.zip``, ``best_robust_model.zip``, ``best_model.zip`` or, from the Hugging Face Hub,
        ``<algo>-<env_id>.zip``, looked for in this order.
    :param env_id: Id of the environment that the agent was trained on, ``My-v0`` or ``mymod:My-v0``; by default the one
        that the RL Zoo's records or ``agent.json`` beside it name.
    :param n_envs: Number of environments that step together.
    :param algo: A name from :data:`sb3_barpo.algorithms.ALGORITHMS`, such as ``"ppo"`` or ``"barpo_lstm"``. By default
        it is inferred from the file. Files of ARPO and BARPO that were saved before they named their algorithm cannot
        be told apart, and act alike: both are loaded as BARPO.
    :param vec_normalize: File with the statistics of ``VecNormalize``, or ``"none"``. By default they are looked for
        beside the agent, under the usual names, and where the RL Zoo saves them. If the agent is known to be trained
        under ``VecNormalize``, they must be found.
    :param which: Of a folder, ``"last"`` (the default) for the agent at the end of training, or ``"best"`` for
        ``best_robust_model.zip``, which ``sb3-barpo train --robust-eval-freq`` keeps by its worst case, or else
        ``best_model.zip``, which SB3's and the RL Zoo's callbacks keep by its return *without* an attack.
    :param gym_packages: Modules to import, which register environments. Those in the Zoo's records are imported too.
    :return: The agent with its environments.
    :raises OSError: if there is no agent, or if ``vec_normalize`` names a file that does not exist.
    :raises ValueError: if the environment or the statistics cannot be inferred from what lies beside the agent; for an
        unknown algorithm, one that is not installed, ``n_envs`` below 1, a file that holds no agent, an agent that does
        not match the algorithm, the environment or the statistics, or an environment of the RL Zoo that cannot be
        rebuilt.
    """
    given = None if algo is None else find_algorithm(algo)
    if n_envs < 1:
        raise ValueError(f"n_envs must be at least 1, but it is {n_envs}. 8 is usual.")
    env_id = find.find_env(Path(path)) if env_id is None else env_id
    file = find.find_file(Path(path), env_id, which)
    kind = _chosen(file, given)
    zoo = find.records_of(file.parent, env_id)
    normalised = find.was_normalised(file, zoo_envs.records([file.parent, zoo]))
    statistics, note = find.find_statistics(file, zoo, vec_normalize, normalised)
    venv, n_frames = _environments(file, [file.parent, zoo], env_id, n_envs, gym_packages)
    try:
        if statistics is not None:
            venv = _normalized(venv, statistics, env_id)
        if n_frames:
            venv = VecFrameStack(venv, n_frames)
        model = _loaded(kind, file, venv, env_id)
        return LoadedAgent(find.name_of(file, env_id), model, venv, file, env_id, statistics, note)
    except BaseException:
        venv.close()
        raise


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


def _environments(
    file: Path, folders: list[Path], env_id: str, n_envs: int, packages: Sequence[str]
) -> tuple[VecEnv, int]:
    """The environments, as the RL Zoo's records say, if any, and how many frames are to be stacked around them."""
    files = zoo_envs.records(folders)
    changes = zoo_envs.changes(files)
    if not changes:
        return build(env_id, n_envs, packages=packages), 0
    try:
        settings = zoo_envs.read(files)
        packages = [*packages, *settings.get("gym_packages", [])]
        return build(env_id, n_envs, settings, packages=packages), settings.get("frame_stack", 0)
    except Exception as error:  # wrappers run their own code
        raise ValueError(
            f"{str(file)!r} was trained with {', '.join(changes)}, says {str(files[0])!r}, and such an environment "
            f'could not be rebuilt: {error}. Install what it needs, RL Zoo at first: pip install "sb3-barpo[zoo]"; or '
            "build it in Python and call evaluate_robustness(model, env)."
        ) from error


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
