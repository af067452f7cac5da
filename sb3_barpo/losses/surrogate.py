"""PPO's surrogate with its gradient, for losses that write theirs out."""

import torch as th

from sb3_barpo.adversary import Samples


def surrogate_and_slope(log_prob: th.Tensor, samples: Samples) -> tuple[th.Tensor, th.Tensor]:
    """
    :param log_prob: Of the samples' actions, without gradient, shape ``(..., B)``.
    :param samples: The rest of the minibatch.
    :return: :func:`sb3_barpo.adversary.clipped_surrogate` and its derivative, both of shape ``(..., B)``.
    """
    unclipped = th.exp(log_prob - samples.old_log_prob).mul_(samples.advantages)
    # The surrogate ends here, where the ratio is clipped; beyond it has no slope.
    limit = samples.advantages.add(samples.advantages.abs(), alpha=samples.clip_range)
    surrogate = th.minimum(unclipped, limit)
    return surrogate, unclipped.masked_fill_(unclipped > limit, 0)
