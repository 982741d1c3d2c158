"""Lower floors never import upper ones, torch stays out of what plans, files stay small."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import stoker

ROOT = Path(stoker.__file__).parent
FLOORS = {
    "config": 0,
    "errors": 0,
    "ops": 1,
    "quant": 2,
    "limits": 2,
    "model": 3,
    "engine": 4,
    "llm": 5,
    "job": 5,
    "report": 5,
    "server": 5,
    "cli": 6,
}
FILES = [path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py"]


def room(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path):
    """The rooms that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name == "stoker":  # the package's own names: the Python face
                yield "llm"
            elif name and name.startswith("stoker."):
                yield name.split(".")[1]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path):
    here = FLOORS[room(path)]
    upper = [name for name in imported(path) if FLOORS[name] > here]
    assert not upper, f"{path} imports {upper} from above"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_small(path):
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize(
    "module",
    [
        "stoker",
        "stoker.engine.scheduler",
        "stoker.engine.replay",
        "stoker.engine.live",
        "stoker.engine.beam",
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
