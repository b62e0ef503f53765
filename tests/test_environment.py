"""The frame: two lists of dependencies that agree, files that every checkout needs, and what must not be in it."""

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import yaml

from ciperlib.files import project_root

CONDA_NAMES = {"torch": "pytorch", "kaleido": "python-kaleido", "dask": "dask-core"}


def pyproject():
    return tomllib.loads((project_root() / "pyproject.toml").read_text())["project"]


def bounds(requirement):
    name, bound = re.fullmatch(r"([\w-]+)\s*(.*)", requirement).groups()
    return name.lower(), bound.replace(" ", "")


def test_environment_yml_has_the_names_and_bounds_of_pyproject():
    project = pyproject()
    extras = project["optional-dependencies"]
    wanted = dict(bounds(r) for r in [*project["dependencies"], *extras["notebooks"], *extras["batch"], *extras["dev"]])
    wanted = {CONDA_NAMES.get(name, name): bound for name, bound in wanted.items()}
    listed = yaml.safe_load((project_root() / "environment.yml").read_text())["dependencies"]
    (pip,) = [item["pip"] for item in listed if isinstance(item, dict)]
    found = dict(bounds(item) for item in [*listed, *pip] if isinstance(item, str) and not item.startswith("-e"))
    assert found.pop("python") == project["requires-python"]
    found.pop("pip")
    assert found == wanted


def test_every_line_of_environment_yml_says_what_it_is_for():
    lines = (project_root() / "environment.yml").read_text().splitlines()
    named = [
        line for line in lines if re.match(r"\s+- \w", line) and not line.strip().startswith(("- pip:", "- conda"))
    ]
    assert all("#" in line for line in named)


def test_constraints_pin_what_is_installed_here():
    pinned = dict(line.split("==") for line in (project_root() / "constraints.txt").read_text().split() if "==" in line)
    names = {bounds(requirement)[0] for requirement in pyproject()["dependencies"]}
    assert names <= {name.lower().replace("_", "-") for name in pinned}


@pytest.mark.parametrize(
    "name", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "LICENSE", "data/README.md"]
)
def test_a_file_that_every_checkout_needs(name):
    assert (project_root() / name).stat().st_size > 100


def test_the_readme_names_commands_that_exist():
    makefile = (project_root() / "Makefile").read_text()
    for target in re.findall(r"make (\w+)`", (project_root() / "README.md").read_text()):
        assert re.search(rf"^{target}:", makefile, re.M), target


# what a room must not use: those that lie behind it; `batch` knows of no room but itself
LATER = {
    "data": ("learn", "analyse", "batch", "present"), "learn": ("analyse", "batch", "present"),
    "analyse": ("batch", "present"), "batch": ("data", "learn", "analyse", "present"), "present": (),
}  # fmt: skip
QUESTIONS = ("probing", "attribution", "layout", "equivariance", "information")  # of analyse, in their order


def imports_of(path, package):
    """Every module and name that a file imports, by its whole name: relative or not, inside functions and by string."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: -node.level + 1 or None] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{source}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"[\w.]+", node.value):
            found.add(node.value)  # of importlib.import_module
    return found


def later_rooms(path):
    """Rooms, and folders of analyse, that a file of the library uses and that lie behind its own."""
    parts = path.relative_to(project_root()).with_suffix("").parts
    later = list(LATER[parts[1]])
    if parts[2] in QUESTIONS:
        later += [f"analyse.{question}" for question in QUESTIONS[QUESTIONS.index(parts[2]) + 1 :]]
    names = imports_of(path, ".".join(parts[:-1]))
    return {room for room in later for name in names if re.match(rf"ciperlib\.{re.escape(room)}(\.|$)", name)}


def test_rooms_import_backwards_only():
    """data -> learn -> analyse -> present, batch beside it: a room may use those before it, and so may its folders."""
    files = [path for room in LATER for path in (project_root() / "ciperlib" / room).rglob("*.py")]
    assert {"turntable", "controls", *QUESTIONS} <= {path.parent.name for path in files}
    assert not {str(path): later for path in files if (later := later_rooms(path))}


@pytest.mark.parametrize(
    "line",
    [
        "import ciperlib.present.plotting",
        "from ciperlib.analyse import probing",
        "from ciperlib import present",
        "from ...learn.runs import load_run",
        "def f():\n    from ciperlib.learn.runs import load_run",
        "importlib.import_module('ciperlib.analyse.probing.probes')",
    ],
)
def test_an_import_of_a_later_room_is_found_in_a_subfolder(line, tmp_path, monkeypatch):
    path = tmp_path / "ciperlib" / "data" / "turntable" / "planted.py"
    path.parent.mkdir(parents=True)
    path.write_text(line)
    monkeypatch.setattr(sys.modules[__name__], "project_root", lambda: tmp_path)
    assert later_rooms(path)
    path = tmp_path / "ciperlib" / "analyse" / "probing" / "planted.py"
    path.parent.mkdir(parents=True)
    path.write_text("from ciperlib.analyse.layout import layouts")
    assert later_rooms(path) == {"analyse.layout"}


def needed_first(path):
    """The library's modules that must have been read before this one: what it imports outside functions."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {Path(*alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            module = Path(*node.module.split("."))
            inner = {module / alias.name for alias in node.names}
            found |= {name for name in inner if (project_root() / name.with_suffix(".py")).exists()} or {module}
    return {
        file
        for name in found
        for file in (project_root() / name.with_suffix(".py"), project_root() / name / "__init__.py")
        if file.exists()
    }


def test_no_two_modules_need_each_other():
    graph = {path: needed_first(path) for path in (project_root() / "ciperlib").rglob("*.py")}
    assert sum(map(len, graph.values())) > 200
    list(TopologicalSorter(graph).static_order())  # a CycleError names the circle
    graph[project_root() / "ciperlib" / "registry.py"].add(project_root() / "ciperlib" / "config.py")
    with pytest.raises(CycleError):
        list(TopologicalSorter(graph).static_order())


def test_no_large_files_in_the_repository():
    listed = subprocess.run(["git", "ls-files"], cwd=project_root(), capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("needs a git checkout")
    large = [
        name
        for name in listed.stdout.splitlines()
        if (project_root() / name).exists() and (project_root() / name).stat().st_size > 2e6
    ]
    assert not large
