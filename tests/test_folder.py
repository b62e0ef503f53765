"""Your own folder: tables as people write them, fair splits and prefixes, no picture in both, a name of its content."""

from __future__ import annotations

import math
import os
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import TINY
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ciperlib.analyse.features import as_features
from ciperlib.analyse.probing.tables import default_factors, probe_run
from ciperlib.config import Config
from ciperlib.data import DataError, folder, load_images
from ciperlib.data.imageset import TrainedOn
from ciperlib.learn.training import fit

SIDE = 8


def noise(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def write(path, number: int) -> None:
    """A picture that only this number has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(number)).save(path)


def make(root, table: str | bytes, count: int = 12, place: str = "mine"):
    """A folder of `count` different pictures 0.png ... and this table."""
    for i in range(count):
        write(root / place / f"{i}.png", i)
    content = table if isinstance(table, bytes) else table.encode()
    (root / place / "factors.csv").write_bytes(content)
    return root


def columns(**values) -> str:
    """A table of a column `file` and these."""
    rows = zip(*values.values())
    lines = [f"{i}.png,{','.join(map(str, row))}" for i, row in enumerate(rows)]
    return "\n".join([f"file,{','.join(values)}", *lines])


def both(root, name: str = "folder:mine", **options):
    return tuple(load_images(name, split, image_size=SIDE, root=root, **options) for split in ("train", "test"))


def values_of(images, factor: str) -> dict[int, object]:
    """By id, what the factor is; texts as texts."""
    names = images.labels.get(factor)
    column = images.factors[factor].tolist()
    return dict(zip(images.ids.tolist(), [names[value] for value in column] if names else column))


def everything(root, factor: str) -> list:
    train, test = both(root)
    found = {**values_of(train, factor), **values_of(test, factor)}
    return [found[i] for i in sorted(found)]


# ---- what a cell is


@pytest.mark.parametrize("word", ["None", "NA", "null", "nan", "NaN", "N/A", "-", "inf", "True", "01a", "ä", "a, b"])
def test_a_class_may_be_called_anything(tmp_path, word):
    cells = ["EU", f'"{word}"'] * 6
    assert everything(make(tmp_path, columns(category=cells)), "category") == ["EU", word] * 6


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=4, max_size=12))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whole_numbers_are_categories_as_they_are(tmp_path, numbers):
    assert everything(make(tmp_path, columns(kind=numbers)), "kind") == numbers


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=4, max_size=12))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_other_numbers_are_quantities(tmp_path, numbers):
    assert everything(make(tmp_path, columns(size=map(repr, numbers))), "size") == pytest.approx(numbers)


@pytest.mark.parametrize(
    "name", ["distance", "azimuth", "elevation", "azimuth_degrees", "elevation_degrees", "tilt_degrees"]
)
def test_parts_of_the_pose_are_quantities_also_in_whole_numbers(tmp_path, name):
    numbers = [0, 1, 2, 3, 4, 6] * 2 if not name.endswith("degrees") else list(range(0, 360, 30))
    found = both(make(tmp_path, columns(**{name: numbers})))[0]
    factor = name.removesuffix("_degrees")
    assert found.factors[factor].dtype == torch.float32
    expected = numbers if factor == name else [math.radians(number) for number in numbers]
    assert everything(tmp_path, factor) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("column", "cells", "words"),
    [
        ("azimuth", list(range(0, 180, 15)), r"line 3: azimuth is 15 radians.*column azimuth_degrees"),
        ("elevation", [0.5] * 11 + [-30], r"line 13: elevation is -30 radians.*elevation_degrees"),
        ("azimuth", ["north"] * 12, "line 2: azimuth must be a finite number, not 'north'"),
        ("distance", [1] * 4 + ["nan"] * 8, "line 6: distance must be a finite number, not 'nan'"),
        ("distance", [1] * 4 + ["1e39"] * 8, "line 6: distance must be a finite number"),
        ("azimuth_degrees", [1] * 4 + ["inf"] * 8, "line 6: azimuth_degrees must be a finite number"),
        ("size", [0.5, "inf"] * 6, "line 3: size is 'inf' among numbers"),
        ("size", [0.5, "NA"] * 6, "line 3: size is 'NA' among numbers"),
        ("kind", [1, "None"] * 6, "line 3: kind is 'None' among numbers"),
        ("size", ['"0,5"', '"1,25"'] * 6, "line 2: size is '0,5': write decimals with a point"),
        ("size", [f"1{'0' * 400}.5"] * 12, "line 2: size must be a finite number"),
        ("kind", [1] * 11 + [2**63], "line 13: kind is too large a whole number"),
        ("kind", [-(2**63) - 1] + [1] * 11, "line 2: kind is too large a whole number"),
        ("kind", ["9" * 5000] + [1] * 11, "line 2: kind is too large a whole number"),
    ],
)
def test_a_cell_that_is_no_number_of_its_column(tmp_path, column, cells, words):
    with pytest.raises(DataError, match=rf"factors\.csv, {words}") as caught:
        both(make(tmp_path, columns(**{column: cells})))
    assert len(str(caught.value)) < 400


def test_an_angle_of_a_whole_turn_is_one(tmp_path):
    turn = [round(2 * math.pi, 4), -round(2 * math.pi, 4)] * 6
    assert everything(make(tmp_path, columns(azimuth=turn)), "azimuth") == pytest.approx(turn)


# ---- what a table is

PLAIN = "file,category\n" + "\n".join(f"{i}.png,{'ab'[i % 2]}" for i in range(12))


@pytest.mark.parametrize(
    "table",
    [
        PLAIN,
        PLAIN + "\n",
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        PLAIN.replace(",", " , "),
        PLAIN.replace("\n", "\n\n"),
        "\ufeff" + PLAIN,
        "\n".join('"' + line.replace(",", '","') + '"' for line in PLAIN.split("\n")),
    ],
    ids=["plain", "end", "dos", "mac", "spaces", "blank", "mark", "quoted"],
)
def test_the_same_table_written_otherwise(tmp_path, table):
    assert everything(make(tmp_path, table), "category") == ["a", "b"] * 6
    assert both(tmp_path)[0].name == both(make(tmp_path / "plain", PLAIN))[0].name


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("", r"factors\.csv is empty"),
        ("\n\n", r"factors\.csv is empty"),
        ("file,category", "no rows"),
        (PLAIN.encode("utf-16"), "line 1 is not UTF-8 .*UTF-16.*save it as UTF-8"),
        (PLAIN.encode("utf-16-le"), "zero bytes.*save it as UTF-8"),
        (PLAIN.replace(",a", ",Öl").encode("cp1252"), r"line 2 is not UTF-8 \(byte 0xd6.*save it as UTF-8"),
        (PLAIN.replace("5.png,b", "5.png,b,x"), "line 7 has 3 cells for 2 columns"),
        (PLAIN.replace("5.png,b", "5.png"), "line 7 has 1 cells for 2 columns"),
        (PLAIN.replace("5.png,b", "5.png,"), "line 7: category is empty"),
        (PLAIN.replace("5.png,b", "5.png, "), "line 7: category is empty"),
        (PLAIN.replace("5.png,b", ",b"), "line 7: file is empty"),
        (PLAIN.replace("5.png,b", '5.png,"b'), "line 7 is no row"),
        ('file,note\n\n0.png,"two\nlines"\n1.png,', "line 5: note is empty"),
        (PLAIN.replace("file", "image"), "no column `file`; it has: image, category"),
        (PLAIN.replace("file", "File"), "no column `file`"),
        (PLAIN.replace(",", ";"), "separated by semicolons; save it with commas"),
        (PLAIN.replace(",", "\t"), "separated by tabs"),
        (PLAIN.replace("category", "file"), "two columns 'file'"),
        (PLAIN.replace("category", ""), "column 2 has no name"),
        (PLAIN.replace("category", "pose"), "column 2 is called 'pose'"),
        (PLAIN.replace("category", "ids"), "column 2 is called 'ids'"),
        (PLAIN.replace("category", "file_degrees"), "two columns 'file'"),
        ("file,azimuth,azimuth_degrees\n0.png,1,1", "two columns 'azimuth'"),
        (PLAIN.replace("category", "split"), "line 2: split must be train or test, not 'a'"),
        (PLAIN.replace("5.png", "5"), r"line 7: .*mine/5 cannot be read: there is no such file; there is 5\.png"),
        (PLAIN.replace("5.png", "77.png"), r"line 7: .*77\.png cannot be read: there is no such file$"),
        (PLAIN.replace("5.png", "."), "line 7: .* cannot be read: it is a folder"),
        (PLAIN.replace("5.png", "../mine/5.png"), "line 7: .*leaves the folder"),
        (PLAIN.replace("5.png", "a/../../5.png"), "line 7: .*leaves the folder"),
        (PLAIN.replace("5.png", "..\\\\5.png"), "line 7: .*leaves the folder"),
        (PLAIN.replace("5.png", "/etc/hostname"), "line 7: .*leaves the folder"),
        (PLAIN.replace("5.png", "C:/5.png"), "line 7: .*leaves the folder"),
        (PLAIN.replace("5.png", "x" * 300), "line 7: .*cannot be read"),
        (PLAIN.replace("5.png", "y" * 300 + "/" + "x" * 300), "line 7: .*cannot be read"),
        (PLAIN.replace("category", "mask"), "line 2: .*mine/a cannot be read"),
        (PLAIN.replace("category", "mask").replace(",a", ",/etc/hostname"), "line 2: .*leaves the folder"),
        ("file,category\n0.png,a", "one row, which cannot be divided"),
        ("file,group\n0.png,a\n1.png,a\n2.png,a", "one group, which cannot be divided"),
    ],
)
def test_a_table_that_cannot_be_read_is_one_sentence(tmp_path, table, words):
    with pytest.raises(DataError, match=words) as caught:
        both(make(tmp_path, table))
    assert "mine" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_too_large_to_be_one(tmp_path, monkeypatch):
    monkeypatch.setattr("ciperlib.data.table.LIMIT", 100)
    with pytest.raises(DataError, match="more than 100 bytes"):
        both(make(tmp_path, PLAIN))


@pytest.mark.parametrize("kind", ["folder", "circle", "missing"])
def test_a_table_that_is_no_file(tmp_path, kind):
    path = make(tmp_path, PLAIN) / "mine" / "factors.csv"
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "circle":
        path.symlink_to(path)
    with pytest.raises(DataError, match=r"factors\.csv is not there"):
        both(tmp_path)


def test_a_damaged_image_is_named_with_its_line_from_either_split(tmp_path):
    make(tmp_path, PLAIN)
    victim = tmp_path / "mine" / "5.png"
    victim.write_bytes(victim.read_bytes()[:50])
    for split in ("train", "test"):
        with pytest.raises(DataError, match=r"factors\.csv, line 7: .*5\.png cannot be read"):
            load_images("folder:mine", split, image_size=SIDE, root=tmp_path)


@pytest.mark.parametrize("place", ["..", "../x", "a/../mine", "/etc", "C:/x", "a\\..\\..\\b"])
def test_a_name_that_leaves_the_data_root(tmp_path, place):
    make(tmp_path, PLAIN)
    with pytest.raises(DataError, match="leaves the data root"):
        load_images(f"folder:{place}", root=tmp_path)


@pytest.mark.parametrize("name", ["folder", "folder:", "folder:.", "folder:./"])
def test_a_name_that_names_no_folder(tmp_path, name):
    with pytest.raises(DataError, match="say which folder"):
        load_images(name, root=make(tmp_path, PLAIN))


def test_folders_in_folders_and_links_that_you_made(tmp_path):
    make(tmp_path, PLAIN.replace("5.png", "deep/../sub/5.png").replace("6.png", "link.png"), place="some/where")
    write(tmp_path / "some" / "where" / "sub" / "5.png", 5)
    write(tmp_path / "elsewhere.png", 600)
    (tmp_path / "some" / "where" / "link.png").symlink_to(tmp_path / "elsewhere.png")
    (tmp_path / "some" / "where" / "deep").mkdir()
    train, test = both(tmp_path, "folder:some/where/")
    assert train.name.startswith("folder:some/where-8-")
    assert len(train) + len(test) == 12


# ---- splits


@given(st.lists(st.integers(0, 5), min_size=2, max_size=40), st.booleans())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_row_is_in_one_split_and_both_have_some(tmp_path, objects, called_object):
    make(tmp_path, columns(**{"object" if called_object else "disease": objects}), count=40)
    train, test = both(tmp_path)
    assert sorted(train.ids.tolist() + test.ids.tolist()) == list(range(len(objects)))
    assert len(train)
    assert len(test)
    counts, tested = Counter(objects), Counter(objects[i] for i in test.ids.tolist())
    if called_object and max(counts.values()) > 1:
        assert tested == {o: max(1, round(n / 4)) for o, n in counts.items() if n > 1}
    else:
        assert len(test) == max(1, round(len(objects) / 4))


def test_objects_of_one_image_are_divided_like_images(tmp_path):
    train, test = both(make(tmp_path, columns(object=[f"o{i}" for i in range(12)])))
    assert (len(train), len(test)) == (9, 3)
    assert default_factors(test, train) == ()  # nobody can know an object that was never shown


@pytest.mark.parametrize("known", ["split", "group", "object", "none"])
@pytest.mark.parametrize("factor", ["object", "category", "disease"])
def test_every_prefix_is_a_fair_sample_of_a_sorted_table(tmp_path, known, factor):
    kinds = [kind for kind in "abc" for _ in range(20)]
    extra = {
        "split": {
            "split": ["train"] * 15 + ["test"] * 5 + ["train"] * 15 + ["test"] * 5 + ["train"] * 15 + ["test"] * 5
        },
        "group": {"group": range(60)},
        "object": {"object": [i // 4 for i in range(60)]} if factor != "object" else {},
        "none": {},
    }
    train, _ = both(make(tmp_path, columns(**{factor: kinds, **extra[known]}), count=60))
    column = train.factors[factor]
    for size in (3, 6, 12, 24):
        prefix = load_images("folder:mine", size=size, image_size=SIDE, root=tmp_path)
        assert torch.equal(prefix.ids, train.ids[:size])
        assert torch.bincount(column[:size], minlength=3).tolist() == [size // 3] * 3
    for row, picture in zip(train.ids.tolist(), train.images):  # each id is still its row's
        assert np.array_equal(picture.permute(1, 2, 0).numpy(), noise(row))


def test_objects_take_turns_and_in_each_turn_categories(tmp_path):
    objects = [i // 4 for i in range(48)]
    table = columns(object=objects, category=["ab"[o >= 9] for o in objects], split=["train"] * 48)
    train = load_images("folder:mine", image_size=SIDE, root=make(tmp_path, table, count=48))
    for turn in range(4):
        part = train.subset(slice(12 * turn, 12 * turn + 12))
        assert sorted(part.factors["object"].tolist()) == list(range(12))
        for k in (1, 2, 3):
            assert torch.bincount(part.factors["category"][: 2 * k]).tolist() == [k, k]
    assert train.factors["object"][:12].tolist() != sorted(train.factors["object"][:12].tolist())


@pytest.mark.parametrize("known", ["split", "group", "none"])
def test_a_prefix_is_fair_in_what_nobody_balances(tmp_path, known):
    """Within a category the table is sorted by distance: the first of each are not the nearest."""
    extra = {"split": {"split": ["train"] * 80}, "group": {"group": range(80)}, "none": {}}[known]
    table = columns(category=["a"] * 40 + ["b"] * 40, distance=[*range(40)] * 2, **extra)
    nearest = load_images("folder:mine", size=20, image_size=SIDE, root=make(tmp_path, table, count=80))
    assert 12 < nearest.factors["distance"].mean() < 27


def test_a_split_that_has_no_rows(tmp_path):
    make(tmp_path, columns(split=["train"] * 12))
    assert len(load_images("folder:mine", image_size=SIDE, root=tmp_path)) == 12
    with pytest.raises(DataError, match=r"no rows for the split 'test': its column `split`"):
        load_images("folder:mine", "test", image_size=SIDE, root=tmp_path)


# ---- the same picture in both


@pytest.mark.parametrize("ending", ["png", "tif", "bmp", "webp"])
@pytest.mark.parametrize("known", ["split", "group"])
def test_a_picture_in_train_and_test_is_refused_with_both_names(tmp_path, ending, known):
    table = columns(**{known: ["train", "test"] * 6 if known == "split" else list(range(12))})
    root = make(tmp_path, table)
    train, test = both(root)
    first, second = sorted([train.ids[0].item(), test.ids[0].item()])
    options = {"lossless": True, "exact": True} if ending == "webp" else {}
    with Image.open(root / "mine" / f"{first}.png") as picture:
        picture.save(root / "mine" / f"copy.{ending}", **options)
    path = root / "mine" / "factors.csv"
    path.write_text(path.read_text().replace(f"\n{second}.png", f"\ncopy.{ending}"))
    for split in ("train", "test"):
        with pytest.raises(DataError, match="the same picture") as caught:
            load_images("folder:mine", split, image_size=SIDE, root=root)
        assert f"{first}.png (line {first + 2}," in str(caught.value)
        assert f"copy.{ending} (line {second + 2}," in str(caught.value)


def test_one_grey_level_makes_another_picture(tmp_path):
    root = make(tmp_path, columns(split=["train", "test"] * 6))
    with Image.open(root / "mine" / "0.png") as picture:
        changed = np.asarray(picture).copy()
    changed[3, 3, 1] ^= 1
    Image.fromarray(changed).save(root / "mine" / "1.png")
    assert [len(part) for part in both(root)] == [6, 6]


def test_copies_within_a_split_are_allowed(tmp_path):
    root = make(tmp_path, columns(split=["train"] * 6 + ["test"] * 6))
    for i in range(1, 6):
        shutil.copy(root / "mine" / "0.png", root / "mine" / f"{i}.png")
    assert [len(part) for part in both(root)] == [6, 6]


@given(st.lists(st.integers(0, 6), min_size=2, max_size=24), st.booleans())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_drawn_split_keeps_copies_together(tmp_path, pictures, objects):
    names = [f"{i}.png" for i in pictures]
    rows = "\n".join(f"{name},{i % 3}" for i, name in enumerate(names))
    make(tmp_path, f"file,{'object' if objects else 'kind'}\n{rows}")
    train, test = both(tmp_path)
    assert sorted(train.ids.tolist() + test.ids.tolist()) == list(range(len(pictures)))
    assert len(train)
    assert len(test)
    shared = {pictures[i] for i in train.ids.tolist()} & {pictures[i] for i in test.ids.tolist()}
    assert not shared or len(set(pictures)) == 1


def test_each_file_is_decoded_once_for_its_digest(tmp_path, monkeypatch):
    make(tmp_path, columns(split=["train"] * 8 + ["test"] * 4))
    monkeypatch.setattr(folder, "SETTLED", 0)  # or else files as young as these are read again
    decoded = []
    read = folder.read_picture
    for module in ("folder", "photographs"):
        monkeypatch.setattr(
            f"ciperlib.data.{module}.read_picture", lambda path: decoded.append(path.name) or read(path)
        )
    load_images("folder:mine", "train", image_size=SIDE, root=tmp_path)
    assert Counter(decoded) == {f"{i}.png": 1 for i in range(12)}
    decoded.clear()
    load_images("folder:mine", "test", image_size=SIDE, root=tmp_path)
    assert Counter(decoded) == {f"{i}.png": 1 for i in range(8, 12)}


def test_a_file_that_was_written_just_now_is_decoded_again(tmp_path, monkeypatch):
    """Its time would not tell that it is written once more."""
    make(tmp_path, columns(split=["train"] * 8 + ["test"] * 4))
    monkeypatch.setattr(folder, "SETTLED", 10**18)
    before = set(folder._digests)
    both(tmp_path)
    assert set(folder._digests) == before


# ---- identity


@pytest.mark.parametrize("settled", [0, folder.SETTLED])
@pytest.mark.parametrize("victim", [0, 11])
def test_another_picture_anywhere_is_another_image_set(tmp_path, monkeypatch, settled, victim):
    monkeypatch.setattr(folder, "SETTLED", settled)
    root = make(tmp_path, columns(split=["train"] * 6 + ["test"] * 6))
    before = both(root)
    assert before[0].name == before[1].name
    path = root / "mine" / f"{victim}.png"
    stamp = os.stat(path)
    size, number = stamp.st_size, 100
    while number == 100 or (path.stat().st_size != size and number < 400):  # of the same length, at the same time
        write(path, number)
        number += 1
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    after = both(root)
    assert after[0].name == after[1].name != before[0].name
    write(path, victim)
    assert both(root)[0].name == before[0].name


def test_a_run_of_other_pictures_is_not_taken_for_this_one_s(tmp_path):
    """Every picture inverted, in the same place: what was seen before is no longer known to be unseen, or seen."""
    root = make(tmp_path, columns(category=["a", "b"] * 6))
    train, test = both(root)
    seen = TrainedOn.of(train)
    features = [as_features(torch.zeros(len(part), 1), part, "", seen).unseen for part in (train, test)]
    assert features == ["no", "yes"]
    for i in range(12):
        with Image.open(root / "mine" / f"{i}.png") as picture:
            inverted = Image.fromarray(255 - np.asarray(picture))
        inverted.save(root / "mine" / f"{i}.png")
    for part in both(root):
        assert as_features(torch.zeros(len(part), 1), part, "", seen).unseen == "unknown"


def test_a_folder_is_probed_for_whatever_it_knows(tmp_path):
    """From a training to a table, with a factor that the library has never heard of, and no other."""
    make(tmp_path, columns(disease=["flu", "none"] * 24, weight=[i / 7 for i in range(48)]), count=48)
    choices = {**TINY, "train_size": 36, "image_size": SIDE, "batch_size": 12, "epochs": 1}
    run = fit(Config(dataset="folder:mine", **choices), tmp_path / "runs", data_root=tmp_path)
    train, test = both(tmp_path)
    results = probe_run(run, train, test, resamples=0)
    assert list(results) == ["disease", "weight"]
    assert results["disease"].unseen == "yes"
    neighbours = probe_run(run, train, test, resamples=0, protocol="knn")
    assert list(neighbours) == ["disease"]
    assert neighbours["disease"].details["k"] == 36
