"""Schedules: values derived by hand, three forms that give back each other, and every bad input named."""

import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.utils import LinearSchedule

from sb3_barpo.controllers import Competence, DualKappa, DualKappaByKL, HoldKL
from sb3_barpo.schedules import (
    KINDS,
    Constant,
    Cosine,
    Cyclic,
    Join,
    Linear,
    Paper,
    Ramp,
    Schedule,
    Smooth,
    Step,
    as_schedule,
)

#: They have tests of their own.
CONTROLLERS = (Competence, HoldKL, DualKappa, DualKappaByKL)
strengths = st.floats(0, 100)
fractions = st.floats(0, 1)
rising_times = st.lists(st.floats(0.01, 0.99), max_size=4, unique=True).map(sorted)


@st.composite
def steps(draw):
    times = draw(rising_times)
    return Step(draw(st.lists(strengths, min_size=len(times) + 1, max_size=len(times) + 1)), times)


PLAIN = {
    Constant: st.builds(Constant, strengths),
    Paper: st.builds(Paper, strengths),
    Ramp: st.builds(Ramp, strengths, st.floats(0.6, 1), st.floats(0, 0.5), st.floats(0.1, 5)),
    Linear: st.builds(Linear, strengths, strengths),
    Cosine: st.builds(Cosine, strengths, strengths),
    Smooth: st.builds(Smooth, strengths, st.floats(0.1, 1), st.floats(0.05, 0.95)),
    Step: steps(),
    Cyclic: st.builds(Cyclic, strengths, strengths, st.integers(1, 9)),
}


@st.composite
def joins(draw):
    times = draw(rising_times.filter(len))
    return Join(tuple(draw(st.one_of(*PLAIN.values())) for _ in range(len(times) + 1)), times)


schedules = st.one_of(*PLAIN.values(), joins())


# Values by hand, as (time of training, strength)


@pytest.mark.parametrize(
    ("spec", "points"),
    [
        ("constant_0.3", [(0, 0.3), (0.4, 0.3), (1, 0.3)]),
        ("ramp_0.075", [(0, 0), (0.25, 0.025), (0.375, 0.0375), (0.75, 0.075), (1, 0.075)]),
        ("paper_0.075", [(0, 0), (0.25, 0.025), (0.375, 0.0375), (0.75, 0.075), (1, 0.075)]),
        ("ramp_2_0.6_0.2_2", [(0, 0), (0.2, 0), (0.3, 0.125), (0.4, 0.5), (0.6, 2), (1, 2)]),
        ("linear_1_3", [(0, 1), (0.25, 1.5), (0.5, 2), (1, 3)]),
        ("linear_3_0", [(0, 3), (1 / 3, 2), (1, 0)]),
        ("cosine_0_2", [(0, 0), (0.25, 1 - 0.5**0.5), (1 / 3, 0.5), (0.5, 1), (2 / 3, 1.5), (1, 2)]),
        ("cosine_2_0", [(0, 2), (1 / 3, 1.5), (1, 0)]),
        # mid = 1/2: a = 1 / (4/8 - 3/16) = 16/5; up to there 16/5 x^4, then 1/5 + 8/5 (x - 1/2)
        ("smooth_1_1_0.5", [(0, 0), (0.25, 1 / 80), (0.5, 1 / 5), (0.75, 3 / 5), (1, 1)]),
        ("smooth_3_0.5_0.5", [(0.25, 3 / 5), (0.375, 9 / 5), (0.5, 3), (1, 3)]),
        ("step_1_0.25_5_0.75_2", [(0, 1), (0.24, 1), (0.25, 5), (0.74, 5), (0.75, 2), (1, 2)]),
        ("cyclic_1_3_2", [(0, 1), (0.125, 2), (0.25, 3), (0.5, 1), (0.625, 2), (0.75, 3), (1, 1)]),
        ("cyclic_0_1", [(0, 0), (1 / 8, 1), (1 / 4, 0), (3 / 8, 1), (1, 0)]),
        ("linear_0_1 > 0.4 > constant_7", [(0, 0), (0.2, 0.5), (0.4, 7), (1, 7)]),
        ("ramp_1 > 0.5 > cosine_1_0 > 0.75 > constant_0", [(0.1875, 0.5), (0.45, 1), (0.5, 1), (0.625, 0.5), (0.9, 0)]),
    ],
)
def test_values_derived_by_hand(spec, points):
    schedule = as_schedule(spec)
    assert [schedule(1 - time) for time, _ in points] == pytest.approx([value for _, value in points], abs=1e-9)


@given(schedule=schedules, beyond=st.floats(0, 10))
def test_progress_beyond_its_range_is_clamped(schedule, beyond):
    assert schedule(1 + beyond) == schedule(1.0)
    assert schedule(-beyond) == schedule(0.0)


@given(schedule=schedules, progress=fractions)
def test_every_value_is_a_finite_strength(schedule, progress):
    value = schedule(progress)
    assert type(value) is float
    assert 0 <= value < math.inf


@given(schedule=st.one_of(PLAIN[Ramp], PLAIN[Paper], PLAIN[Smooth]), first=fractions, second=fractions)
def test_kinds_that_rise_never_fall_and_end_at_their_value(schedule, first, second):
    early, late = sorted((first, second))
    assert schedule.at(early) <= schedule.at(late) * (1 + 1e-12)
    assert schedule.at(0) == 0
    assert schedule.at(1) == pytest.approx(schedule.value)


@given(schedule=st.one_of(PLAIN[Linear], PLAIN[Cosine]), first=fractions, second=fractions)
def test_kinds_between_two_strengths_go_one_way(schedule, first, second):
    early, late = sorted((first, second))
    change = schedule.at(late) - schedule.at(early)
    assert change * (schedule.final - schedule.initial) >= -1e-9


@given(schedule=PLAIN[Smooth])
def test_smooth_has_neither_a_jump_nor_a_kink_in_the_middle(schedule):
    mid, step = schedule.mid * schedule.end, 1e-6 * schedule.mid * schedule.end
    before, at, after = schedule.at(mid - step), schedule.at(mid), schedule.at(mid + step)
    slope = 4 * schedule.value / (4 - 3 * schedule.mid) / schedule.end  # of the straight part, to value at end
    assert [at - before, after - at] == pytest.approx([slope * step] * 2, rel=1e-4, abs=1e-12)


def test_smooth_with_a_tiny_middle_is_straight():
    assert Smooth(1.0, end=1.0, mid=1e-200).at(0.5) == pytest.approx(0.5)


# Forms


@given(schedule=schedules)
def test_a_spec_survives_json_and_gives_the_schedule_back(schedule):
    assert as_schedule(json.loads(json.dumps(schedule.to_spec()))) == schedule


@given(schedule=schedules)
def test_a_string_gives_the_schedule_back(schedule):
    again = as_schedule(str(schedule))
    assert again == schedule
    assert str(again) == str(schedule)


@given(schedule=schedules)
def test_a_pickled_schedule_is_the_same(schedule):
    assert pickle.loads(pickle.dumps(schedule)) == schedule


def test_every_kind_is_in_the_table_and_in_these_tests():
    assert {cls.kind: cls for cls in (*PLAIN, Join)} | {cls.kind: cls for cls in CONTROLLERS} == KINDS


@pytest.mark.parametrize("number", [np.float64(0.5), 0.5])
def test_numpy_numbers_are_written_as_numbers(number):
    assert str(Join((Constant(number), Step((number, 0), (number,))), (number,))) == (
        "constant_0.5 > 0.5 > step_0.5_0.5_0.0"
    )


@pytest.mark.parametrize("value", [0.3, np.float32(0.25), 1, 0])
def test_a_number_is_a_constant(value):
    assert as_schedule(value) == Constant(float(value))


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        ("ramp_0.1", Ramp(0.1, end=0.75, begin=0.0, power=1.0)),
        ("ramp_1e-05_0.5_0.1", Ramp(1e-5, end=0.5, begin=0.1)),
        ("smooth_0.1_0.5_0.3", Smooth(0.1, end=0.5, mid=0.3)),
        ("cyclic_0_1", Cyclic(0.0, 1.0, cycles=4)),
        ("step_0.5", Step((0.5,), ())),
        (" ramp_0.1>0.5>constant_0 ", Join((Ramp(0.1), Constant(0.0)), (0.5,))),
    ],
)
def test_strings_known_answers(text, schedule):
    assert as_schedule(text) == schedule


def test_parts_of_a_join_take_every_form_of_our_schedules():
    parts = ("ramp_0.1", {"kind": "linear", "initial": 1, "final": 2}, 3)
    assert Join(parts, (0.2, 0.4)).schedules == (Ramp(0.1), Linear(1, 2), Constant(3.0))


@pytest.mark.parametrize("function", [LinearSchedule(1.0, 0.0, 0.5), lambda progress: progress, Ramp(0.1)])
def test_a_callable_passes_through(function):
    assert as_schedule(function) is function


# Bad input


@pytest.mark.parametrize("kind", ["", "slope", "slope_0.1", "0.1", "Ramp_1", "ramp-1", {"kind": 3}, {}, {"value": 1}])
def test_an_unknown_kind_is_refused_with_the_known_ones(kind):
    with pytest.raises(ValueError, match=r"Unknown schedule .* The kinds are constant, ramp, .*'ramp_0\.075'"):
        as_schedule(kind)


@pytest.mark.parametrize("text", ["ramp", "constant", "linear_1", "linear_1_2_3", "ramp_1_0.5_0.1_1_1", "cyclic_1"])
def test_a_string_with_missing_or_extra_numbers_is_refused_with_the_grammar(text):
    with pytest.raises(ValueError, match=rf"The schedule '{text}' does not fit: write '{text.split('_')[0]}_"):
        as_schedule(text)


@pytest.mark.parametrize("text", ["ramp_x", "ramp_", "linear_1_two", "ramp_1 > soon > constant_0", "join_1_2"])
def test_a_string_with_something_else_than_numbers_is_refused(text):
    with pytest.raises(ValueError, match=r"does not fit|is no number"):
        as_schedule(text)


@pytest.mark.parametrize("text", ["ramp_1 > 0.5", "ramp_1 > 0.5 > constant_1 > 0.7"])
def test_a_join_that_ends_with_a_time_is_refused(text):
    with pytest.raises(ValueError, match="does not fit: write 'schedule > time > schedule'"):
        as_schedule(text)


@pytest.mark.parametrize(
    "spec",
    [
        {"kind": "ramp"},
        {"kind": "ramp", "value": 1, "wrong": 2},
        {"kind": "linear", "initial": 1},
        {"kind": "step", "values": 3, "times": 0.5},
        {"kind": "join", "schedules": [None], "times": []},
    ],
    ids=repr,
)
def test_a_spec_with_missing_or_extra_entries_is_refused_with_the_names(spec):
    with pytest.raises(ValueError, match=rf"The spec .* does not fit: '{spec['kind']}' takes \w+(, \w+)*\."):
        as_schedule(spec)


@pytest.mark.parametrize("bad", [-0.1, math.nan, math.inf, -math.inf, "1", None, True, [1]], ids=repr)
@pytest.mark.parametrize(
    "make",
    [
        Constant,
        Ramp,
        Paper,
        Smooth,
        lambda bad: Linear(bad, 1),
        lambda bad: Linear(1, bad),
        lambda bad: Cosine(bad, 1),
        lambda bad: Cosine(1, bad),
        lambda bad: Cyclic(bad, 1),
        lambda bad: Cyclic(1, bad),
        lambda bad: Step((1, bad), (0.5,)),
        lambda bad: as_schedule({"kind": "constant", "value": bad}),
    ],
)
def test_what_is_no_strength_is_refused(make, bad):
    with pytest.raises(ValueError, match=r"is .*, but a strength is a finite number, at least 0\."):
        make(bad)


@pytest.mark.parametrize("bad", [-1, math.nan, math.inf])
def test_a_number_that_is_no_strength_is_refused(bad):
    with pytest.raises(ValueError, match="a strength is a finite number"):
        as_schedule(bad)
    with pytest.raises(ValueError, match="a strength is a finite number"):
        as_schedule(f"constant_{bad}")


@pytest.mark.parametrize(
    "make",
    [
        lambda: Ramp(1, end=1.5),
        lambda: Ramp(1, end=0.5, begin=0.5),
        lambda: Ramp(1, end=0.2, begin=0.5),
        lambda: Ramp(1, end=math.nan),
        lambda: Ramp(1, begin="0"),
        lambda: Ramp(1, end=True),
        lambda: Smooth(1, end=0),
        lambda: Step((1, 2, 3), (0.7, 0.2)),
        lambda: Step((1, 2), (None,)),
        lambda: Join((Constant(1), Constant(2)), (0,)),
        lambda: Join((Constant(1), Constant(2)), (1,)),
        lambda: as_schedule("ramp_1 > 2 > constant_1"),
    ],
)
def test_wrong_times_are_refused(make):
    with pytest.raises(ValueError, match="times are fractions of training from 0 to 1 and must rise"):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        *[(lambda bad=bad: Ramp(1, power=bad), "Ramp's power is") for bad in (0, -1, math.nan, math.inf, "1", None)],
        *[(lambda bad=bad: Smooth(1, mid=bad), "Smooth's mid is") for bad in (0, 1, -1, math.nan, "1", None)],
        *[(lambda bad=bad: Cyclic(0, 1, bad), "whole number") for bad in (0, 1.5, -1, math.nan, math.inf, "2", True)],
        (lambda: as_schedule("cyclic_0_1_2.5"), "Cyclic's cycles is 2.5, but it must be a whole number, at least 1"),
        (lambda: Step((1, 2), ()), "Step's number of times is 0, but each change needs one"),
        (lambda: as_schedule("step"), "Step's number of times"),
        (lambda: as_schedule("step_1_0.5"), "Step's number of times"),
        (lambda: Join((Constant(1),), (0.5,)), "Join's number of times is 1, but each change needs one"),
        (lambda: Join((Constant(1), abs), (0.5,)), "it joins the other schedules of this module"),
        (lambda: Join((Constant(1), Join((Ramp(1), Ramp(1)), (0.5,))), (0.5,)), "joins the other schedules"),
    ],
)
def test_other_wrong_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("value", [None, True, [0.1], (0.1,), 1j, object()], ids=lambda v: type(v).__name__)
def test_what_is_nothing_of_the_kind_is_refused(value):
    with pytest.raises(
        TypeError, match=r"A strength is a number, a schedule, a spec or a string such as 'ramp_0\.075'"
    ):
        as_schedule(value)


def test_schedules_are_callables_of_the_progress_remaining_like_those_of_sb3():
    ours, theirs = as_schedule("linear_1_0"), LinearSchedule(1, 0, 1)
    assert isinstance(ours, Schedule)
    assert [ours(p) for p in (1.0, 0.75, 0.0)] == [theirs(p) for p in (1.0, 0.75, 0.0)]
