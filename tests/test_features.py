"""Features: the encoder is proven frozen, the cache proven whole, and groups stay together."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ciperlib.analyse.features import (
    Features,
    FeaturesError,
    FrozenEncoderError,
    as_features,
    extract_features,
    extract_pairs,
    pixel_features,
    split_features,
)
from ciperlib.analyse.fingerprints import digest, fingerprint
from ciperlib.analyse.probing.probes import fit_regression_probe
from ciperlib.analyse.solvers import principal
from ciperlib.data.imageset import DataError, ImageSet, TrainedOn
from ciperlib.learn.augment import Augmentation


def make_images(n: int = 60, first_id: int = 0, name: str = "toy", side: int = 8) -> ImageSet:
    generator = torch.Generator().manual_seed(first_id)
    ids = torch.arange(n) + first_id
    factors = {"object": ids % 5, "session": ids // 3 % 4, "azimuth": torch.rand(n, generator=generator)}
    pixels = torch.randint(256, (n, 3, side, side), generator=generator, dtype=torch.uint8)
    return ImageSet(name, "train", pixels, factors, ids, ids // 3, {"object": tuple("abcde")})


def make_encoder(norm: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6) if norm is None else norm
    return nn.Sequential(nn.Conv2d(3, 6, 3), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class StubbornNorm(nn.BatchNorm2d):
    """The planted fault: normalises by the batch, and moves its statistics, whatever mode it is in."""

    def forward(self, x):
        return nn.functional.batch_norm(x, self.running_mean, self.running_var, training=True, momentum=self.momentum)


def test_features_are_the_encoders_outputs_row_by_row():
    images, encoder = make_images(), make_encoder()
    features = extract_features(encoder, images, batch_size=17)
    with torch.no_grad():
        expected = encoder.eval()(images.floats())
    torch.testing.assert_close(features.matrix, expected, rtol=1e-5, atol=1e-6)
    assert features.matrix.dtype == torch.float32
    assert not features.matrix.requires_grad
    assert torch.equal(features.ids, images.ids)
    assert torch.equal(features.factors["object"], images.factors["object"])
    assert (features.name, features.split, features.labels) == ("toy", "train", images.labels)
    assert features.encoder_fingerprint == fingerprint(encoder)


def test_features_do_not_depend_on_the_batch_or_the_order_of_images():
    images, encoder = make_images(), make_encoder()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1))
    plain = extract_features(encoder, images, batch_size=60).matrix
    shuffled = extract_features(encoder, images.subset(order), batch_size=7).matrix
    torch.testing.assert_close(shuffled, plain[order], rtol=1e-5, atol=1e-6)
    assert torch.equal(plain, extract_features(encoder, images, batch_size=60).matrix)


def test_modes_of_all_modules_are_restored_even_after_an_error():
    encoder = make_encoder()
    encoder.train()
    encoder[1].eval()
    modes = [module.training for module in encoder.modules()]
    extract_features(encoder, make_images())
    assert [module.training for module in encoder.modules()] == modes
    encoder.append(nn.Unflatten(1, (2, 3)))
    modes.append(True)
    with pytest.raises(FeaturesError, match=r"must return \[60, d\]"):
        extract_features(encoder, make_images())
    assert [module.training for module in encoder.modules()] == modes


def test_extraction_leaves_the_encoder_fit_for_training():
    encoder = make_encoder().train()
    features = extract_features(encoder, make_images())
    encoder(make_images().floats()).sum().backward()
    (features.matrix @ torch.ones(6, 1, requires_grad=True)).sum().backward()


@pytest.mark.parametrize("momentum", [0.1, None])
def test_an_unfrozen_batchnorm_is_refused(momentum):
    with pytest.raises(FrozenEncoderError, match="BatchNorm"):
        # one image a batch beyond the first check: only the fingerprint can tell
        extract_features(make_encoder(StubbornNorm(6, momentum=0.1)), make_images(3), batch_size=3)
    with pytest.raises(FrozenEncoderError, match="batch"):
        extract_features(make_encoder(StubbornNorm(6, momentum=momentum or 0.0)), make_images())


def test_batch_statistics_and_dropout_are_refused_although_no_weight_moves():
    with pytest.raises(FrozenEncoderError, match="track_running_stats"):
        extract_features(make_encoder(nn.BatchNorm2d(6, track_running_stats=False)), make_images())

    class StubbornDropout(nn.Module):
        def forward(self, x):
            return nn.functional.dropout(x, 0.5, training=True)

    with pytest.raises(FrozenEncoderError, match="dropout"):
        extract_features(make_encoder(StubbornDropout()), make_images())


def test_outputs_that_are_not_finite_and_empty_sets_are_refused():
    encoder = make_encoder()
    with torch.no_grad():
        encoder[0].bias[0] = float("nan")
    with pytest.raises(FeaturesError, match="not finite"):
        extract_features(encoder, make_images())
    with pytest.raises(FeaturesError, match="no images"):
        extract_features(make_encoder(), make_images().subset(slice(0, 0)))


def test_fingerprint_sees_weights_buffers_names_and_types_but_not_memory():
    encoder = make_encoder()
    first = fingerprint(encoder)
    assert len(first) == 16
    assert int(first, 16) >= 0
    assert first == fingerprint(make_encoder()) == fingerprint(encoder.eval())
    assert first == fingerprint(make_encoder().to(memory_format=torch.channels_last))
    assert first != fingerprint(make_encoder().double())
    for change in ("0.weight", "0.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"):
        other = make_encoder()
        other.state_dict()[change].view(-1)[-1] += 1
        assert fingerprint(other) != first, change
    renamed = nn.Sequential()
    for name, child in encoder.named_children():
        renamed.add_module("x" + name, child)
    assert fingerprint(renamed) != first
    unsaved = make_encoder()
    unsaved.register_buffer("coordinates", torch.zeros(2), persistent=False)
    assert fingerprint(unsaved) != first


def test_cache_returns_the_same_and_the_encoder_is_not_run_again(tmp_path, monkeypatch):
    images, encoder = make_images(), make_encoder()
    first = extract_features(encoder, images, cache=tmp_path / "deep")
    (path,) = (tmp_path / "deep").iterdir()
    assert path.name == f"{fingerprint(encoder)}-{images.digest()}-{digest(images.images)[:8]}.safetensors"
    monkeypatch.setattr("ciperlib.analyse.features._encode", lambda *_: pytest.fail("not taken from the cache"))
    again = extract_features(encoder, images, cache=tmp_path / "deep")
    assert torch.equal(first.matrix, again.matrix)
    assert again.encoder_fingerprint == first.encoder_fingerprint


def test_views_do_not_take_the_place_of_their_images_in_the_cache(tmp_path, monkeypatch):
    images, encoder, jitter = make_images(), make_encoder(), Augmentation(("jitter",))
    first = extract_pairs(encoder, images, jitter, cache=tmp_path)
    plain = extract_features(encoder, images)
    assert torch.equal(first[0].matrix, plain.matrix)
    assert not torch.equal(first[1].matrix, plain.matrix)
    monkeypatch.setattr("ciperlib.analyse.features._encode", lambda *_: pytest.fail("not taken from the cache"))
    assert torch.equal(extract_features(encoder, images, cache=tmp_path).matrix, plain.matrix)
    again = extract_pairs(encoder, images, jitter, cache=tmp_path)
    assert [torch.equal(a.matrix, b.matrix) for a, b in zip(first, again)] == [True, True]


def test_damaged_files_and_other_pixels_are_encoded_again(tmp_path, monkeypatch):
    images, encoder = make_images(), make_encoder()
    first = extract_features(encoder, images, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    flipped = whole[:-3] + bytes([whole[-3] ^ 64]) + whole[-2:]
    for content in (whole[:100], b"", flipped):
        path.write_bytes(content)
        assert torch.equal(extract_features(encoder, images, cache=tmp_path).matrix, first.matrix)
        with monkeypatch.context() as patch:  # the file is whole again
            patch.setattr("ciperlib.analyse.features._encode", lambda *_: pytest.fail("not taken from the cache"))
            extract_features(encoder, images, cache=tmp_path)
    other = ImageSet("toy", "train", 255 - images.images, images.factors, images.ids, images.groups)
    changed = extract_features(encoder, other, cache=tmp_path).matrix
    assert torch.equal(changed, extract_features(encoder, other).matrix)
    assert not torch.equal(changed, first.matrix)
    assert len(list(tmp_path.glob("*.safetensors"))) == len(list(tmp_path.iterdir())) == 2, "something was left"
    with monkeypatch.context() as patch:  # neither took the other's place
        patch.setattr("ciperlib.analyse.features._encode", lambda *_: pytest.fail("not taken from the cache"))
        assert torch.equal(extract_features(encoder, images, cache=tmp_path).matrix, first.matrix)
        assert torch.equal(extract_features(encoder, other, cache=tmp_path).matrix, changed)


def test_unseen_says_yes_no_or_unknown():
    encoder, seen = make_encoder(), TrainedOn.of(make_images(60))
    answers = {
        "unknown": (make_images(), None),
        "no": (make_images(10, first_id=59), seen),
        "yes": (make_images(10, first_id=60), seen),
    }
    for answer, (images, trained_on) in answers.items():
        assert extract_features(encoder, images, trained_on=trained_on).unseen == answer
    assert extract_features(encoder, make_images(name="other"), trained_on=seen).unseen == "yes"


@pytest.mark.parametrize(
    ("trained", "asked", "answer"),
    [
        ("turntable-32", "turntable-64", "unknown"),  # the same scenes at another size
        ("turntable-32", "turntable_sessions-32", "yes"),
        ("cifar10", "turntable-32", "yes"),
        ("digits-mnist-32", "digits-small-32", "yes"),
        ("digits-mnist-32", "digits-mnist-64", "unknown"),
        ("folder:a-32-00000000", "folder:a-32-11111111", "unknown"),  # another content
        ("folder:my-cats-32-00000000", "folder:my-cats-32-11111111", "unknown"),
        ("folder:my-cats-32-00000000", "folder:my-dogs-32-11111111", "unknown"),  # perhaps with the same pictures
        ("folder:turntable-32-00000000", "turntable-32", "yes"),
    ],
)
def test_unseen_by_the_names_of_image_sets(trained, asked, answer):
    seen, images = TrainedOn(trained, ((0, 9),)), make_images(10, name=asked)
    assert as_features(torch.zeros(10, 1), images, "", seen).unseen == answer


@given(st.sets(st.integers(-50, 50)), st.lists(st.integers(-60, 60)))
def test_ranges_of_ids_are_the_set_of_ids(ids, queries):
    chosen = torch.tensor(sorted(ids, key=lambda i: (i * 7) % 13), dtype=torch.int64)
    blank = torch.zeros(len(chosen), 3, 1, 1, dtype=torch.uint8)
    seen = TrainedOn.of(ImageSet("toy", "train", blank, {}, chosen, chosen))
    assert seen.seen(torch.tensor(queries, dtype=torch.int64)).tolist() == [query in ids for query in queries]
    assert TrainedOn.from_list("toy", seen.to_list()[::-1]) == seen


def test_overlapping_ranges_are_refused():
    for ranges in ([[0, 5], [5, 9]], [[3, 1]]):
        with pytest.raises(DataError, match="disjoint"):
            TrainedOn.from_list("toy", ranges)


def test_features_refuse_impossible_columns():
    features = extract_features(make_encoder(), make_images())
    with pytest.raises(FeaturesError, match="ids has 59 rows"):
        Features(features.matrix, {}, features.ids[1:], features.groups)
    with pytest.raises(FeaturesError, match="float32"):
        Features(features.matrix.double(), {}, features.ids, features.groups)


def test_frame_and_subset_keep_rows_together():
    features = extract_features(make_encoder(), make_images())
    frame = features.subset(torch.tensor([5, 2])).to_frame()
    assert list(frame.columns) == [*(f"h{i}" for i in range(6)), "id", "group", "object", "session", "azimuth"]
    assert frame["id"].tolist() == [5, 2]
    assert frame["object"].tolist() == [0, 2]
    assert frame["h3"].tolist() == pytest.approx(features.matrix[[5, 2], 3].tolist())
    assert len(features.subset(features.factors["object"] == 1)) == 12


def test_pixel_components_are_exact_and_fitted_on_train_alone():
    train, test = make_images(100), make_images(40, first_id=100)
    first, second = pixel_features(train, test, components=5)
    centred = (train.floats() - train.floats().mean(dim=0)).flatten(1).double()
    u, s, v = torch.linalg.svd(centred, full_matrices=False)
    torch.testing.assert_close(first.matrix.double().abs(), (u[:, :5] * s[:5]).abs(), rtol=1e-3, atol=1e-3)
    expected = (test.floats() - train.floats().mean(dim=0)).flatten(1).double() @ v[:5].T
    torch.testing.assert_close(second.matrix.double().abs(), expected.abs(), rtol=1e-3, atol=1e-3)
    assert first.encoder_fingerprint == second.encoder_fingerprint
    assert (first.unseen, second.unseen) == ("no", "yes")


def rank_deficient(kind: str, n: int, first_id: int = 0) -> ImageSet:
    """Images of 8 x 8 pixels that differ in fewer directions than they could."""
    images = make_images(n, first_id)
    pixels = images.images.clone()
    if kind == "grey":  # one direction: all pixels of all channels are the same
        pixels[:] = pixels[:, :1, :1, :1]
    elif kind == "dark corners":  # 3 * 16 directions
        pixels[:, :, :4] = pixels[:, :, :, 4:] = 7
    elif kind == "copies":
        pixels = pixels[torch.arange(n) % 9]
    elif kind == "equal":
        pixels[:] = pixels[:1]
    elif kind == "one level":  # a grey level in a pixel, and black and white elsewhere
        pixels[:] = 255 * (torch.arange(n) % 2)[:, None, None, None]
        pixels[n // 2 :, 0, 3, 3] ^= 1
    return replace(images, images=pixels)


@pytest.mark.parametrize(
    ("kind", "n", "rank"),
    [
        *(("noise", n, min(n - 1, 100)) for n in (12, 60, 100, 101, 150, 300)),
        *(("grey", n, 1) for n in (60, 300)),
        *(("dark corners", n, 48) for n in (60, 300)),
        *(("copies", n, 8) for n in (60, 300)),
        *(("equal", n, 1) for n in (60, 300)),
        *(("one level", n, 2) for n in (60, 300)),
    ],
)
def test_directions_without_variance_are_no_pixel_components(kind, n, rank):
    """Standardised, such a direction is rounding error in training and anything in the test: the floor would be chance
    or R2 = -1e9."""
    train, test = rank_deficient(kind, n), make_images(80, first_id=1000)
    first, second = pixel_features(train, test, components=100)
    assert first.matrix.shape[1] == second.matrix.shape[1] == rank
    deviation = first.matrix.double().std(dim=0)
    assert (deviation > 1e-4).all() or kind == "equal"
    x = train.images.flatten(1).double() / 255
    centred = x - x.mean(dim=0)
    if rank < 100:  # nothing is lost
        assert float(first.matrix.double().square().sum()) == pytest.approx(float(centred.square().sum()), rel=1e-5)
    if kind != "one level":  # whose test images are of another world
        assert -1.5 < fit_regression_probe(first, second, "azimuth", resamples=0).value < 0.2


def test_the_number_of_images_at_which_components_run_out_changes_nothing():
    """One training image fewer than there are components, as many, one more: no jump."""
    train, test = make_images(300), make_images(80, first_id=1000)
    for n in (99, 100, 101, 102):
        first, _ = pixel_features(train.subset(slice(n)), test, components=100)
        assert first.matrix.shape[1] == min(100, n - 1)
        assert first.matrix.double().std(dim=0).min() > 0.1


def test_principal_directions_in_parts_are_those_of_the_whole(monkeypatch):
    for n in (60, 300):
        train, test = make_images(n), make_images(20, first_id=1000)
        whole = [part.matrix for part in pixel_features(train, test, components=50)]
        monkeypatch.setattr(principal, "CHUNK", 1000)
        for part, expected in zip(pixel_features(train, test, components=50), whole):
            torch.testing.assert_close(part.matrix, expected, rtol=1e-4, atol=1e-5)
        monkeypatch.undo()


def test_few_pixels_are_returned_as_they_are():
    train, test = make_images(), make_images(10, first_id=60)
    first, second = pixel_features(train, test, components=192)
    assert torch.equal(first.matrix, train.floats().flatten(1))
    assert torch.equal(second.matrix, test.floats().flatten(1))
    with pytest.raises(FeaturesError, match="differ in size"):
        pixel_features(train, make_images(side=9))


@pytest.mark.parametrize("hold_out", [None, "session"])
def test_split_keeps_groups_together_and_loses_nothing(hold_out):
    features = extract_features(make_encoder(), make_images())
    train, test = split_features(features, hold_out=hold_out, seed=3)
    assert not set(train.groups.tolist()) & set(test.groups.tolist())
    assert sorted([*train.ids.tolist(), *test.ids.tolist()]) == features.ids.tolist()
    assert len(test) == (18 if hold_out is None else 15)
    again = split_features(features, hold_out=hold_out, seed=3)[1]
    assert torch.equal(test.ids, again.ids)
    others = [split_features(features, hold_out=hold_out, seed=seed)[1].ids.tolist() for seed in range(5)]
    assert len({tuple(ids) for ids in others}) > 1


def test_held_out_values_can_be_given():
    features = extract_features(make_encoder(), make_images())
    train, test = split_features(features, hold_out="session", values=[1, 3])
    assert set(test.factors["session"].tolist()) == {1, 3}
    assert set(train.factors["session"].tolist()) == {0, 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hold_out": "object"}, "constant within groups"),  # a group has three objects
        ({"hold_out": "azimuth"}, "categorical factor"),
        ({"hold_out": "sesion"}, "categorical factor"),
        ({"hold_out": "session", "values": [9]}, "no two parts"),
        ({"hold_out": "session", "values": [0, 1, 2, 3]}, "no two parts"),
        ({"values": [1]}, "hold_out="),
        ({"test_share": 1.0}, "test_share"),
    ],
)
def test_impossible_splits_are_refused(arguments, message):
    with pytest.raises(FeaturesError, match=message):
        split_features(extract_features(make_encoder(), make_images()), **arguments)
