"""sb3-contrib's RecurrentPPO with an adversary in the loop: the recurrent forms of the algorithms."""

from typing import Any

import torch as th

from sb3_barpo.adversary import Samples
from sb3_barpo.policies.views import OnSequences
from sb3_barpo.training.alternating import ATLA, Alternating
from sb3_barpo.training.presets import ARPO, BARPO, CARPPO, SAPPO
from sb3_barpo.training.robust import RobustUpdate

try:
    from sb3_contrib import RecurrentPPO
except ImportError as error:
    raise ImportError('The recurrent algorithms build on sb3-contrib: pip install "sb3-barpo[recurrent]"') from error


class RobustRecurrentPPO(RobustUpdate, RecurrentPPO):
    """
    The parent of all that follow. All arguments of its own:
    :class:`sb3_barpo.training.robust.RobustUpdate`; all others, and the policies: sb3-contrib's ``RecurrentPPO``, which
    it is at strength 0, bit for bit.

    Minibatches hold sequences. The adversary perturbs all observations of a sequence together, and the policy goes
    through it with the perturbed ones: its memory sees the attack too. What the memory holds at the sequence's
    beginning is what the clean rollout left there.
    """

    def _policy_on(self, rollout_data: Any) -> Any:
        return OnSequences(self.policy, rollout_data.lstm_states, rollout_data.episode_starts)

    def _mask(self, rollout_data: Any) -> th.Tensor | None:
        mask: th.Tensor = rollout_data.mask > 1e-8
        return mask

    def _squared_error(self, predicted: th.Tensor, returns: th.Tensor, samples: Samples) -> th.Tensor:
        return samples.mean((returns - predicted) ** 2)


class RecurrentARPO(RobustRecurrentPPO):
    """
    :class:`sb3_barpo.ARPO` for policies with a memory, on sb3-contrib's ``RecurrentPPO``.

    All arguments: :class:`sb3_barpo.training.recurrent.RobustRecurrentPPO`.
    """

    defence = ARPO.defence


class RecurrentBARPO(RobustRecurrentPPO):
    """
    :class:`sb3_barpo.BARPO` for policies with a memory, on sb3-contrib's ``RecurrentPPO``.

    All arguments: :class:`sb3_barpo.training.recurrent.RobustRecurrentPPO`.
    """

    defence = BARPO.defence


class RecurrentSAPPO(RobustRecurrentPPO):
    """
    :class:`sb3_barpo.SAPPO` for policies with a memory, on sb3-contrib's ``RecurrentPPO``.

    All arguments: :class:`sb3_barpo.training.recurrent.RobustRecurrentPPO`.
    """

    defence = SAPPO.defence


class RecurrentCARPPO(RobustRecurrentPPO):
    """
    :class:`sb3_barpo.CARPPO` for policies with a memory, on sb3-contrib's ``RecurrentPPO``.

    All arguments: :class:`sb3_barpo.training.recurrent.RobustRecurrentPPO`.
    """

    defence = CARPPO.defence


class RecurrentATLA(Alternating, RobustRecurrentPPO):
    """
    :class:`sb3_barpo.ATLA` for policies with a memory, on sb3-contrib's ``RecurrentPPO``: the field's ATLA-LSTM, and
    with a ``weight`` above 0 ATLA-LSTM-SA.

    The agent remembers what it was shown, in its own turn and in its attacker's. The attacker keeps no memory, as no
    learned attack of this package does; the published one has an LSTM too.

    All arguments: :class:`sb3_barpo.training.alternating.Alternating` and
    :class:`sb3_barpo.training.recurrent.RobustRecurrentPPO`.
    """

    defence = ATLA.defence
