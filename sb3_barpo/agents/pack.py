"""A model and its environments as bytes, to be rebuilt in another process."""

import inspect
import io
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper


def pack(model: OnPolicyAlgorithm, venv: VecEnv) -> bytes:
    """
    :param model: An agent.
    :param venv: Its environments.
    :return: Both as bytes, for :func:`unpack`.
    :raises TypeError: if the environments cannot be pickled.
    """
    weights = io.BytesIO()
    model.save(weights)
    # Layer by layer: VecNormalize drops what it wraps when it is pickled, and other wrappers look for it too early.
    layers: list[tuple[type[VecEnvWrapper], dict[str, Any]]] = []
    while isinstance(venv, VecEnvWrapper):
        state = {name: value for name, value in vars(venv).items() if name not in ("venv", "class_attributes")}
        layers.append((type(venv), state))
        venv = venv.venv
    try:
        content: bytes = cloudpickle.dumps((type(model), model.device, weights.getvalue(), layers, venv))
    except Exception as error:  # pickling runs the environments' own code
        raise TypeError(
            f"The environments {type(venv).__name__} cannot be copied to the processes that fit attacks: {error}. "
            "Make them by make_vec_env with DummyVecEnv, its default, and without rendering."
        ) from error
    return content


def unpack(content: bytes) -> tuple[OnPolicyAlgorithm, VecEnv]:
    """
    :param content: What :func:`pack` returned.
    :return: The agent and its environments, independent of the originals.
    """
    algorithm, device, weights, layers, venv = cloudpickle.loads(content)
    for kind, state in reversed(layers):
        layer = kind.__new__(kind)
        layer.__dict__.update(state, venv=venv, class_attributes=dict(inspect.getmembers(kind)))
        venv = layer
    return algorithm.load(io.BytesIO(weights), env=venv, device=device), venv
