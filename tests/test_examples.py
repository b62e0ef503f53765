"""The examples in the docstrings of what a user meets first do what they say."""

import doctest
import importlib

import pytest

from ciperlib import plugin
from ciperlib.registry import REGISTRIES

FIRST = (
    "config.Config", "data.imageset.load_images", "learn.augment.augmentation.Augmentation",
    "learn.augment.transformations.make_transformation", "learn.encoders.make_encoder", "learn.training.fit",
    "learn.zoo.find_run", "learn.methods.losses.nt_xent", "analyse.features.extract_features",
    "analyse.probing.probes.fit_linear_probe", "analyse.probing.probes.fit_regression_probe",
    "analyse.probing.tables.probe_run", "analyse.attribution.fullgrad.FullGrad", "analyse.layout.layouts.fit_layout",
    "analyse.orbits.extract_orbits", "analyse.equivariance.battery.evaluate_equivariance",
    "analyse.information.explaining_away.explaining_away", "analyse.report.load_report", "present.labels.label",
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
