"""PPO's surrogate with its gradient, for losses that write theirs out."""

import torch as th

from sb3_barpo.adversary import Samples


def surrogate_and_slope(log_prob: th.Tensor, samples: Samples) -> tuple[th.Tensor, th.Tensor]:
    """
    :param log_prob: Of the samples' actions, without gradient, shape ``(..., B)``.
    :param samples: The rest of the minibatch.
    :return: :func:`sb3_barpo.adversary.clipped_surrogate` and its derivative, both of shape ``(..., B)``.
    """
    unclipped = (log_prob - samples.old_log_prob).exp_().mul_(samples.advantages)
    limit = samples.ends()
    return th.minimum(unclipped, limit), unclipped.masked_fill_(unclipped > limit, 0)


def surrogate_slope(log_prob: th.Tensor, samples: Samples) -> th.Tensor:
    """:return: The second alone; takes the same arguments."""
    unclipped = (log_prob - samples.old_log_prob).exp_().mul_(samples.advantages)
    return unclipped.masked_fill_(unclipped > samples.ends(), 0)
