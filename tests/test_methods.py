"""CIPER's kin: their losses against loops of the papers' formulas, their teachers, and what they refuse."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY, make_noise_images
from test_objectives import make

from ciperlib.config import Config
from ciperlib.learn.augment import Augmentation, ParameterSpec, make_augmentation
from ciperlib.learn.methods import clever, equimod, losses, make_objective, sie
from ciperlib.learn.methods.augself import difference_loss
from ciperlib.learn.methods.base import half_size, represent
from ciperlib.learn.methods.clever import LOCAL_VIEWS, TEACHER_MOMENTUM
from ciperlib.learn.methods.targets import anchor_targets, pair_targets
from ciperlib.learn.training import Trainer, fit
from ciperlib.registry import methods, options

IMAGE = ("crop", "flip", "jitter", "grayscale")


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_variance_and_covariance_against_loops():
    z = rows(7, 3) * torch.tensor([0.2, 1.0, 3.0])
    mean = [sum(z[i, j] for i in range(7)) / 7 for j in range(3)]
    covariance = [
        [sum((z[i, j] - mean[j]) * (z[i, k] - mean[k]) for i in range(7)) / 6 for k in range(3)] for j in range(3)
    ]
    hinge = sum(max(0.0, 1 - math.sqrt(covariance[j][j] + 1e-4)) for j in range(3)) / 3
    penalty = sum(covariance[j][k] ** 2 for j in range(3) for k in range(3) if j != k) / 3
    assert float(losses.variance_hinge(z)) == pytest.approx(float(hinge), abs=1e-12)
    assert float(losses.covariance_penalty(z)) == pytest.approx(float(penalty), abs=1e-12)
    assert float(losses.variance_hinge(z * 0)) == pytest.approx(1 - math.sqrt(1e-4))
    assert float(losses.variance_hinge(z * 100)) == 0


def test_distillation_against_a_loop():
    teacher, student = rows(5, 4).softmax(1), rows(5, 4, seed=1)
    expected = 0.0
    for i in range(5):
        norm = sum(math.exp(float(student[i, k]) / 0.1) for k in range(4))
        expected -= sum(float(teacher[i, k]) * math.log(math.exp(float(student[i, k]) / 0.1) / norm) for k in range(4))
    assert float(losses.distillation(teacher, student)) == pytest.approx(expected / 5, abs=1e-10)
    # a student that says what the teacher says: what is left is the teacher's entropy
    entropy = -(teacher * teacher.log()).sum(1).mean()
    torch.testing.assert_close(losses.distillation(teacher, teacher.log() * 0.1), entropy)


def test_orthogonality_of_the_batch_or_of_each():
    a, b = rows(6, 4), rows(6, 4, seed=1)
    cosines = [float(x @ y / x.norm() / y.norm()) for x, y in zip(a, b)]
    assert float(losses.orthogonality(a, b)) == pytest.approx(abs(sum(cosines) / 6), abs=1e-12)
    assert float(losses.orthogonality(a, b, per_sample=True)) == pytest.approx(sum(map(abs, cosines)) / 6, abs=1e-12)
    # what the batch's mean lets pass: opposite signs that cancel
    pair = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert float(losses.orthogonality(pair, pair * torch.tensor([[1.0], [-1.0]]))) == 0
    assert float(losses.orthogonality(pair, pair * torch.tensor([[1.0], [-1.0]]), per_sample=True)) == 1


@pytest.mark.parametrize("augmentations", [IMAGE, ("pose", "session", "flip"), ("pose",)])
def test_what_leads_from_one_view_to_the_other(augmentations):
    images, config = make_noise_images(), Config(**{**TINY, "train_size": 1000, "augmentations": augmentations})
    augmentation, index = make_augmentation(config, images), torch.arange(16)
    generator = torch.Generator().manual_seed(0)
    first, second = (augmentation(images, index, generator) for _ in range(2))
    forth = pair_targets(augmentation.specs, first.parameters, second.parameters)
    back = pair_targets(augmentation.specs, second.parameters, first.parameters)
    names = [spec.name for spec in augmentation.specs]
    for row in range(16):
        a, b = (dict(zip(names, view.parameters[row].tolist())) for view in (first, second))
        if "crop" in augmentations:
            x = [
                (1 - (v["crop_x"] + v["crop_width"] / 2)) if v["flip"] else v["crop_x"] + v["crop_width"] / 2
                for v in (a, b)
            ]
            y = [v["crop_y"] + v["crop_height"] / 2 for v in (a, b)]
            size = [b[k] - a[k] for k in ("crop_height", "crop_width")]
            assert forth["crop"][row].tolist() == pytest.approx([y[1] - y[0], x[1] - x[0], *size], abs=1e-5)
            colour = [(b[k] - a[k]) / 0.8 for k in ("brightness", "contrast", "saturation")]
            assert forth["jitter"][row].tolist() == pytest.approx([*colour, (b["hue"] - a["hue"]) / 0.2], abs=1e-5)
        if "flip" in augmentations:
            assert forth["flip"][row].tolist() == [float(a["flip"] != b["flip"])]
        if "pose" in augmentations:
            turn = images.factors["azimuth"][second.source[row]] - images.factors["azimuth"][first.source[row]]
            rest = [b[k] - a[k] for k in ("elevation", "distance")]
            expected = [math.sin(turn), 1 - math.cos(turn), *rest]
            assert forth["pose"][row].tolist() == pytest.approx(expected, abs=1e-5)
    for step, value in forth.items():
        turned = back[step].clone()
        if step == "pose":
            turned[:, 1] *= -1  # the cosine's
        torch.testing.assert_close(value, turned if step == "flip" else -turned)


def test_absolute_parameters_are_standardised_or_one_hot():
    specs = Augmentation(("session", "flip", "jitter"), sessions=3).specs
    parameters = torch.rand(9, len(specs))
    parameters[:, 0] = torch.arange(9) % 3
    code = anchor_targets(specs, parameters)
    assert code.shape == (9, 3 + 5)  # the order of the jitter is not to be predicted
    torch.testing.assert_close(code[:, :5].mean(0), torch.zeros(5), atol=1e-5, rtol=0)
    assert torch.equal(code[:, 5:], F.one_hot(torch.arange(9) % 3, 3).float())


def test_essl_is_contrast_and_four_rotations_of_a_small_view():
    objective, batch = make("essl", norm="group", alpha=0.3)
    found = objective(batch)
    h1, h2, _ = represent(objective.encoder, *[view.images for view in batch.views])
    small, nll = half_size(batch.views[2].images), []
    assert small.shape == (16, 3, 8, 8)
    torch.testing.assert_close(small[0, 0, 0, 0], batch.views[2].images[0, 0, :2, :2].mean())
    for turns in range(4):
        for image in small:
            turned = torch.rot90(image, turns, (1, 2))
            nll.append(-objective.rotation_predictor(objective.encoder(turned[None])).log_softmax(1)[0, turns])
    torch.testing.assert_close(found.terms["predictive"], torch.stack(nll).mean())
    torch.testing.assert_close(found.terms["contrastive"], objective.contrastive((h1, h2)))
    torch.testing.assert_close(found.total, found.terms["contrastive"] + 0.3 * found.terms["predictive"])


def test_augself_asks_in_both_orders_one_head_a_step():
    objective, batch = make("augself", norm="group", alpha=0.5)
    found = objective(batch)
    h1, h2 = objective.represent_views(batch)
    first, second = (view.parameters for view in batch.views)
    assert set(objective.difference_predictors) == {"crop", "flip", "jitter"}
    total = found.terms["contrastive"]
    for step, head in objective.difference_predictors.items():
        forth, back = (
            pair_targets(objective.specs, first, second)[step],
            pair_targets(objective.specs, second, first)[step],
        )
        guesses, targets = (head(torch.cat((h1, h2), 1)), head(torch.cat((h2, h1), 1))), (forth, back)
        if step == "flip":
            terms = [F.binary_cross_entropy(guess.sigmoid(), target) for guess, target in zip(guesses, targets)]
        else:
            terms = [(guess.tanh() - target).square().mean() for guess, target in zip(guesses, targets)]
        torch.testing.assert_close(found.terms[step], sum(terms) / 2)
        total = total + 0.5 * found.terms[step]
    torch.testing.assert_close(found.total, total)


def test_a_pose_is_standardised_for_augself():
    guess, target = torch.randn(8, 4), torch.randn(8, 4) * 7 + 3
    expected = (guess - (target - target.mean(0)) / torch.sqrt(target.var(0, correction=0) + 1e-5)).square().mean()
    torch.testing.assert_close(difference_loss("pose", guess, target), expected)


def test_equimod_finds_the_view_s_embedding_from_the_anchor_s_and_the_parameters():
    objective, batch = make("equimod", norm="group", alpha=2.0)
    found = objective(batch)
    h0, (h1, h2) = objective.represent_all(batch)
    y0, y = objective.equivariant_projector(h0), objective.equivariant_projector(torch.cat((h1, h2)))
    code = anchor_targets(objective.specs, torch.cat([view.parameters for view in batch.views]))
    guess = objective.embedding_predictor(torch.cat((torch.cat((y0, y0)), objective.parameter_projector(code)), 1))
    torch.testing.assert_close(found.terms["predictive"], losses.nt_xent(y, guess, 0.2))
    torch.testing.assert_close(found.total, found.terms["contrastive"] + 2 * found.terms["predictive"])


def test_sie_s_terms_and_their_weights():
    objective, batch = make("sie", norm="group", precision="float32")
    found, (h1, h2) = objective(batch), objective.represent_views(batch)
    half = objective.split
    assert half == h1.shape[1] // 2
    a1, a2 = (objective.invariant_expander(h[:, :half]) for h in (h1, h2))
    b1, b2 = (objective.equivariant_expander(h[:, half:]) for h in (h1, h2))
    torch.testing.assert_close(found.terms["invariance"], (a1 - a2).square().mean())
    steps = pair_targets(objective.specs, *(view.parameters for view in batch.views))
    g = losses.standardise(torch.cat(list(steps.values()), 1))
    guess = torch.stack([objective.hypernetwork(g[i]).view(half, half) @ b1[i] for i in range(16)])
    torch.testing.assert_close(found.terms["equivariance"], (guess - b2).square().mean())
    torch.testing.assert_close(found.terms["prediction_variance"], losses.variance_hinge(guess) / 2)
    whole = [torch.cat(parts, 1) for parts in ((a1, b1), (a2, b2))]
    hinges, penalties = ([term(z) for z in whole] for term in (losses.variance_hinge, losses.covariance_penalty))
    torch.testing.assert_close(found.terms["variance"], sum(hinges) / 2)
    torch.testing.assert_close(found.terms["covariance"], sum(penalties))
    weights = sie.WEIGHTS | {"equivariance": 4.5}
    torch.testing.assert_close(found.total, sum(weights[name] * term for name, term in found.terms.items()))


def test_sie_s_map_starts_at_the_identity_for_the_mean_difference():
    """A batch whose views differ all alike: standardised, that is no difference at all."""
    objective, batch = make("sie", norm="group")
    first, second = (view._replace(parameters=view.parameters[:1].expand(16, -1)) for view in batch.views)
    with torch.no_grad():
        found, (_, h2) = objective(batch._replace(views=(first, second))).terms, objective.represent_views(batch)
        h1 = objective.represent_views(batch)[0]
        b1, b2 = (objective.equivariant_expander(h[:, objective.split :]) for h in (h1, h2))
    torch.testing.assert_close(found["equivariance"], (b1 - b2).square().mean())


def test_clever_s_terms_over_all_pairs_of_different_views():
    objective, batch = make("clever", norm="group")
    objective.eval()  # the centres stay
    for part, seed in (("invariant", 5), ("equivariant", 6)):
        centre = getattr(objective, f"{part}_centre")
        centre.copy_(0.1 * torch.randn(centre.shape, generator=torch.Generator().manual_seed(seed)))
    found = objective(batch)
    cut = objective.split
    images = [view.images for view in batch.views]
    with torch.no_grad():
        taught = [objective.encoder(image) for image in images[:2]]
    seen = [objective.student(image) for image in images[:2]]
    seen += [objective.student(half_size(image)) for image in images[2:]]
    assert len(seen) == 2 + LOCAL_VIEWS
    distilled, orthogonal = [], []
    for q in range(2):
        for v in range(len(seen)):
            if v == q:
                continue
            known = objective.teacher_heads["invariant"](taught[q][:, :cut]) - objective.invariant_centre
            known = (known / 0.04).softmax(1)
            distilled.append(-(known * (objective.heads["invariant"](seen[v][:, :cut]) / 0.1).log_softmax(1)).sum(1))
            known = objective.teacher_heads["equivariant"](taught[q][:, cut:]) - objective.equivariant_centre
            known = (known / 0.04).softmax(1)
            said = (objective.heads["equivariant"](seen[v][:, cut:]) / 0.1).softmax(1)
            orthogonal.append(F.cosine_similarity(known, said).mean().abs())
    torch.testing.assert_close(found.terms["distillation"], torch.stack(distilled).mean())
    torch.testing.assert_close(found.terms["orthogonality"], torch.stack(orthogonal).mean())
    sizes = [sum(p.square().sum() for p in objective.heads[part].parameters()) for part in ("invariant", "equivariant")]
    torch.testing.assert_close(found.terms["regularisation"], (sizes[0] - sizes[1]).abs())


def test_the_teacher_follows_the_moving_average_exactly_and_has_no_gradient():
    objective, batch = make("clever", norm="group")
    objective(batch).total.backward()
    frozen = [*objective.encoder.parameters(), *objective.teacher_heads.parameters()]
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in frozen)
    assert all(parameter.grad is not None for parameter in objective.student.parameters())
    slow = {name: p.clone() for name, p in objective.encoder.named_parameters()}
    generator = torch.Generator().manual_seed(1)
    for step in range(1, 4):
        for parameter in objective.student.parameters():
            parameter.data.add_(torch.randn(parameter.shape, generator=generator))
        momentum = 1 - (1 - TEACHER_MOMENTUM) * (1 + math.cos(math.pi * step / 10)) / 2
        fast = dict(objective.student.named_parameters())
        slow = {name: momentum * p + (1 - momentum) * fast[name].detach() for name, p in slow.items()}
        objective.after_step(step / 10)
    for name, parameter in objective.encoder.named_parameters():
        torch.testing.assert_close(parameter.detach(), slow[name], atol=1e-6, rtol=1e-5)
    before = [p.clone() for p in objective.encoder.parameters()]
    objective.after_step(1.0)  # at the end it stands still
    assert all(torch.equal(a, b) for a, b in zip(before, objective.encoder.parameters()))


def test_centring_prevents_a_planted_collapse():
    """A teacher that says the same of every image: taken off, what it says of one image is left."""
    objective, _ = make("clever", norm="group")
    width = objective.config.projector_width
    said = 0.02 * torch.randn(64, width, generator=torch.Generator().manual_seed(0))
    said[:, 3] += 1.0  # one prototype for all

    def spread(answers):
        mean = answers.mean(0)
        return float(-(mean * mean.clamp_min(1e-30).log()).sum())

    assert spread(objective._sharpened("invariant", said)) < 0.01
    for _ in range(60):
        objective._move_centres({"invariant": [said], "equivariant": [said]})
    assert spread(objective._sharpened("invariant", said)) > 0.8 * math.log(width)


def test_the_centres_are_the_moving_average_of_what_the_teacher_says():
    objective, batch = make("clever", norm="group")
    with torch.no_grad():
        taught = torch.cat([objective.encoder(view.images) for view in batch.views[:2]])
        mean = objective.teacher_heads["invariant"](taught[:, : objective.split]).mean(0)
    objective(batch)
    torch.testing.assert_close(objective.invariant_centre, 0.1 * mean)


def test_a_teacher_knows_the_colours_of_the_images():
    images = make_noise_images()
    trainer = Trainer(Config(**{**TINY, "method": "clever"}), images, torch.device("cpu"))
    mean = images.floats().mean((0, 2, 3))
    for encoder in (trainer.objective.encoder, trainer.objective.student):
        torch.testing.assert_close(encoder.pixel_mean.flatten(), mean)


def test_what_a_view_lacks_is_said():
    nothing = [ParameterSpec("jitter_order", "categorical", 0, 23, predicted=False)]
    config = Config(**{**TINY, "method": "sie"})
    with pytest.raises(ValueError, match="the views have no parameters"):
        make_objective(config, nothing)
    with pytest.raises(ValueError, match="the views have none of them"):
        make_objective(Config(**{**TINY, "method": "augself"}), nothing)
    objective, batch = make("clever")
    with pytest.raises(ValueError, match="at least two"):
        objective(batch._replace(views=batch.views[:1]))


@pytest.mark.parametrize("method", ["essl", "augself", "equimod", "sie", "clever"])
def test_the_kin_train_and_go_on_where_they_were(method, tmp_path, monkeypatch):
    """Two epochs in one go and in two give the same weights, teacher and AdamW's averages among them."""
    choices = {**TINY, "method": method, "epochs": 2, "augmentations": IMAGE, "dataset": "turntable"}
    config = Config(**choices, **({"optimiser": "adamw", "learning_rate": 0.001} if method == "clever" else {}))
    whole = fit(config, tmp_path / "whole", progress="none", device="cpu")

    def stop(progress):
        if progress.epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(config, tmp_path / "parts", stop, progress="none", device="cpu", save_every=0)
    parts = fit(config, tmp_path / "parts", progress="none", device="cpu")
    for name in ("encoder.safetensors", "heads.safetensors"):
        assert (whole.folder / name).read_bytes() == (parts.folder / name).read_bytes()
    assert whole.load_encoder().representation_size == 8 * config.width


def test_the_papers_constants():
    """Of the losses above, written out here: a test that reads the library's own number would follow it anywhere."""
    assert sie.WEIGHTS == {  # arXiv 2302.10283, of its public code: lambda_inv, lambda_equi, lambda_V twice, lambda_C
        "invariance": 10.0,
        "equivariance": 10.0,
        "variance": 10.0,
        "prediction_variance": 10.0,
        "covariance": 1.0,
    }
    assert equimod.TEMPERATURE == 0.2  # arXiv 2211.01244
    assert (TEACHER_MOMENTUM, clever.CENTRE_MOMENTUM) == (0.996, 0.9)  # arXiv 2104.14294
    assert (clever.TEACHER_TEMPERATURE, clever.STUDENT_TEMPERATURE) == (0.04, 0.1)
    assert options()["preg"].default == 0.001  # arXiv 2406.00262
    assert {name: methods[name].alpha for name in ("essl", "augself", "equimod", "sie", "clever")} == {
        "essl": 0.4, "augself": 1.0, "equimod": 1.0, "sie": 0.45, "clever": 1.0,
    }  # fmt: skip
    shares = {name: own.invariant_share for name, own in methods.items() if own.invariant_share}
    assert shares == {"sie": 0.5, "clever": 0.8}


@pytest.mark.parametrize(("alpha", "preg"), [(0.1, 0.001), (2.0, 0.001), (1.0, 0.0), (1.0, 0.5)])
def test_clever_s_total_is_its_terms_with_their_weights(alpha, preg):
    objective, batch = make("clever", norm="group", alpha=alpha, options=f"preg={preg}")
    found = objective(batch)
    weights = {"distillation": 1.0, "orthogonality": alpha, "regularisation": preg}
    torch.testing.assert_close(found.total, sum(weights[name] * term for name, term in found.terms.items()))


def test_each_method_is_one_short_class():
    import inspect

    for method in (known.build for known in methods.values()):
        assert len(inspect.getsource(method).splitlines()) < 120
