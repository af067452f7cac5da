"""What an attack knows of its victim: who it is, how it acts, and how to leave it as it was."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize, unwrap_vec_normalize

from sb3_barpo.attacks.memory import Memory
from sb3_barpo.policies.views import evaluation_mode
from sb3_barpo.vec_envs import early_resets


def victim_digest(model: OnPolicyAlgorithm) -> str:
    """:return: A fingerprint of the policy: its spaces and its weights, bit for bit."""
    digest = hashlib.sha256(f"{model.observation_space} {model.action_space}".encode())
    for name, value in sorted(model.policy.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def normalizer_digest(venv: VecEnv) -> str | None:
    """:return: A fingerprint of the observations' normalisation, ``None`` without one."""
    layer = unwrap_vec_normalize(venv)
    if layer is None or not layer.norm_obs:
        return None
    digest = hashlib.sha256(f"{layer.epsilon} {layer.clip_obs}".encode())
    statistics = layer.obs_rms if isinstance(layer.obs_rms, dict) else {"": layer.obs_rms}
    for name, moments in sorted(statistics.items()):
        assert isinstance(moments, RunningMeanStd)
        digest.update(name.encode() + moments.mean.tobytes() + moments.var.tobytes())
    return digest.hexdigest()


@contextmanager
def undisturbed(model: OnPolicyAlgorithm, venv: VecEnv) -> Iterator[None]:
    """
    Within, the statistics of every ``VecNormalize`` are frozen, rewards are not normalised, the policy is in evaluation
    mode, and SB3's ``Monitor`` allows early resets. Afterwards all of this and the global generators of Python, NumPy
    and torch are as before, even after an error.

    :param model: The model that is attacked or evaluated.
    :param venv: Its environments.
    """
    layers = list(_normalizations(venv))
    switches = [(layer.training, layer.norm_reward) for layer in layers]
    # SB3's algorithms seed all three.
    of_python, of_numpy = random.getstate(), np.random.get_state()
    devices = [model.device] if model.device.type == "cuda" else []
    try:
        for layer in layers:
            layer.training = layer.norm_reward = False
        # Attacks take gradients, which th.inference_mode() forbids even to th.enable_grad().
        with (
            th.inference_mode(False),
            evaluation_mode(model.policy),
            th.random.fork_rng(devices=devices),
            early_resets(venv),
        ):
            yield
    finally:
        for layer, (training, norm_reward) in zip(layers, switches, strict=True):
            layer.training, layer.norm_reward = training, norm_reward
        random.setstate(of_python)
        np.random.set_state(of_numpy)


def _normalizations(venv: VecEnv) -> Iterator[VecNormalize]:
    layer = venv
    while isinstance(layer, VecEnvWrapper):
        if isinstance(layer, VecNormalize):
            yield layer
        layer = layer.venv


def sample_actions(
    model: OnPolicyAlgorithm, observations: np.ndarray, memory: Memory | None = None
) -> tuple[th.Tensor, np.ndarray]:
    """
    What the victim does when it explores, in two forms.

    :param model: The victim.
    :param observations: As the policy sees them, shape ``(B, *obs)``.
    :param memory: What a recurrent victim remembers.
    :return: Actions as the policy emits them, shape ``(B, *action)``, and as the environment takes them.
    """
    policy = model.policy
    answering: Any = policy if memory is None else memory.policy
    with th.no_grad():
        emitted: th.Tensor = answering.get_distribution(policy.obs_to_tensor(observations)[0]).get_actions()
    taken = emitted.cpu().numpy()
    if isinstance(policy.action_space, spaces.Box):
        taken = taken.reshape(-1, *policy.action_space.shape)
        low, high = policy.action_space.low, policy.action_space.high
        taken = policy.unscale_action(taken) if policy.squash_output else np.clip(taken, low, high)
    return emitted, taken
