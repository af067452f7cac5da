"""
Digests of weights after three rollouts, to hold a refactoring to the code before it, bit for bit.

Run it in both checkouts on one machine and compare what it prints: the last bits depend on processor and PyTorch.

    python tests/digests.py > before.json     # in the one
    python tests/digests.py | diff before.json -    # in the other
"""

import hashlib
import itertools
import json
import warnings
from typing import Any

import torch as th
from sights import make_sights
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

import sb3_barpo

SCENES = {
    "box": ("MlpPolicy", lambda n: VecNormalize(make_vec_env("Pendulum-v1", n, seed=7))),
    "discrete": ("MlpPolicy", lambda n: make_vec_env("CartPole-v1", n, seed=7)),
    "cnn": ("CnnPolicy", lambda n: make_sights("image", n_envs=n)),
    "dict": ("MultiInputPolicy", lambda n: make_sights("vectors", n_envs=n)),
    "lstm": ("MlpLstmPolicy", lambda n: make_vec_env("Pendulum-v1", n, seed=7)),
}


def digest(algo: str, scene: str, n_envs: int, epsilon: float, kappa: float) -> str:
    """:return: The first digits of a hash of all weights after three rollouts."""
    policy, make = SCENES[scene]
    kind: Any = getattr(sb3_barpo, f"Recurrent{algo}" if scene == "lstm" else algo)
    arguments: dict[str, Any] = {"adversary": {"n_steps": 3}} if scene == "cnn" else {}
    model = kind(
        policy, make(n_envs), n_steps=24, batch_size=16, n_epochs=2, seed=3, device="cpu", epsilon=epsilon,
        kappa=kappa, ent_coef=0.01, **arguments,
    )  # fmt: skip
    model.learn(3 * 24 * n_envs)
    found = hashlib.sha256()
    for name, value in sorted(model.policy.state_dict().items()):
        found.update(name.encode() + value.cpu().numpy().tobytes())
    return found.hexdigest()[:16]


def main() -> None:
    """Print all digests as JSON."""
    th.set_num_threads(1)
    warnings.simplefilter("ignore")
    cases = itertools.product(("ARPO", "BARPO"), SCENES, (1, 4), (0.0, 0.1), (0.0, 1.0))
    print(json.dumps({"-".join(map(str, case)): digest(*case) for case in cases}, indent=1))


if __name__ == "__main__":
    main()
