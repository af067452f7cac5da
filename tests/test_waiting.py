"""On a GPU the host must not wait in the loop of an update by hand."""

from typing import Any

import pytest
import torch as th
from stable_baselines3 import PPO
from test_by_hand import STEPS, Curious, assert_same_update, updated
from torch.utils._python_dispatch import TorchDispatchMode

from sb3_barpo import ARPO, BARPO
from sb3_barpo.attacks.quick_ppo import QuickPPO
from sb3_barpo.policies import by_hand


class NoWaiting(TorchDispatchMode):
    """Fails where the host would wait for the device: a number is read from a tensor."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in (th.ops.aten._local_scalar_dense.default, th.ops.aten.equal.default), "the host waits"
        assert "nonzero" not in func.name()
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", [QuickPPO, ARPO, BARPO, Curious])
@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
def test_nothing_in_the_loop_waits_for_the_device(
    kind: type[PPO], env_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    minibatches: list[int] = []
    loop = by_hand.UpdateByHand._minibatches

    def watched(self: Any, shuffled: Any, epoch: int) -> Any:
        with NoWaiting():
            done = loop(self, shuffled, epoch)
        minibatches.append(len(done[0]))
        return done

    monkeypatch.setattr(by_hand.UpdateByHand, "_minibatches", watched)
    updated(kind, env_id, "MlpPolicy", **({} if kind is QuickPPO else {"epsilon": 0.05}))
    assert minibatches == [STEPS // 16] * 4


def test_the_mode_sees_who_waits() -> None:
    with pytest.raises(AssertionError, match="the host waits"), NoWaiting():
        bool(th.ones(()) > 0)


@pytest.mark.skipif(not th.cuda.is_available(), reason="needs a GPU: on CUDA the update by hand is unmeasured")
def test_an_update_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same_update(BARPO, "Pendulum-v1", monkeypatch, epsilon=0.05, device="cuda")
