"""
Schedules: the adversary's strength over training.

A schedule is called as SB3's are, with the progress remaining (1 at the start, 0 at the end), and clamps it, because
SB3's progress can go below 0 in the last rollout. It is written as an object, as a spec (a dict that JSON can hold) or
as a short string, and each form gives back the others:

==================  ======================================  =============================================
object              string                                  meaning
==================  ======================================  =============================================
``Constant(c)``     ``constant_c``                          always c
``Ramp(v)``         ``ramp_v``, ``ramp_v_end_begin_power``  from 0 to v at 75 % of training, then constant
``Paper(v)``        ``paper_v``                             the paper's: ``Ramp(v)`` with its defaults
``Linear(a, b)``    ``linear_a_b``                          straight from a to b
``Cosine(a, b)``    ``cosine_a_b``                          half a cosine from a to b
``Smooth(v)``       ``smooth_v``, ``smooth_v_end_mid``      from 0 to v, slowly at first
``Step(...)``       ``step_a_t_b``                          a until time t, then b, and so on
``Cyclic(a, b)``    ``cyclic_a_b``, ``cyclic_a_b_n``        n times from a up to b and back
``Join(...)``       ``ramp_a > t > constant_b``             one schedule until time t, then the next
==================  ======================================  =============================================

Times are fractions of training, from 0 to 1.
"""

from sb3_barpo.schedules.kinds import Constant, Cosine, Cyclic, Linear, Paper, Ramp, Schedule, Smooth, Step
from sb3_barpo.schedules.specs import KINDS, Join, ScheduleLike, as_schedule

__all__ = [
    "KINDS",
    "Constant",
    "Cosine",
    "Cyclic",
    "Join",
    "Linear",
    "Paper",
    "Ramp",
    "Schedule",
    "ScheduleLike",
    "Smooth",
    "Step",
    "as_schedule",
]
