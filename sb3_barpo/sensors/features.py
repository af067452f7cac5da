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

# Of Humanoid, joints and bodies in MuJoCo's order.
_HUMANOID = ["abdomen_z", "abdomen_y", "abdomen_x"]
_HUMANOID += [f"{side}_{joint}" for side in ("right", "left") for joint in ("hip_x", "hip_z", "hip_y", "knee")]
_HUMANOID += [f"{side}_{joint}" for side in ("right", "left") for joint in ("shoulder1", "shoulder2", "elbow")]
_BODIES = ["torso", "lower_waist", "pelvis"]
_BODIES += [f"{side}_{part}" for side in ("right", "left") for part in ("thigh", "shin", "foot")]
_BODIES += [f"{side}_{part}" for side in ("right", "left") for part in ("upper_arm", "lower_arm")]
_PUSHER = ["shoulder_pan", "shoulder_lift", "upper_arm_roll", "elbow_flex", "forearm_roll", "wrist_flex", "wrist_roll"]


def _of_bodies(*quantities: str) -> list[str]:
    return [f"{body}_{quantity}_{axis}" for body in _BODIES for quantity in quantities for axis in _AXES]


_HUMANOIDS = (
    "z",
    *(f"orientation_{part}" for part in "wxyz"),
    *(f"{joint}_angle" for joint in _HUMANOID),
    *(f"{axis}_velocity" for axis in _AXES),
    *(f"{axis}_angular_velocity" for axis in _AXES),
    *(f"{joint}_angle_velocity" for joint in _HUMANOID),
    *(f"{body}_inertia_{component}" for body in _BODIES for component in range(10)),
    *_of_bodies("angular_velocity", "velocity"),
    *(f"{joint}_torque" for joint in _HUMANOID),
    *_of_bodies("torque", "force"),
)

#: Names by id of the environment. Units are those of the environment: m, rad, m/s, rad/s; N and N m for forces.
#: Ant's ``force_<body>_<component>`` are MuJoCo's ``cfrc_ext`` of bodies 1 to 13, six components each. Humanoid's
#: inertias are its ``cinert``, ten components each, its bodies' velocities ``cvel``, its torques and forces
#: ``qfrc_actuator`` and ``cfrc_ext``.
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
        "Pusher-v5": (
            *(f"{joint}_angle" for joint in _PUSHER),
            *(f"{joint}_angle_velocity" for joint in _PUSHER),
            *(f"{what}_{axis}" for what in ("fingertip", "object", "goal") for axis in _AXES),
        ),
        "Humanoid-v5": _HUMANOIDS,
        "HumanoidStandup-v5": _HUMANOIDS,
    }
)
