"""Files that the version before this one stored load, and act alike. ``stored/make.py`` has written them."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import learn, make_envs, same, weights
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize

from sb3_barpo import ARPO, BARPO, RecurrentBARPO
from sb3_barpo.adversary import L2Ball
from sb3_barpo.agents.load import load_agent
from sb3_barpo.attacks import SARL, LearnedAttack, RobustSarsa
from sb3_barpo.evaluation import RobustnessReport
from sb3_barpo.schedules import Constant, Cosine, Cyclic, Join, Linear, Ramp, Smooth, Step

pytestmark = pytest.mark.skipif(
    np.lib.NumpyVersion(np.__version__) < "2.0.0", reason="NumPy 1 cannot read what NumPy 2 has pickled"
)

STORED = Path(__file__).parent / "stored"
AGENTS = {"arpo": ARPO, "barpo": BARPO, "custom": BARPO, "memory": RecurrentBARPO}


@pytest.fixture(scope="module")
def acts() -> dict[str, np.ndarray]:
    """What the agents and attacks did when they were stored."""
    with np.load(STORED / "acts.npz") as file:
        return dict(file)


def load(name: str, **kwargs: Any) -> PPO:
    return AGENTS[name].load(STORED / name, device="cpu", **kwargs)


def assert_acts_alike(model: PPO, name: str, acts: dict[str, np.ndarray]) -> None:
    done, _ = model.predict(acts[f"{name}-seen"], deterministic=True)
    np.testing.assert_allclose(done, acts[f"{name}-done"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", AGENTS)
def test_agents_act_alike_and_learn_on(name: str, acts: dict[str, np.ndarray]) -> None:
    envs = make_envs("CartPole-v1" if name == "arpo" else "Pendulum-v1", 2 if name == "barpo" else 1)
    model = load(name, env=envs)
    assert_acts_alike(model, name, acts)
    before = weights(model)
    book = learn(model, 64, reset_num_timesteps=False)
    assert book.column("adversary/epsilon")[-1] > 0
    assert not same(weights(model), before)


def test_settings_are_as_they_were() -> None:
    barpo, arpo, custom, memory = map(load, ("barpo", "arpo", "custom", "memory"))
    assert (barpo.epsilon, barpo.kappa, barpo.adversary) == ("ramp_0.1_0.75_0.0_1.0", 1.0, None)
    assert arpo.epsilon == {"kind": "linear", "initial": 0.0, "final": 0.1}
    assert (arpo.kappa, arpo.adversary) == ("ramp_2", {"n_steps": 3})
    assert (memory.epsilon, memory.kappa) == (0.1, 1.0)
    assert repr(custom.adversary) == repr(custom._adversary)
    assert repr(custom.adversary).startswith("Adversary(KL(), PGD(n_steps=3, step_size=None, start_radius=1.0, rest")
    assert isinstance(custom.adversary.ball, L2Ball)
    assert custom.adversary.ball.plain_scale() == [1.0, 0.0, 2.0]


@pytest.mark.parametrize(("name", "kind"), [("barpo", BARPO), ("memory", RecurrentBARPO)])
def test_agents_are_recognised(name: str, kind: type[PPO], acts: dict[str, np.ndarray]) -> None:
    agent = load_agent(STORED / name, "Pendulum-v1")
    assert type(agent.model) is kind
    assert isinstance(agent.venv, VecNormalize) == (name == "barpo")
    assert_acts_alike(agent.model, name, acts)


@pytest.mark.parametrize("kind", [SARL, RobustSarsa])
def test_attacks_act_alike(kind: type[LearnedAttack], acts: dict[str, np.ndarray]) -> None:
    attack = kind.load(STORED / f"{kind.name}.zip", load("barpo"))
    attack.seed(5)
    np.testing.assert_allclose(attack.perturb(acts["barpo-seen"]), acts[f"{kind.name}-shown"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("read", ["csv", "json"])
def test_reports_say_the_same(read: str) -> None:
    report = getattr(RobustnessReport, f"from_{read}")(STORED / f"report.{read}")
    assert report.attacks == ["mad", "sarl", "robust_sarsa"]
    assert len(report.seeds) == 2
    assert report.natural == pytest.approx(-(114.341163 + 103.118145) / 2)
    assert report.worst_case == pytest.approx(-(114.278671 + 103.285937) / 2)  # mad's


def test_pickled_schedules_say_the_same() -> None:
    schedules = pickle.loads((STORED / "schedules.pkl").read_bytes())
    assert schedules == [
        Constant(0.1), Ramp(0.2), Linear(0.1, 0.3), Cosine(0.0, 0.2), Smooth(0.1), Step((0.1, 0.2), (0.5,)),
        Cyclic(0.0, 0.2), Join((Ramp(0.1), Constant(0.2)), (0.4,)),
    ]  # fmt: skip
    assert [schedule(0.5) for schedule in schedules[:4]] == pytest.approx([0.1, 0.2 * 0.5 / 0.75, 0.2, 0.1])
