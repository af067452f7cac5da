"""Comparisons: several algorithms, tasks and seeds, trained, attacked and reported on together."""

from sb3_barpo.comparison.report import ComparisonReport
from sb3_barpo.comparison.run import compare
from sb3_barpo.comparison.settings import Comparison, from_file

__all__ = ["Comparison", "ComparisonReport", "compare", "from_file"]
