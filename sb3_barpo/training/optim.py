"""Adam in one kernel."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch as th
from torch import nn


@cache
def has_fused() -> bool:
    """:return: Whether this PyTorch has the kernel on CPUs. Version 2.3 has it on GPUs only; its Adam says so."""
    try:
        th.optim.Adam([nn.Parameter(th.zeros(1))], fused=True)
    except RuntimeError:
        return False
    return True


@contextmanager
def fused(optimizer: th.optim.Optimizer) -> Iterator[None]:
    """
    Adam's steps in one kernel for a while, on CPUs, where it is not PyTorch's default. The optimiser's settings are put
    back, so that files remain as PPO writes them.

    :param optimizer: The optimiser; left as it is if it is not Adam, if its user has chosen an implementation, or if
        this PyTorch has no such kernel.
    """
    known = type(optimizer) in (th.optim.Adam, th.optim.AdamW) and has_fused()
    groups = optimizer.param_groups if known else []
    free = [
        group
        for group in groups
        if group["fused"] is None
        and not (group["foreach"] or group["capturable"] or group["differentiable"])
        and all(parameter.device.type == "cpu" and parameter.is_floating_point() for parameter in group["params"])
    ]
    for group in free:
        group["fused"] = True
    try:
        yield
    finally:
        for group in free:
            group["fused"] = None
