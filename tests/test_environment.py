"""The frame: two lists of dependencies that agree, files that every checkout needs, and what must not be in it."""

import re
import subprocess
import tomllib

import pytest
import yaml

from ciperlib.files import home

CONDA_NAMES = {"torch": "pytorch", "kaleido": "python-kaleido", "dask": "dask-core"}


def pyproject():
    return tomllib.loads((home() / "pyproject.toml").read_text())["project"]


def bounds(requirement):
    name, bound = re.fullmatch(r"([\w-]+)\s*(.*)", requirement).groups()
    return name.lower(), bound.replace(" ", "")


def test_environment_yml_has_the_names_and_bounds_of_pyproject():
    project = pyproject()
    extras = project["optional-dependencies"]
    wanted = dict(bounds(r) for r in [*project["dependencies"], *extras["notebooks"], *extras["batch"], *extras["dev"]])
    wanted = {CONDA_NAMES.get(name, name): bound for name, bound in wanted.items()}
    listed = yaml.safe_load((home() / "environment.yml").read_text())["dependencies"]
    (pip,) = [item["pip"] for item in listed if isinstance(item, dict)]
    found = dict(bounds(item) for item in [*listed, *pip] if isinstance(item, str) and not item.startswith("-e"))
    assert found.pop("python") == project["requires-python"]
    found.pop("pip")
    assert found == wanted


def test_every_line_of_environment_yml_says_what_it_is_for():
    lines = (home() / "environment.yml").read_text().splitlines()
    named = [
        line for line in lines if re.match(r"\s+- \w", line) and not line.strip().startswith(("- pip:", "- conda"))
    ]
    assert all("#" in line for line in named)


def test_constraints_pin_what_is_installed_here():
    pinned = dict(line.split("==") for line in (home() / "constraints.txt").read_text().split() if "==" in line)
    names = {bounds(requirement)[0] for requirement in pyproject()["dependencies"]}
    assert names <= {name.lower().replace("_", "-") for name in pinned}


@pytest.mark.parametrize(
    "name", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "LICENSE", "data/README.md"]
)
def test_a_file_that_every_checkout_needs(name):
    assert (home() / name).stat().st_size > 100


def test_the_readme_names_commands_that_exist():
    makefile = (home() / "Makefile").read_text()
    for target in re.findall(r"make (\w+)`", (home() / "README.md").read_text()):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_rooms_import_backwards_only():
    """data -> learn -> analyse -> present: a room may use those before it."""
    rooms = ["data", "learn", "analyse", "present"]
    for place, room in enumerate(rooms):
        later = "|".join(rooms[place + 1 :])
        for path in (home() / "ciperlib" / room).glob("*.py"):
            assert not later or not re.search(rf"ciperlib\.({later})\b", path.read_text()), path


def test_no_large_files_in_the_repository():
    listed = subprocess.run(["git", "ls-files"], cwd=home(), capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("needs a git checkout")
    large = [
        name for name in listed.stdout.splitlines() if (home() / name).exists() and (home() / name).stat().st_size > 2e6
    ]
    assert not large
