"""The same question has the same key, in any process; another question, never."""

import functools
import json
import subprocess
import sys
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
import recipes
import torch
from conftest import make_noise_images

from ciperlib.analyse.information.explaining_away import explaining_away
from ciperlib.analyse.keys import NoKeyError, key_of, recipe
from ciperlib.config import Config
from ciperlib.learn.augment.transformations import make_transformation
from ciperlib.learn.encoders import make_encoder

CELL = """
def helper(x):
    return x + {constant}

def measure(case, share={default}):
    inner = [helper(value) for value in numbers]
    return {{"value": sum(inner) * share * factor}}
"""


def cell(constant=1, default=2, numbers=(1, 2), factor=3):
    """A measure as a notebook's cell defines it."""
    names = {"numbers": numbers, "factor": factor}
    exec(compile(CELL.format(constant=constant, default=default), "<cell>", "exec"), names)
    return names["measure"]


def test_a_cell_run_again_is_the_same_question():
    assert key_of(cell()) == key_of(cell())


@pytest.mark.parametrize(
    "change",
    [dict(constant=2), dict(default=3), dict(numbers=(1, 3)), dict(factor=3.0), dict(numbers=[1, 2, 3])],
    ids=str,
)
def test_what_a_measure_says_or_reads_is_another_question(change):
    assert key_of(cell(**change)) != key_of(cell())


def test_comments_and_places_are_no_part_of_it():
    names = {"numbers": (1, 2), "factor": 3}
    exec(compile("\n\n# a comment" + CELL.format(constant=1, default=2), "<another cell>", "exec"), names)
    assert key_of(names["measure"]) == key_of(cell())


def test_one_pixel_one_factor_one_mask():
    images = make_noise_images(6)
    changed = images.images.clone()
    changed[3, 1, 2, 2] ^= 1
    factors = {**images.factors, "object": images.factors["object"].roll(1)}
    others = [
        replace(images, images=changed),
        replace(images, factors=factors),
        replace(images, groups=images.groups + 1),
    ]
    assert len({key_of(images), *map(key_of, others)}) == 4
    assert key_of(images) == key_of(replace(images, images=images.images.clone()))


def test_one_weight_one_choice_one_level():
    encoder = make_encoder(Config(width=4))
    before = key_of(encoder)
    assert key_of(make_encoder(Config(width=4))) == before
    with torch.no_grad():
        next(encoder.parameters()).view(-1)[0] += 1e-6
    assert key_of(encoder) != before
    assert key_of(Config(seed=0)) != key_of(Config(seed=1))
    rotation = make_transformation("rotation")
    assert key_of(rotation) == key_of(make_transformation("rotation")) != key_of(rotation.only(0, 2))


NETWORK = """
class Own(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, images):
        return images.mean((2, 3)) {more}
"""


def network(more=""):
    """One without weights, as a notebook's cell defines it."""
    names = {"nn": torch.nn, "__name__": "__main__"}
    exec(compile(NETWORK.format(more=more), "<cell>", "exec"), names)
    return names["Own"]()


def test_a_network_s_own_code_counts():
    assert key_of(network()) == key_of(network()) != key_of(network("+ 1"))


def test_tables_arrays_and_what_holds_them():
    table = pd.DataFrame({"a": [1.0, 2.0]})
    assert key_of(table) == key_of(table.copy()) != key_of(table.assign(a=[1.0, 2.0 + 1e-12]))
    assert key_of(np.arange(3)) != key_of(np.arange(3.0))
    assert key_of({"a": 1, "b": 2}) != key_of({"a": 2, "b": 1})
    assert key_of({1, 2, 3}) == key_of({3, 2, 1})
    assert key_of(1) != key_of(1.0) != key_of("1.0") != key_of(True)
    assert key_of([1, 2]) != key_of([12])


def test_files_count_by_what_is_in_them(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("one")
    before = key_of(file)
    file.write_text("two")
    assert key_of(file) != before


def test_functions_of_functions():
    def outer(n):
        def inner():
            return n

        return inner

    assert key_of(outer(1)) == key_of(outer(1)) != key_of(outer(2))
    assert key_of(functools.partial(cell(), share=1)) != key_of(functools.partial(cell(), share=2))
    assert key_of(functools.cache(outer)) == key_of(outer)

    def recursive(n):
        return n and recursive(n - 1)

    assert key_of(recursive) == key_of(recursive)


def test_what_nobody_can_say_is_refused_by_name():
    class Handle:
        pass

    handle = Handle()

    def measure(case):
        return handle

    with pytest.raises(NoKeyError, match="handle, which is a Handle"):
        key_of(measure)


def test_a_dataclass_is_its_fields():
    @dataclass
    class Pair:
        a: int
        b: object

    assert key_of(Pair(1, [2])) == key_of(Pair(1, [2])) != key_of(Pair(1, [3]))


def test_the_library_s_measures_count_by_their_recipe():
    @recipe(1)
    def made(x):
        return x

    made.__module__ = "ciperlib.analyse.made"
    before = key_of(made)
    made.recipe = 2
    assert key_of(made) != before


def test_what_a_function_of_the_library_was_made_with_counts_too():
    def made(n):
        def inner():
            return n

        inner.__module__, inner.recipe = "ciperlib.analyse.made", 1
        return inner

    assert key_of(made(1)) == key_of(made(1)) != key_of(made(2))


def test_the_key_is_the_same_in_another_process():
    """Where names hash otherwise."""
    code = "from test_keys import cell, key_of; print(key_of(cell(), {'a', 'b'}, {'x': 1.5}))"
    command = [sys.executable, "-c", code]
    found = {
        subprocess.run(
            command, capture_output=True, text=True, cwd=recipes.KNOWN.parents[1], env={"PYTHONHASHSEED": str(seed)}
        ).stdout
        for seed in (1, 2)
    }
    assert found == {key_of(cell(), {"a", "b"}, {"x": 1.5}) + "\n"}


def test_code_that_changed_has_another_recipe():
    """Else answers of the old code would be taken for the new one's."""
    known, now = json.loads(recipes.KNOWN.read_text()), recipes.now()
    assert known.keys() == now.keys(), "run python tests/recipes.py"
    stale = [
        name
        for name in now
        if known[name]["code"] != now[name]["code"] and known[name]["recipe"] == now[name]["recipe"]
    ]
    assert not stale, f"raise their recipe if their numbers changed, then python tests/recipes.py: {stale}"
    assert known == now, "run python tests/recipes.py"


def test_a_changed_helper_changes_the_code_of_what_calls_it(monkeypatch):
    before = recipes.code_digest(explaining_away)
    plain = recipes.plain_source
    monkeypatch.setattr(
        recipes, "plain_source", lambda thing: plain(thing) + ("x" if thing.__name__ == "assign_folds" else "")
    )
    assert recipes.code_digest(explaining_away) != before
