"""Attacks that are fitted to a victim before they attack it, and stored for later."""

import io
import json
import zipfile
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv
from tqdm import tqdm

from sb3_barpo.adversary import Ball, Bounds, DictBounds, as_ball
from sb3_barpo.adversary.balls import BALLS
from sb3_barpo.attacks.attack import Attack
from sb3_barpo.attacks.memory import Memory
from sb3_barpo.attacks.victim import normalizer_digest, undisturbed, victim_digest
from sb3_barpo.attacks.wrappers import AttackObservation, VecAttackObservation
from sb3_barpo.checks import require_env, require_model
from sb3_barpo.policies.views import uncompiled
from sb3_barpo.seeds import FITS
from sb3_barpo.vec_envs import is_wrapped, seed_if_possible

if TYPE_CHECKING:
    from typing_extensions import Self

_RECORD, _WEIGHTS = "attack.json", "weights"


@dataclass(frozen=True)
class Origin:
    """
    Where a fitted attack comes from.

    :param victim: Fingerprint of the victim's policy.
    :param normalizer: Fingerprint of the statistics of ``VecNormalize``, ``None`` without any.
    :param epsilon: Strength at which it was fitted.
    :param total_timesteps: Environment steps of the fit so far.
    :param seed: Its seed.
    """

    victim: str
    normalizer: str | None
    epsilon: float
    total_timesteps: int
    seed: int | None


class LearnedAttack(Attack):
    """
    An attack that learns from episodes of its victim. It has to be fitted or loaded before it can attack.

    ``ball`` and ``seed_of_fit`` are set by the constructors of its kinds.
    """

    ball: Ball
    seed_of_fit: int | None
    #: Where it comes from; ``None`` before it is fitted.
    origin: Origin | None = None
    #: Whether it may attack another victim than the one that it was fitted on.
    transfer: bool = False
    _kinds: ClassVar[dict[str, type["LearnedAttack"]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:
            cls._kinds[cls.name] = cls

    def fit(
        self,
        venv: VecEnv,
        total_timesteps: int,
        progress_bar: bool = False,
        after_stage: "Callable[[Self], object] | None" = None,
        tell: Callable[[float], object] = lambda steps: None,
    ) -> "Self":
        """
        Learn from the victim's episodes. An attack that was fitted before, or loaded, continues from what it learned.
        The victim and the statistics of ``VecNormalize`` are not changed. Reset the environments before other use.

        A fit consists of stages, each with a seed of its own, which begins with fresh episodes. At the end of a stage
        the attack can be stored; loaded again and fitted for the rest of the steps, it is the same bit for bit as one
        that was never interrupted, on the same number of environments. The exception is an ``algorithm`` with a replay
        buffer, which is not stored.

        :param venv: The victim's environments, wrapped as in its training (``VecNormalize`` above all), clean.
        :param total_timesteps: Further environment steps, over all environments together; rounded up to whole rollouts.
        :param progress_bar: Whether to show the progress.
        :param after_stage: Called with the attack at the end of each stage.
        :param tell: Called with the number of steps that are done since its last call.
        :return: The attack itself.
        :raises ValueError: if the spaces are not the victim's, the environments are under attack already, there is
            nothing to learn from, or the attack was fitted on another victim and ``transfer`` is not set.
        """
        if isinstance(total_timesteps, bool) or int(total_timesteps) != total_timesteps or total_timesteps < 1:
            raise ValueError(
                f"total_timesteps must be a whole number, at least 1, but it is {total_timesteps!r}. Hundreds of "
                "thousands are usual."
            )
        if self.epsilon == 0:
            raise ValueError(f"{type(self).__name__} has nothing to learn at epsilon = 0: give it some strength.")
        require_env(venv)
        check_clean_env(self.model, venv)
        if self.origin is not None:
            self.check_victim(self.model, venv)
        victim, normalizer = victim_digest(self.model), normalizer_digest(venv)
        with (
            undisturbed(self.model, venv),
            tqdm(total=int(total_timesteps), desc=self.name, unit="step", disable=not progress_bar) as bar,
        ):

            def done(steps: float) -> None:
                bar.update(steps)
                tell(steps)

            for steps in self._fit(venv, int(total_timesteps), done):
                self.origin = Origin(victim, normalizer, self.epsilon, self.n_fitted + steps, self.seed_of_fit)
                if after_stage is not None:
                    after_stage(self)
        return self

    @property
    def n_fitted(self) -> int:
        """Environment steps from which it has learned."""
        return 0 if self.origin is None else self.origin.total_timesteps

    def _seed_all(self, venv: VecEnv) -> None:
        """
        Seeds for the next stage. Without a seed, draw one: the generators are put back after a fit, and the next would
        be the same.
        """
        seed = self.seed_of_fit
        if seed is not None and self.n_fitted:
            seed = FITS.start + int(np.random.SeedSequence([seed, self.n_fitted]).generate_state(1)[0]) % len(FITS)
        drawn = int(np.random.SeedSequence().generate_state(1)[0])
        set_random_seed(drawn if seed is None else seed)
        if seed is not None:
            seed_if_possible(venv, seed)
        self.seed(seed)

    @abstractmethod
    def _fit(self, venv: VecEnv, total_timesteps: int, tell: Callable[[float], object]) -> Iterator[int]:
        """
        See :meth:`fit`.

        :return: After each stage, its number of steps; their sum is ``total_timesteps``.
        """

    def perturb(
        self, observations: Any, bounds: Bounds | DictBounds | None = None, memory: Memory | None = None
    ) -> Any:
        self.check_fitted()
        return super().perturb(observations, bounds, memory)

    def check_fitted(self) -> Origin:
        """
        :return: Where the attack comes from.
        :raises ValueError: if the attack has not learned anything yet.
        """
        if self.origin is None:
            raise ValueError(
                f"{type(self).__name__} must learn before it can attack: call fit(venv, total_timesteps), or load one "
                f"that was stored, {type(self).__name__}.load(path, model)."
            )
        return self.origin

    def check_victim(self, model: OnPolicyAlgorithm, venv: VecEnv | None = None) -> None:
        """
        :param model: The victim.
        :param venv: Its environments.
        :raises ValueError: if the attack was not fitted, or on another victim, or under other statistics of
            ``VecNormalize``, and may not be transferred.
        """
        origin, model = self.check_fitted(), uncompiled(model)
        same_victim = origin.victim == victim_digest(model)
        if not self.transfer and not (same_victim and (venv is None or origin.normalizer == normalizer_digest(venv))):
            raise ValueError(
                f"{type(self).__name__} was fitted "
                f"{'under other statistics of VecNormalize' if same_victim else 'on another victim'}, or before "
                "this one learned more. Fit it on this victim, or set transfer=True to see what a transferred attack "
                "does."
            )

    def save(self, path: str | Path) -> None:
        """
        Store the attack in one file, without the victim: a zip archive with a record in JSON and the weights.

        :param path: File to write; folders above it are made.
        :raises ValueError: if it has not been fitted.
        :raises TypeError: if its ball is neither :class:`LinfBall` nor :class:`L2Ball`.
        """
        origin = self.check_fitted()
        if type(self.ball).__name__ not in BALLS:
            raise TypeError(f"Only attacks with {' or '.join(BALLS)} can be stored, but the ball is {self.ball!r}.")
        record = {
            "attack": self.name,
            "epsilon": self.epsilon,
            "ball": self.ball.spec(),
            "spaces": _spaces(self.model),
            "origin": asdict(origin),
            "settings": self._settings(),
            "state": self._state(),
        }
        weights = io.BytesIO()
        self._save_weights(weights)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(_RECORD, json.dumps(record, indent=2))
            archive.writestr(_WEIGHTS, weights.getvalue())

    @classmethod
    def load(cls, path: str | Path, model: OnPolicyAlgorithm, transfer: bool = False) -> "Self":
        """
        :param path: File that :meth:`save` wrote. Like all of SB3's files it may run code: load only what you trust.
        :param model: The victim.
        :param transfer: Whether the victim may be another one than the attack was fitted on.
        :return: The attack, ready.
        :raises ValueError: if the file is no stored attack, or one of another kind; or if it was fitted on another
            victim, and ``transfer`` is not set, or the spaces of the two differ.
        :raises OSError: if it cannot be read.
        """
        require_model(model)
        model = uncompiled(model)
        record, weights = _read(path)
        kind = cls._kinds.get(record["attack"])
        if kind is None or not issubclass(kind, cls):
            raise ValueError(
                f"{str(path)!r} holds the attack {record['attack']!r}, not {cls.__name__}. Load it by its own class, "
                "or by LearnedAttack.load, which takes every kind."
            )
        if record["spaces"] != _spaces(model):
            raise ValueError(
                f"{str(path)!r} was fitted on a victim with {record['spaces']}, but this one has {_spaces(model)}. Fit "
                "it anew."
            )
        origin = Origin(**record["origin"])
        arguments = {
            "model": model,
            "epsilon": record["epsilon"],
            "ball": as_ball(record["ball"]),
            "seed": origin.seed,
            **record["settings"],
        }
        attack = kind._restore(arguments, io.BytesIO(weights))
        attack.origin, attack.transfer = origin, transfer
        attack._resume(record.get("state", {}))  # files of version 0.1 have none
        attack.check_victim(model)
        return attack  # type: ignore[return-value]

    @abstractmethod
    def _settings(self) -> dict[str, Any]:
        """:return: Arguments of the class, such as JSON can hold."""

    def _state(self) -> dict[str, Any]:
        """:return: What else a fit needs to continue, such as JSON can hold."""
        return {}

    def _resume(self, state: dict[str, Any]) -> None:
        """:param state: What :meth:`_state` returned."""

    @abstractmethod
    def _save_weights(self, file: io.BytesIO) -> None:
        """:param file: Where to write what was learned."""

    @classmethod
    @abstractmethod
    def _restore(cls, arguments: dict[str, Any], weights: io.BytesIO) -> "LearnedAttack":
        """
        :param arguments: Arguments of the class, with what :meth:`_settings` gave.
        :param weights: What :meth:`_save_weights` wrote.
        :return: The attack with what it had learned.
        """


def steps_of(path: Path) -> int:
    """:return: From how many environment steps a stored attack has learned; 0 where there is no file."""
    return int(_read(path)[0]["origin"]["total_timesteps"]) if path.exists() else 0


def check_clean_env(model: OnPolicyAlgorithm, venv: VecEnv) -> None:
    """
    :param model: The agent.
    :param venv: Its environments.
    :raises ValueError: if the spaces differ from the model's, or the environments are under attack already.
    """
    for what in ("observation_space", "action_space"):
        if getattr(venv, what) != getattr(model, what):
            raise ValueError(
                f"The environment's {what} must be the model's, but it is {getattr(venv, what)} and the model's is "
                f"{getattr(model, what)}. Use the environment of the training, wrapped in the same way."
            )
    if is_wrapped(venv, AttackObservation, VecAttackObservation):
        raise ValueError(
            "The environment must not be under attack already, but it is wrapped by AttackObservation or "
            "VecAttackObservation. Pass the clean environment."
        )


def _spaces(model: OnPolicyAlgorithm) -> str:
    return f"observations {model.observation_space} and actions {model.action_space}"


def _read(path: str | Path) -> tuple[dict[str, Any], bytes]:
    try:
        with zipfile.ZipFile(path) as archive:
            record: dict[str, Any] = json.loads(archive.read(_RECORD))
            weights = archive.read(_WEIGHTS)
        if missing := {"attack", "epsilon", "ball", "spaces", "origin", "settings"} - record.keys():
            raise KeyError(f"its record lacks {', '.join(sorted(missing))}")
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ValueError(
            f"{str(path)!r} is no stored attack ({error}). Give the file that an attack's save() wrote."
        ) from error
    return record, weights
