"""Lower floors never import upper ones, torch stays out of what plans, files stay small."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import stoker

ROOT = Path(stoker.__file__).parent
FLOORS = [  # rooms, the lowest first; a room imports from its own floor and those below
    {"config", "errors"},
    {"ops"},
    {"quant"},
    {"model"},
    {"engine.request"},
    {"engine.blocks"},
    {"engine.scheduling"},
    {"engine.text", "engine.sampling"},
    {"engine.execution"},
    {"engine"},
    {"engine.setup"},
    {"llm"},
    {"doctor", "job", "report"},
    {"cli"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
WITHOUT_TORCH = ("engine/request", "engine/blocks", "engine/scheduling")
FILES = [path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py"]
MAP = ROOT.parent / "docs" / "architecture.md"


def room(module):
    """The innermost room that `module`, a dotted name below stoker, lies in."""
    parts = module.split(".")
    return next(
        name
        for name in (".".join(parts[:end]) for end in (2, 1))
        if name in FLOOR_OF  # an unknown room is an error: StopIteration
    )


def module_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imported(path):
    """The modules of stoker that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name == "stoker.__version__":
                continue
            if name.startswith("stoker."):
                rest = name.removeprefix("stoker.")
                # `from stoker import LLM` takes the package's own names: the Python face
                yield (
                    rest
                    if (ROOT / rest.split(".")[0]).is_dir()
                    or rest.split(".")[0]
                    in (
                        "config",
                        "errors",
                    )
                    else "llm"
                )


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path):
    here = FLOOR_OF[room(module_of(path))]
    upper = [name for name in imported(path) if FLOOR_OF[room(name)] > here]
    assert not upper, f"{path} imports {upper} from above"


def test_every_room_exists_and_has_a_floor():
    folders = {p.parent.relative_to(ROOT).as_posix() for p in ROOT.glob("*/__init__.py")} - {"."}
    engine = {f"engine.{p.parent.name}" for p in ROOT.glob("engine/*/__init__.py")}
    assert {name for name in folders if "/" not in name} | engine | {"config", "errors"} == {
        *FLOOR_OF
    }


def test_rooms_below_the_device_import_no_torch():
    for folder in WITHOUT_TORCH:
        for path in (ROOT / folder).glob("*.py"):
            tree = ast.parse(path.read_text())
            names = [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
            names += [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
            assert not [n for n in names if n.split(".")[0] in ("torch", "transformers")], path
    modules = ", ".join(
        f"stoker.{module_of(p)}" for folder in WITHOUT_TORCH for p in (ROOT / folder).glob("*.py")
    )
    code = f"import {modules}, sys; assert not {{'torch', 'transformers'}} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def floors():
    """The table of floors for the map, from FLOORS and what each room says of itself."""
    lines = ["| floor | room | holds |", "| --- | --- | --- |"]
    for floor, rooms in reversed([*enumerate(FLOORS)]):
        for name in sorted(rooms):
            folder = ROOT / name.replace(".", "/")
            file = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
            about = ast.get_docstring(ast.parse(file.read_text())) or ""
            shown = f"{name.replace('.', '/')}/" if folder.is_dir() else file.name
            lines.append(
                f"| {floor} | `{shown}` | {' '.join(about.split(chr(10) * 2)[0].split())} |"
            )
    return "\n".join(lines)


def test_the_map_has_the_floors():
    assert floors() in MAP.read_text(), f"paste this into {MAP.name}:\n{floors()}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_small(path):
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize(
    "module",
    [
        "stoker",
        "stoker.engine.active_request",
        "stoker.llm.beam",
        "stoker.cli.main",
        "stoker.job.prompts",
    ],
)
def test_torch_free(module):
    code = f"import {module}, sys; assert not {{'torch', 'transformers'}} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_start_imports_no_more_than_it_needs():
    """Loading a model takes a second and a half, which half a second of sympy would add to."""
    code = "import sys; from stoker import LLM; LLM(); assert 'sympy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_loads_no_formats():
    code = "import stoker.cli.main as m, sys; m.build_parser().format_help()"
    code += "; assert not {'pyarrow', 'jinja2', 'csv'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, "10000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, None),
    ],
)
def test_threads_without_work_wait_briefly_unless_the_user_says_how(given, found):
    rest = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    code = "import os, stoker; print(os.environ.get('GOMP_SPINCOUNT'))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=rest | given, capture_output=True, check=True
    )
    assert done.stdout.decode().strip() == str(found)
