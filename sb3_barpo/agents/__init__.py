"""Saved agents, loaded with their environments."""

from sb3_barpo.agents.load import LoadedAgent, load_agent
from sb3_barpo.algorithms import ALGORITHMS, algorithm

__all__ = ["ALGORITHMS", "LoadedAgent", "algorithm", "load_agent"]
