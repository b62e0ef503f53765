"""What can be chosen by name says what it is where it is defined: the facts are true, and a forgotten one is loud."""

from dataclasses import fields

import pytest
import torch
from conftest import TINY, make_noise_images

from ciperlib.config import Config, ConfigError
from ciperlib.learn.methods.base import Objective
from ciperlib.learn.training import Trainer
from ciperlib.registry import Entry, Method, Registry, RegistryError, methods

CHOICES = {f.name for f in fields(Config)}
TRAINED = [name for name, method in methods.items() if method.trained]


class Spy:
    """A config that notes which of its choices are read."""

    def __init__(self, config):
        self.config, self.read = config, set()

    def __getattr__(self, name):
        self.read |= {name} & CHOICES | ({"invariant_share"} if name == "split" else set())
        return getattr(self.config, name)


@pytest.mark.parametrize("method", TRAINED)
@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_what_is_read_while_training_is_in_the_name_and_nothing_that_is_owned_is_there_in_vain(method, optimiser):
    spy = Spy(Config(**{**TINY, "epochs": 1, "method": method, "optimiser": optimiser}))
    trainer = Trainer(spy, make_noise_images(), torch.device("cpu"))
    trainer.train_epoch()
    named = spy.config.read_choices() | {"alpha", "recipe"}
    assert spy.read <= named
    assert set(methods[method].reads) <= spy.read


def test_a_choice_counts_only_with_the_step_that_reads_it():
    name = Config(augmentations="pose").name
    assert name == Config(augmentations="pose", flip_probability=0.8).name
    assert name == Config(augmentations="pose", jitter_strength=0.1, augmentation_order="reversed").name
    assert Config().name != Config(flip_probability=0.8).name
    assert Config(augmentations="flip", jitter_strength=0.1).name == Config(augmentations="flip").name
    assert Config(augmentations="flip", augmentation_order="reversed").name == Config(augmentations="flip").name


def facts(**changed):
    return {"label": "x", "colour": "#000000", **changed}


@pytest.fixture
def registry():
    """Of methods, with nothing in it but what a test registers."""
    return Registry("method", Method, "ciperlib.learn.methods")


def test_a_forgotten_fact_or_an_unknown_one_is_said_where_the_thing_is_defined(registry):
    with pytest.raises(RegistryError, match=r"method 'mine': .*colour"):
        registry.register("mine", label="x")(Objective)
    with pytest.raises(RegistryError, match=r"method 'mine': .*colur"):
        registry.register("mine", **facts(colur="#000000"))(Objective)
    with pytest.raises(RegistryError, match=r"method 'mine' reads 'temprature', which is no choice.*'temperature'"):
        registry.register("mine", **facts(reads=("temprature",)))(Objective)
    assert "mine" not in registry


def test_a_name_is_taken_once_and_a_cell_that_is_run_again_replaces_its_own(registry):
    def define(text):
        space = {"__name__": "__main__", "Objective": Objective}
        exec(f"class Mine(Objective):\n    text = {text!r}", space)
        return space["Mine"]

    registry.register("mine", **facts())(define("first"))
    registry.register("mine", **facts())(define("second"))
    assert registry["mine"].build.text == "second"
    with pytest.raises(RegistryError, match="there is a method 'mine' already, of __main__"):
        registry.register("mine", **facts())(Objective)


def test_entries_stand_by_place_then_by_name(registry):
    for name, place in (("b", 5), ("c", 1), ("a", 5)):
        registry.register(name, **facts(place=place))(type(name, (Objective,), {}))
    assert list(registry) == ["c", "a", "b"]


def test_a_method_s_own_recipe_renames_its_own_runs_alone(monkeypatch):
    before = {name: Config(method=name).name for name in methods}
    sie = methods["sie"]
    monkeypatch.setitem(methods._entries, "sie", Method(**{**vars(sie), "recipe": 2}))
    after = {name: Config(method=name).name for name in methods}
    assert [name for name in methods if before[name] != after[name]] == ["sie"]


def test_every_entry_says_what_a_figure_needs():
    for name, method in methods.items():
        assert isinstance(method, Entry)
        assert method.name == name
        assert issubclass(method.build, Objective)
        assert len(method.colour) == 7
    colours = [method.colour for method in methods.values()]
    assert len(set(colours)) == len(colours)
    with pytest.raises(ConfigError, match="method has no 'cipr'; did you mean 'ciper'"):
        Config(method="cipr")
