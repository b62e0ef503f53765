"""The examples in the docstrings of what a user meets first do what they say."""

import ast
import doctest
import importlib
import re

import pytest

from ciperlib import plugin
from ciperlib.files import project_root
from ciperlib.registry import REGISTRIES

FIRST = (
    "config.Config", "data.imageset.load_images", "learn.augment.augmentation.Augmentation",
    "learn.augment.transformations.make_transformation", "learn.encoders.make_encoder", "learn.training.fit",
    "learn.zoo.find_run", "learn.methods.losses.nt_xent", "analyse.features.extract_features",
    "analyse.probing.probes.fit_linear_probe", "analyse.probing.probes.fit_regression_probe",
    "analyse.probing.tables.probe_run", "analyse.attribution.fullgrad.FullGrad", "analyse.layout.layouts.fit_layout",
    "analyse.orbits.extract_orbits", "analyse.equivariance.battery.evaluate_equivariance",
    "analyse.information.explaining_away.explaining_away", "analyse.report.load_report", "labels.label",
    "plugin.load_plugin",
)  # fmt: skip


@pytest.mark.parametrize("name", FIRST)
def test_the_example_does_what_it_says(name, capsys):
    place, _, own = f"ciperlib.{name}".rpartition(".")
    module = importlib.import_module(place)
    before, loaded = [registry.entries() for registry in REGISTRIES], dict(plugin._LOADED)
    (example,) = doctest.DocTestFinder(recurse=False).find(getattr(module, own), own, globs=vars(module).copy())
    runner = doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
    runner.run(example)
    for registry, entries in zip(REGISTRIES, before):
        registry.restore(entries)
    plugin._LOADED.clear()
    plugin._LOADED.update(loaded)
    assert example.examples
    assert not runner.failures, capsys.readouterr().out


def public(tree):
    """Every public function, class and method of a module, with the names of its class's bases."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield node, ()
            bases = tuple(map(ast.unparse, node.bases)) if isinstance(node, ast.ClassDef) else ()
            for method in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                    yield method, bases


INHERITED = {"forward", "backward", "build_heads", "augment", "draw", "apply", "check", "compare"}  # said by the base


def test_every_public_name_says_what_it_is():
    """But for what overrides a method that does, the commands (argparse has their help), and the objects' builders."""
    bare = []
    for path in sorted((project_root() / "ciperlib").rglob("*.py")):
        if path.name not in ("__main__.py", "catalogue.py"):
            for node, bases in public(ast.parse(path.read_text())):
                if not ast.get_docstring(node) and not (bases and node.name in INHERITED):
                    bare.append(f"{path.name}: {node.name}")
    assert not bare


def test_every_example_is_named_where_one_learns_to_add_a_thing():
    text = (project_root() / "CONTRIBUTING.md").read_text()
    linked = set(re.findall(r"\(tests/examples/(\w+\.py)\)", text))
    assert linked == {path.name for path in (project_root() / "tests" / "examples").glob("*.py")}
    tests = (project_root() / "tests" / "test_plugins.py").read_text()
    for _, chosen in re.findall(r"make test ARGS=(['\"])-k (.+?)\1`", text):
        for word in chosen.strip('"').split(" or "):
            assert re.search(rf"def test_\w*{word}", tests), word
    assert {path.stem for path in (project_root() / "tests" / "examples").glob("*.py")} <= set(
        re.findall(r'load\("(\w+)"\)|for name in', tests)
    )
