"""What ``sb3-barpo certify`` does: certify agents, attack them, and set the two side by side."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_barpo.adversary import Ball, L2Ball, Timing, bounds_of
from sb3_barpo.agents.load import LoadedAgent
from sb3_barpo.attacks import ATTACKS, MAD, Attack, LearnedAttack, MaxKL, Push, Random, UnderAttack
from sb3_barpo.attacks.victim import undisturbed
from sb3_barpo.certify import (
    CertifiedChoice,
    CertifiedMean,
    NoisyModel,
    certify_actions,
    certify_return,
    check_certifiable,
)
from sb3_barpo.checks import require_count
from sb3_barpo.episodes import run_wave
from sb3_barpo.evaluation.campaign import default_output
from sb3_barpo.evaluation.certificates import Certification, CertifiedActions, CertifiedReturns
from sb3_barpo.evaluation.certified_pages import write_pages
from sb3_barpo.evaluation.judged import circumstances, describe
from sb3_barpo.evaluation.within import strengths_of, within_of
from sb3_barpo.seeds import REPORT


@dataclass(frozen=True)
class Smoothing:
    """
    How returns are certified.

    :param sigma: Standard deviation of the noise.
    :param radius: L2 norms of all perturbations of an episode together; by default several up to the largest for which
        the number of episodes suffices.
    :param quantiles: Which quantiles of the return.
    :param n_episodes: Number of episodes for the certificate.
    :param confidence: The probability with which a bound holds.
    :param attacks: Names of attacks to set beside it, none that is learned.
    :param n_attacked: Number of episodes for each of them.
    :raises ValueError: for an attack that is unknown or learned, or no episodes.
    """

    sigma: float
    radius: Sequence[float] | None = None
    quantiles: Sequence[float] = (0.5, 0.1)
    n_episodes: int = 1_000
    confidence: float = 0.95
    attacks: Sequence[str] = ("random", "critic", "mad")
    n_attacked: int = 100

    def __post_init__(self) -> None:
        require_count("n_attacked", self.n_attacked, "it must be a whole number, at least 1; 100 is usual")
        for name in self.attacks:
            if name not in ATTACKS or issubclass(ATTACKS[name], LearnedAttack):
                plain = ", ".join(name for name, kind in ATTACKS.items() if not issubclass(kind, LearnedAttack))
                raise ValueError(f"No attack without training is called {name!r}. Choose from {plain}.")


def certify(
    agents: Sequence[LoadedAgent],
    epsilon: Sequence[float] | None = None,
    smoothing: Smoothing | None = None,
    output: str | Path | None = None,
    n_states: int = 1_000,
    seed: int = REPORT.start,
    command: str = "",
) -> Certification:
    """
    Certify what agents do in the states that they visit without an attack, and on request what they earn, each beside
    what attacks achieve; write ``report.md``, ``certificates.json`` and ``certificates.png``.

    :param agents: The agents, all with discrete or all with continuous actions; their names must differ.
    :param epsilon: Strengths, by default the one that the agents shall withstand.
    :param smoothing: How returns are certified; ``None`` certifies actions alone.
    :param output: Folder to write to, by default one named after the agents and the day.
    :param n_states: Number of visited states, drawn at random.
    :param seed: Seed of the first episode.
    :param command: The command line, to be written down.
    :return: The certificates.
    :raises TypeError: for an agent that cannot be certified, with the reason.
    :raises ValueError: for a setting out of range, agents of one name, or of different kinds of actions.
    :raises OSError: if the folder cannot be written.
    """
    names = [agent.name for agent in agents]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"Name at least one agent, each by a name of its own, but they are called {names}.")
    require_count("n_states", n_states, "it must be a whole number, at least 1; 1000 is usual")
    strengths = strengths_of(agents, epsilon)
    within = within_of(agents, None)
    for agent in agents:
        check_certifiable(agent.model)
    kinds = {"shift" if isinstance(agent.model.action_space, spaces.Box) else "share" for agent in agents}
    if len(kinds) > 1:
        raise ValueError("Some agents have discrete actions, others continuous ones. Certify them one by one.")
    actions, returns = [], []
    for agent, place in zip(agents, within, strict=True):
        states = visited(agent.model, agent.venv, n_states, seed)
        actions += [_actions(agent, states, strength, place.ball, seed) for strength in strengths]
        if smoothing is not None:
            returns += _returns(agent, smoothing, seed)
    judged = {
        "agents": {
            agent.name: describe(agent.model, agent.venv, place, agent)
            for agent, place in zip(agents, within, strict=True)
        },
        **circumstances(command),
    }
    settings = {"n_states": n_states, "seed": seed, "smoothing": None if smoothing is None else asdict(smoothing)}
    found = Certification(kinds.pop(), actions, returns, judged, settings)
    write_pages(found, default_output(names, "certificates") if output is None else Path(output))
    return found


def visited(model: OnPolicyAlgorithm, venv: VecEnv, n_states: int, seed: int) -> np.ndarray:
    """
    :param model: The agent, acting deterministically.
    :param venv: Its environments.
    :param n_states: Number of states.
    :param seed: Seed of the first episode.
    :return: States of its episodes without an attack, as the policy sees them, drawn at random, shape
        ``(n_states, *obs)``.
    """
    watch = _Watch(model)
    with undisturbed(model, venv):
        first = seed
        while watch.n_states < n_states:
            run_wave(watch, venv, venv.num_envs, first, deterministic=True)
            first += venv.num_envs
    states = np.concatenate(watch.seen)
    return states[np.random.default_rng(seed).permutation(len(states))[:n_states]]


class _Watch:
    """A model that writes down what it sees."""

    def __init__(self, model: OnPolicyAlgorithm) -> None:
        self._model = model
        self.seen: list[np.ndarray] = []
        self.n_states = 0

    def predict(self, observation: Any, *args: Any, **kwargs: Any) -> Any:
        self.seen.append(observation.copy())
        self.n_states += len(observation)
        return self._model.predict(observation, *args, **kwargs)


def attacked_actions(
    model: OnPolicyAlgorithm, states: np.ndarray, epsilon: float, ball: Ball | None, venv: VecEnv, seed: int = 0
) -> list[np.ndarray]:
    """
    :param model: The agent.
    :param states: What it sees, shape ``(B, *obs)``.
    :param epsilon: Strength.
    :param ball: The ball of the attacks.
    :param venv: The environments, which tell the limits of observations.
    :param seed: Seed of the attacks.
    :return: What it does under each of the searches for the largest change and for each limit of its actions, and
        under Random and MAD, shape ``(B, *action)`` each.
    """
    attacks: list[Attack] = [kind(model, epsilon, ball=ball, seed=seed) for kind in (Random, MAD)]
    attacks.append(MaxKL(model, epsilon, n_steps=20, restarts=4, ball=ball, seed=seed))
    attacks += Push.each(model, epsilon, n_steps=20, ball=ball, seed=seed)
    limits = bounds_of(model.observation_space, venv, model.device)  # type: ignore[arg-type]  # a Box, as was checked
    return [model.predict(attack.perturb(states, limits), deterministic=True)[0] for attack in attacks]


def _actions(agent: LoadedAgent, states: np.ndarray, epsilon: float, ball: Ball | None, seed: int) -> CertifiedActions:
    model, venv = agent.model, agent.venv
    tight, loose = (certify_actions(model, states, epsilon, ball, venv, method) for method in ("crown", "intervals"))
    attacked = attacked_actions(model, states, epsilon, ball, venv, seed)
    if isinstance(tight, CertifiedChoice) and isinstance(loose, CertifiedChoice):
        kept = np.all([one == tight.actions for one in attacked], axis=0)
        return CertifiedActions(
            agent.name, epsilon, tight.share, loose.share, float(kept.mean()), float(np.median(tight.radius))
        )
    assert isinstance(tight, CertifiedMean)
    assert isinstance(loose, CertifiedMean)
    moved = np.max([np.abs(one.reshape(len(states), -1) - tight.actions) for one in attacked], axis=(0, 2))
    certified, intervals = (float(one.shift.max(1).mean()) for one in (tight, loose))
    return CertifiedActions(agent.name, epsilon, certified, intervals, float(moved.mean()))


def _returns(agent: LoadedAgent, smoothing: Smoothing, seed: int) -> list[CertifiedReturns]:
    model, venv = agent.model, agent.venv
    certificate = certify_return(model, venv, smoothing.sigma, smoothing.n_episodes, seed, smoothing.confidence)
    spec = venv.get_attr("spec")[0]
    n_steps: int = getattr(spec, "max_episode_steps", None) or certificate.longest
    n_features = int(np.prod(model.observation_space.shape or (1,)))
    radii = smoothing.radius
    if radii is None:
        furthest = max(certificate.largest_radius(q) for q in smoothing.quantiles)
        radii = [round(share * furthest, 6) for share in (0.0, 0.25, 0.5, 0.75, 0.98)]
    rows = []
    for radius in radii:
        # Each attacked step uses the same share of the budget, and no more steps are attacked than it suffices for.
        ball, epsilon = L2Ball(1.0, Timing(moments=n_steps)), radius / math.sqrt(n_steps)
        returns = {
            name: min(
                (_attacked_returns(one, agent, smoothing, seed) for one in _built(name, model, epsilon, ball)),
                key=np.mean,
            )
            for name in smoothing.attacks
        }
        for q in smoothing.quantiles:
            left = {name: float(np.quantile(one, q)) for name, one in returns.items()}
            worst = min(left, key=left.__getitem__) if left else ""
            each = radius / math.sqrt(n_steps * n_features)
            bound = certificate.quantile(q, radius)
            rows.append(CertifiedReturns(agent.name, radius, each, q, bound, left.get(worst, math.nan), worst))
    return rows


def _built(name: str, model: OnPolicyAlgorithm, epsilon: float, ball: Ball) -> list[Attack]:
    """All attacks of a name: one, or a push to each limit of the actions."""
    kind: Any = ATTACKS[name]
    if kind is Push:
        return [*Push.each(model, epsilon, ball=ball)]
    return [kind(model, epsilon, ball=ball)]


def _attacked_returns(attack: Attack, agent: LoadedAgent, smoothing: Smoothing, seed: int) -> np.ndarray:
    model, venv = agent.model, agent.venv
    noisy = NoisyModel(model, smoothing.sigma, seed + 1)  # other noise than the certificate's
    returns: list[float] = []
    with undisturbed(model, venv):
        attack.seed(seed)
        while (done := len(returns)) < smoothing.n_attacked:
            n_wave = min(venv.num_envs, smoothing.n_attacked - done)
            wave = run_wave(UnderAttack(noisy, attack, venv), venv, n_wave, seed + done, deterministic=True)
            returns += [episode.reward for episode in wave]
    return np.array(returns)
