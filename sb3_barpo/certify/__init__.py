"""Guarantees: what a network can answer anywhere in a box of inputs."""

from sb3_barpo.certify.bounds import OutputBounds, actor_bounds, actor_modules, box_around, crown, enclose, intervals

__all__ = ["OutputBounds", "actor_bounds", "actor_modules", "box_around", "crown", "enclose", "intervals"]
