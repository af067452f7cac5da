"""Names of the features of Gymnasium's MuJoCo tasks, in the order of their observations."""

from collections.abc import Mapping
from types import MappingProxyType


def _with_rates(angles: list[str]) -> list[str]:
    return [f"{angle}_velocity" for angle in angles]


_HOPPER = ["torso_angle", "thigh_angle", "leg_angle", "foot_angle"]
_WALKER = [*_HOPPER, "left_thigh_angle", "left_leg_angle", "left_foot_angle"]
_CHEETAH = ["tip_angle", *(f"{end}_{part}_angle" for end in ("back", "front") for part in ("thigh", "shin", "foot"))]
_ANT = [
    f"{leg}_{joint}_angle"
    for leg in ("front_left", "front_right", "back_left", "back_right")
    for joint in ("hip", "ankle")
]
_SWIMMER = ["tip_angle", "first_rotor_angle", "second_rotor_angle"]
_AXES = ["x", "y", "z"]

#: Names by id of the environment. Units are those of the environment: m, rad, m/s, rad/s; N and N m for forces.
#: Ant's ``force_<body>_<component>`` are MuJoCo's ``cfrc_ext`` of bodies 1 to 13, six components each.
FEATURES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "Hopper-v5": ("z", *_HOPPER, "x_velocity", "z_velocity", *_with_rates(_HOPPER)),
        "Walker2d-v5": ("z", *_WALKER, "x_velocity", "z_velocity", *_with_rates(_WALKER)),
        "HalfCheetah-v5": ("z", *_CHEETAH, "x_velocity", "z_velocity", *_with_rates(_CHEETAH)),
        "Ant-v5": (
            "z",
            *(f"orientation_{part}" for part in "wxyz"),
            *_ANT,
            *(f"{axis}_velocity" for axis in _AXES),
            *(f"{axis}_angular_velocity" for axis in _AXES),
            *_with_rates(_ANT),
            *(f"force_{body}_{component}" for body in range(1, 14) for component in range(6)),
        ),
        "InvertedPendulum-v5": ("cart_position", "pole_angle", "cart_velocity", "pole_angle_velocity"),
        "InvertedDoublePendulum-v5": (
            "cart_position",
            "first_pole_sin",
            "second_pole_sin",
            "first_pole_cos",
            "second_pole_cos",
            "cart_velocity",
            "first_pole_angle_velocity",
            "second_pole_angle_velocity",
            "constraint_force",
        ),
        "Swimmer-v5": (*_SWIMMER, "x_velocity", "y_velocity", *_with_rates(_SWIMMER)),
        "Reacher-v5": (
            "first_arm_cos",
            "second_arm_cos",
            "first_arm_sin",
            "second_arm_sin",
            "target_x",
            "target_y",
            "first_arm_angle_velocity",
            "second_arm_angle_velocity",
            "fingertip_to_target_x",
            "fingertip_to_target_y",
        ),
    }
)
