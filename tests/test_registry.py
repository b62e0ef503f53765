"""What can be chosen by name says what it is where it is defined: the facts are true, and a forgotten one is loud."""

import json
from dataclasses import fields

import pytest
import torch
from conftest import TINY, make_noise_images

from ciperlib.config import Config, ConfigError
from ciperlib.labels import labels
from ciperlib.learn.methods.base import Objective
from ciperlib.learn.runs import load_run
from ciperlib.learn.training import Trainer, TrainingError, fit
from ciperlib.learn.zoo import zoo_root
from ciperlib.registry import (
    REGISTRIES,
    Architecture,
    Entry,
    Method,
    Option,
    Registry,
    RegistryError,
    architectures,
    methods,
    options,
)

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


OWNED = sorted(name for name, choice in Config.__dataclass_fields__.items() if choice.metadata["owned"])


def test_every_owned_choice_is_read_by_somebody_that_ships():
    reads = {name for registry in REGISTRIES for entry in registry.values() for name in entry.reads}
    assert reads | {"augmentation_order"} == set(OWNED)


def test_whatever_a_new_entry_reads_no_shipped_run_is_renamed(monkeypatch):
    configs = [json.loads(path.read_text()) for path in sorted(zoo_root().glob("*/config.json"))]
    assert len(configs) >= 123
    before = [Config.from_parameters(**config).name for config in configs]
    new = {"label": "x", "reads": tuple(OWNED), "recipe": 7, "options": {"own": Option(1, "x")}}
    monkeypatch.setitem(
        methods._entries, "mine", Method(name="mine", build=Objective, colour="#000000", alpha=None, **new)
    )
    monkeypatch.setitem(architectures._entries, "mine", Architecture(name="mine", build=Objective, **new))
    assert [Config.from_parameters(**config).name for config in configs] == before
    assert Config(method="mine").name != Config(method="mine", orthogonality="sample").name  # and its own count
    simclr, mine = ({"method": "simclr", "architecture": name} for name in ("resnet10", "mine"))
    assert Config(**simclr, orthogonality="sample").name == Config(**simclr).name
    assert Config(**mine, orthogonality="sample").name != Config(**mine).name


def test_a_choice_counts_only_with_the_step_that_reads_it():
    name = Config(augmentations="pose").name
    assert name == Config(augmentations="pose", flip_probability=0.8).name
    assert name == Config(augmentations="pose", jitter_strength=0.1, augmentation_order="reversed").name
    assert Config().name != Config(flip_probability=0.8).name
    assert Config(augmentations="flip", jitter_strength=0.1).name == Config(augmentations="flip").name
    assert Config(augmentations="flip", augmentation_order="reversed").name == Config(augmentations="flip").name


def facts(**changed):
    return {"label": "x", "colour": "#000000", "alpha": None, **changed}


@pytest.fixture
def registry():
    """Of methods, with nothing in it but what a test registers."""
    return Registry("method", Method, "ciperlib.learn.methods")


def test_a_forgotten_fact_or_an_unknown_one_is_said_where_the_thing_is_defined(registry):
    with pytest.raises(RegistryError, match=r"method 'mine': .*colour"):
        registry.register("mine", label="x")(Objective)
    with pytest.raises(RegistryError, match=r"method 'mine': .*alpha"):
        registry.register("mine", label="x", colour="#000000")(Objective)
    with pytest.raises(RegistryError, match=r"method 'mine': .*colur"):
        registry.register("mine", **facts(colur="#000000"))(Objective)
    with pytest.raises(RegistryError, match=r"method 'mine' reads 'temprature', no choice.*'temperature'"):
        registry.register("mine", **facts(reads=("temprature",)))(Objective)
    with pytest.raises(RegistryError, match="reads 'width', which counts in every name"):
        registry.register("mine", **facts(reads=("width",)))(Objective)
    assert "mine" not in registry


def test_a_package_that_is_missing_is_named_when_the_entry_is_used(registry):
    registry.register("mine", **facts(package="nothing_of_this_name"))(Objective)
    with pytest.raises(RegistryError, match="'mine' needs the package nothing_of_this_name: pip install"):
        registry["mine"](Config(), ())
    assert architectures["vit_tiny"].package == "timm"


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
    monkeypatch.setitem(methods._entries, "sie", Method(**{**vars(sie), "recipe": sie.recipe + 1}))
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


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def with_options(monkeypatch):
    """SIE and CIPER with an option of each kind."""
    own = {
        "sie_weight": Option(10.0, "of the variance", low=0.0, high=100.0),
        "sie_layers": Option(2, "of the expander", low=1, high=4),
        "sie_norm": Option("batch", "of the expander", among=("batch", "none")),
        "sie_bias": Option(False, "of the expander's last layer"),
    }
    monkeypatch.setitem(methods._entries, "sie", Method(**{**vars(methods["sie"]), "options": own}))
    other = {"ciper_slope": Option(1.0, "of nothing", low=0.0)}
    monkeypatch.setitem(methods._entries, "ciper", Method(**{**vars(methods["ciper"]), "options": other}))


def test_an_option_counts_where_it_is_not_the_default_and_its_owner_is_in_use(with_options):
    plain = Config(method="sie")
    assert plain.name == Config(method="sie", options="sie_weight=10, sie_norm=batch,sie_bias=False").name
    changed = Config(method="sie", options="sie_weight=5")
    assert changed.name != plain.name
    assert changed.name == Config(method="sie", options=" sie_weight = 5.0 , ciper_slope=3").name
    assert Config(method="sie", options="sie_weight=-0").name == Config(method="sie", options="sie_weight=0").name
    assert Config(options="sie_weight=5").name == Config().name  # SIE's, and CIPER is trained
    assert Config.from_parameters(**changed.to_dict()) == changed
    assert (changed.option("sie_weight"), changed.option("sie_layers"), changed.option("sie_norm")) == (5.0, 2, "batch")
    assert Config(method="sie", options="sie_bias=true").option("sie_bias") is True


@pytest.mark.parametrize(("text", "words"), [
    ("sie_weigt=5", "nobody has an option named 'sie_weigt'; did you mean 'sie_weight'"),
    ("sie_weight=500", "sie_weight=500 is not from 0 to 100"), ("sie_weight=nan", "is not from 0 to 100"),
    ("sie_layers=2.5", "is no int"), ("sie_bias=1", "is no bool"), ("sie_norm=x", "is none of batch, none"),
    ("sie_weight", "must be name=value"), ("sie_weight=1,sie_weight=2", "each name once"), ("=3", "must be name=value"),
])  # fmt: skip
def test_an_option_that_cannot_be_is_refused(text, words, with_options):
    with pytest.raises(ConfigError, match=words):
        Config(method="sie", options=text)


def test_a_range_without_its_default_and_an_option_that_is_another_s_are_refused_where_they_are_defined(
    with_options, registry
):
    with pytest.raises(RegistryError, match=r"the default 3.0 \(x\) is not from 0 to 1"):
        Option(3.0, "x", low=0, high=1)
    with pytest.raises(RegistryError, match="'mine' has an option 'sie_bias', the method 'sie''s: choose"):
        registry.register("mine", **facts(options={"sie_bias": Option(True, "x")}))(Objective)


def test_an_option_is_in_no_name_but_its_owner_s():
    assert sorted(options()) == ["azimuth_as", "predicts_from", "preg", "target"]
    assert "options" not in Config().canonical()


def test_a_run_of_an_older_recipe_is_known_by_its_name_and_not_trained_again():
    sie = Config(method="sie", learning_rate=0.01)
    (older,) = sie.older()
    assert older.recipes == "method=1"
    assert load_run(zoo_root() / older.name).config.recipes == "method=1"
    assert sie.name != older.name
    assert labels([sie, older]) == ["SIE, image aug.", "SIE, image aug., by an older recipe (method=1)"]
    with pytest.raises(TrainingError, match="method=1 can be loaded, not trained"):
        fit(older)
    for wrong in ("method=2", "method=0", "method=x", "dataset=1"):
        with pytest.raises(ConfigError, match="is no older recipe"):
            Config(method="sie", recipes=wrong)
    assert list(Config().older()) == []
