"""Agents in files, with the environments that they know."""

from sb3_barpo.agents.load import ALGORITHMS, LoadedAgent, algorithm, load_agent

__all__ = ["ALGORITHMS", "LoadedAgent", "algorithm", "load_agent"]
