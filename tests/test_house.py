"""The house stands: imports run one way, no circle, no file too long to read."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import sb3_barpo

ROOT = Path(__file__).parents[1]
PACKAGE = "sb3_barpo"
LONGEST = 350

#: For each room, folder or file, the rooms that it may import from.
ROOMS: dict[str, set[str]] = {
    # what the rest stands on
    "checks": set(),
    "expressions": set(),
    "figures": set(),
    "environments": {"expressions"},
    "vec_envs": set(),
    "episodes": {"vec_envs"},
    "resume": set(),
    "seeds": set(),
    "schedules": {"checks"},
    # policies <- adversary <- losses <- training
    "policies": set(),
    "adversary": {"policies", "checks"},
    "certify": {"attacks", "adversary", "episodes", "policies", "checks"},
    "losses": {"certify", "adversary", "policies", "schedules", "checks"},
    "controllers": {"schedules", "checks"},
    # an attacker that learns can be in the rollouts too
    "training": {
        "sensors", "controllers", "losses", "certify", "attacks", "adversary", "vec_envs", "policies", "schedules",
        "checks",
    },
    # former addresses
    "recurrent": {"training"},
    "robust_update": {"training"},
    "evaluate": {"evaluation"},
    "algorithms": {"policies"},  # it imports the algorithms themselves only when they are asked for
    "hyperparams": {"algorithms"},
    "agents": {"environments", "algorithms", "policies", "resume", "checks"},
    # adversary <- attacks <- evaluation <- experiment <- tuning, zoo
    "attacks": {"adversary", "vec_envs", "policies", "seeds", "checks"},
    "sensors": {"attacks", "adversary", "vec_envs", "policies", "checks"},
    "evaluation": {
        # whether a victim was trained to be robust, and against what
        "training",
        "sensors", "agents", "attacks", "certify", "adversary", "episodes", "vec_envs", "policies", "schedules",
        "resume", "seeds", "figures", "checks",
    },
    "experiment": {
        "evaluation", "environments", "algorithms", "agents", "attacks", "policies", "expressions", "resume", "seeds",
        "checks",
    },
    "testing": {"attacks", "losses", "certify", "adversary", "policies"},
    "zoo": {
        "evaluation", "attacks", "experiment", "sensors", "environments", "algorithms", "agents", "schedules",
        "expressions", "hyperparams", "resume", "checks",
    },
    "tuning": {
        "zoo", "experiment", "evaluation", "sensors", "environments", "algorithms", "agents", "attacks", "adversary",
        "controllers", "schedules", "expressions", "hyperparams", "resume", "seeds", "figures", "checks",
    },
    "comparison": {
        "zoo", "experiment", "evaluation", "environments", "algorithms", "agents", "attacks", "schedules",
        "hyperparams", "sensors", "resume", "seeds", "figures", "checks",
    },
    # needs none of the rest
    "lab": {"controllers", "schedules", "figures", "checks"},
}  # fmt: skip
#: What may import from every room.
DOORS = {"", "__main__", "cli", "commands", "demo"}
#: The one bridge between rooms, from a module: landscapes of trained agents, on which no exact problem depends.
BRIDGE = {
    ("lab.landscape", "agents"),
    ("lab.landscape", "attacks"),
    ("lab.landscape", "evaluation"),
    ("lab.landscape", "resume"),
    ("lab.landscape", "seeds"),
}


def modules(folder: Path) -> dict[str, Path]:
    """All modules below a package, by their names within it; ``""`` is the package itself."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


def imported(path: Path, names: set[str], package: str) -> Iterator[str]:
    """
    The package's modules that a file imports, inside functions and for types too. ``from room import module`` is an
    import of the module, not of what else the room holds.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            full = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            full = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            assert not isinstance(node, ast.ImportFrom), f"{path}: imports are absolute in this package"
            continue
        for name in full:
            if name == package or name.startswith(package + "."):
                inner = name[len(package) + 1 :]
                yield inner if inner in names else inner.rpartition(".")[0]


def graph(folder: Path, package: str = PACKAGE) -> dict[str, set[str]]:
    """For each module the modules that it imports."""
    found = modules(folder)
    return {name: set(imported(path, set(found), package)) - {name} for name, path in found.items()}


def room(module: str) -> str:
    return module.partition(".")[0]


def arrows_up(imports: dict[str, set[str]], rooms: dict[str, set[str]]) -> set[tuple[str, str]]:
    """Modules and the rooms from which they import, though they may not."""
    return {
        (module, room(other))
        for module, others in imports.items()
        for other in others
        if room(module) not in DOORS and room(other) not in rooms[room(module)] | {room(module)}
    }


def circle(imports: dict[str, set[str]]) -> list[str]:
    """The modules of a circle; none if there is none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    return graph(Path(sb3_barpo.__file__).parent)


def test_every_room_is_drawn(imports: dict[str, set[str]]) -> None:
    assert {room(module) for module in imports} - DOORS <= ROOMS.keys(), "Draw the new room in ROOMS."
    assert not circle({name: set(others) for name, others in ROOMS.items()})


def test_imports_run_one_way(imports: dict[str, set[str]]) -> None:
    assert arrows_up(imports, ROOMS) == BRIDGE


def test_there_is_no_circle(imports: dict[str, set[str]]) -> None:
    assert not circle(imports)


def test_an_arrow_back_up_and_a_circle_are_found(tmp_path: Path) -> None:
    files = {
        "__init__": "",
        "low/__init__": "",
        "low/a": "from house.low.b import c\n",
        "low/b": "def late():\n    import house.high.d\n",
        "high/__init__": "from house.high import d\n",
        "high/d": "from house.low import a\nfrom house import LowLevel\n",
    }
    for name, text in files.items():
        (tmp_path / f"{name}.py").parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.py").write_text(text)
    imports = graph(tmp_path, "house")
    assert imports["high"] == {"high.d"}
    assert imports["high.d"] == {"low.a", ""}
    assert arrows_up(imports, {"low": set(), "high": {"low", ""}}) == {("low.b", "high")}
    assert set(circle(imports)) == {"low.a", "low.b", "high.d"}
    assert not circle({"b": {"a"}, "c": {"a", "b"}})


@pytest.mark.parametrize("folder", [PACKAGE, "tests", "examples", "benchmarks"])
def test_no_file_is_too_long_to_read(folder: str) -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert lengths
    assert not {str(path): length for path, length in lengths.items() if length > LONGEST}
