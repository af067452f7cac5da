"""What ``help`` shows of an algorithm's constructor."""

import dataclasses
import inspect
from typing import Any


def signature_of(cls: Any, ours: type) -> inspect.Signature:
    """
    :param cls: An algorithm with a ``defence``.
    :param ours: The class that takes our arguments from ``**kwargs``; below it in the order of resolution is PPO's.
    :return: The signature of PPO's constructor, with our arguments and the class's own behind its own, by name only.
    """
    base = next(kind for kind in cls.__mro__ if not issubclass(kind, ours) and "__init__" in kind.__dict__)
    theirs = [p for name, p in inspect.signature(base.__init__).parameters.items() if name != "self"]
    kind = inspect.Parameter.KEYWORD_ONLY
    own = [inspect.Parameter("epsilon", kind, default=None), inspect.Parameter("margin", kind, default=1.0)]
    own += [
        inspect.Parameter(field.name, kind, default=getattr(cls.defence.loss, field.name))
        for field in dataclasses.fields(cls.defence.loss)
    ]
    own += [inspect.Parameter(name, kind, default=None) for name in ("adversary", "sensors")]
    passing_on = [c.__init__ for c in cls.__mro__ if issubclass(c, ours) and c is not ours and "__init__" in c.__dict__]
    for constructor in passing_on:
        own += [p for p in inspect.signature(constructor).parameters.values() if p.kind is kind]
    return inspect.Signature([*theirs, *own])
