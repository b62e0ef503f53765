"""Objectives: their losses, their passes, and that a step goes the right way."""

import pytest
import torch
from conftest import TINY, make_noise_images

from ciperlib.config import Config, ConfigError
from ciperlib.learn.augment import make_augmentation
from ciperlib.learn.encoders.base import Encoder
from ciperlib.learn.methods import losses, make_objective
from ciperlib.learn.methods.base import Batch
from ciperlib.registry import methods

KINDS = [("crop", "flip", "jitter", "grayscale"), ("pose",), ("session",), ("pose", "session", "flip")]
TRAINED = [name for name, method in methods.items() if method.trained]


def make(method="ciper", augmentations=KINDS[0], **choices):
    """An objective and a batch for it."""
    images = make_noise_images()
    config = Config(**{**TINY, "train_size": 480, "method": method, "augmentations": augmentations, **choices})
    augmentation = make_augmentation(config, images)
    generator = torch.Generator().manual_seed(0)
    index = torch.arange(16)
    objective = make_objective(config, augmentation.specs, {"category": 10, "object": 50, "session": 11})
    views = tuple(augmentation(images, index, generator) for _ in objective.crops)
    return objective, Batch(
        index, images.floats(index), views, {name: column[index] for name, column in images.factors.items()}
    )


@pytest.mark.parametrize("augmentations", KINDS)
@pytest.mark.parametrize("method", TRAINED)
def test_every_method_trains_on_every_kind_of_augmentation(method, augmentations):
    if method == "clever":
        augmentations = (*augmentations, "crop") if "crop" not in augmentations else augmentations
    if method == "augself" and augmentations == ("session",):
        augmentations = ("session", "flip")
    objective, batch = make(method, augmentations)
    result = objective(batch)
    result.total.backward()
    assert result.total.isfinite()
    trained = [p for p in objective.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    assert len(trained) == len(list(objective.parameters())) or method == "clever"


def test_ciper_is_contrastive_plus_alpha_predictive():
    for alpha in (0.1, 1.0, 10.0):
        objective, batch = make(alpha=alpha)
        result = objective(batch)
        assert set(result.terms) == {"contrastive", "predictive"}
        torch.testing.assert_close(result.total, result.terms["contrastive"] + alpha * result.terms["predictive"])


def test_the_terms_are_the_losses_of_the_heads_written_out():
    objective, batch = make(norm="group")
    h0 = objective.encoder(batch.anchor)
    h1, h2 = (objective.encoder(view.images) for view in batch.views)
    contrast, predict = objective.contrastive.projector, objective.predictive.predictor
    expected = losses.nt_xent(contrast(h1), contrast(h2), 0.5)
    target = losses.standardise(torch.cat([view.parameters[:, :10] for view in batch.views]))
    error = torch.cat((predict(h0 - h1), predict(h0 - h2))) - target
    terms = objective(batch).terms
    torch.testing.assert_close(terms["contrastive"], expected)
    torch.testing.assert_close(terms["predictive"], error.square().mean())


def test_the_predictor_may_see_both_representations_instead_of_their_difference():
    objective, batch = make(augmentations=("pose",), options="predicts_from=concatenation, azimuth_as=degrees")
    head = objective.predictive
    h0, h = objective.represent_all(batch)
    target = losses.standardise(torch.cat([view.parameters for view in batch.views]))
    predicted = torch.cat([head.predictor(torch.cat((h0, hv), 1)) for hv in h])
    assert predicted.shape[1] == 3  # degrees, elevation, distance
    found = head(h0, h, [view.parameters for view in batch.views])
    torch.testing.assert_close(found, losses.parameter_loss(predicted, target))
    plain = make(augmentations=("pose",))[0].predictive
    assert head.predictor[0].in_features == 2 * plain.predictor[0].in_features
    with pytest.raises(ConfigError, match="predicts_from"):
        Config(options="predicts_from=sum")


def test_the_jitter_order_is_recorded_but_not_predicted():
    objective, batch = make()
    assert batch.views[0].parameters.shape[1] == 11
    assert objective.predictive.columns == list(range(10))
    assert not objective.predictive.category_columns


def test_the_session_is_predicted_from_both_representations_by_cross_entropy():
    objective, batch = make("predictive", ("session",), norm="group")
    head = objective.predictive
    assert head.columns == []
    h0 = objective.encoder(batch.anchor)
    h = [objective.encoder(view.images) for view in batch.views]
    logits = torch.cat([head.session_predictor(torch.cat((h0, hv), 1)) for hv in h])
    sessions = torch.cat([view.parameters[:, 0] for view in batch.views]).long()
    torch.testing.assert_close(objective(batch).total, torch.nn.functional.cross_entropy(logits, sessions))


@pytest.mark.parametrize("method", ["predictive", "ciper"])
def test_a_gradient_step_lowers_the_prediction_error(method):
    """The sign of Eq. 1: with the paper's printed minus this error would grow."""
    objective, batch = make(method, norm="group", alpha=1.0 if method == "ciper" else None)
    optimiser = torch.optim.SGD(objective.predictive.parameters(), lr=0.05)
    before = objective(batch)
    before.total.backward()
    optimiser.step()
    assert objective(batch).terms["predictive"] < before.terms["predictive"]


def count_passes(objective, batch):
    """Whole images in each pass through an encoder, a teacher's too; an image of half the side is a quarter."""
    sizes, whole = [], batch.anchor[0].numel()
    encoders = [module for module in objective.modules() if isinstance(module, Encoder)]
    hooks = [e.register_forward_hook(lambda _m, inputs, _o: sizes.append(inputs[0].numel() / whole)) for e in encoders]
    objective(batch)
    for hook in hooks:
        hook.remove()
    return sizes


@pytest.mark.parametrize("method", TRAINED)
def test_each_method_states_its_compute(method):
    objective, batch = make(method)
    assert sum(count_passes(objective, batch)) == objective.passes_per_image * len(batch.index)


def test_views_share_a_pass_and_the_anchor_has_its_own():
    assert count_passes(*make("simclr")) == [32]
    assert count_passes(*make("ciper")) == [16, 32]
    assert count_passes(*make("ciper", anchor_forward="joint")) == [48]


def test_the_clean_pass_moves_batch_statistics_and_gives_no_gradient():
    plain, batch = make("simclr")
    control, _ = make("simclr_clean_pass")
    losses_plain, losses_control = plain(batch), control(batch)
    torch.testing.assert_close(losses_plain.total, losses_control.total)
    losses_plain.total.backward()
    losses_control.total.backward()
    torch.testing.assert_close(plain.encoder.conv1.weight.grad, control.encoder.conv1.weight.grad)
    assert int(plain.encoder.bn1.num_batches_tracked) == 1
    assert int(control.encoder.bn1.num_batches_tracked) == 2


def test_the_predictive_loss_reaches_the_anchor_unless_told_not_to():
    for gradient in (True, False):
        objective, batch = make("predictive", norm="group", anchor_gradient=gradient)
        anchor = batch.anchor.clone().requires_grad_()
        objective(batch._replace(anchor=anchor)).total.backward()
        assert (anchor.grad is not None) == gradient


def test_heads_are_seeded_by_name():
    ciper, simclr = make("ciper")[0].state_dict(), make("simclr")[0].state_dict()
    assert all(torch.equal(ciper[name], tensor) for name, tensor in simclr.items())
    assert len(ciper) > len(simclr)


@pytest.mark.parametrize("augmentations", [KINDS[0], ("pose", "session", "crop")])
@pytest.mark.parametrize("method", [name for name, method in methods.items() if method.trained])
def test_every_weight_that_is_drawn_is_drawn_by_the_seed(method, augmentations):
    """Of the encoder and of each head: what is not the same everywhere (a scale of 1, a bias of 0) is another one."""
    first, again, other = (dict(make(method, augmentations, seed=seed)[0].named_parameters()) for seed in (0, 0, 1))
    for name, parameter in first.items():
        assert torch.equal(parameter, again[name]), name
        if len(parameter.unique()) > 2:  # of a hypernetwork's bias, the identity
            assert not torch.equal(parameter, other[name]), name


def test_fixed_standardisation_uses_the_constants_it_was_given():
    objective, batch = make("predictive", standardisation="fixed", norm="group")
    parameters = torch.cat([view.parameters for view in batch.views])
    objective.predictive.calibrate(parameters)
    fixed = objective(batch).total
    plain, _ = make("predictive", norm="group")
    torch.testing.assert_close(fixed, plain(batch).total)
    objective.predictive.calibrate(parameters * 2 + 1)
    assert not torch.isclose(objective(batch).total, fixed)


def test_a_random_encoder_has_no_heads():
    objective, _ = make("random")
    assert all(name.startswith("encoder.") for name in objective.state_dict())


def level_task(class_information="none", **choices):
    return make("transformation_prediction", (), norm="group", class_information=class_information, **choices)


def test_the_level_is_predicted_by_cross_entropy_from_h_alone():
    objective, batch = level_task()
    (view,) = batch.views
    h = objective.encoder(view.images)
    expected = torch.nn.functional.cross_entropy(objective.level_predictor(h), view.parameters[:, -1].long())
    torch.testing.assert_close(objective(batch).total, expected)
    assert objective(batch).adversary is None
    assert objective.class_predictor is None


def test_an_added_class_is_one_more_term():
    objective, batch = level_task("added")
    result = objective(batch)
    torch.testing.assert_close(result.total, result.terms["transformation"] + result.terms["class"])


def test_an_adversary_and_the_rest_never_reach_each_other_s_parameters():
    objective, batch = level_task("removed")
    result = objective(batch)
    head = {f"class_predictor.{name}" for name, _ in objective.class_predictor.named_parameters()}
    result.total.backward(retain_graph=True)
    reached = {name for name, p in objective.named_parameters() if p.grad is not None}
    assert reached == {name for name, _ in objective.named_parameters()} - head
    objective.zero_grad(set_to_none=True)
    result.adversary.backward()
    assert {name for name, p in objective.named_parameters() if p.grad is not None} == head


def test_the_encoder_s_part_of_the_fight_is_least_at_equal_chances():
    objective, batch = level_task("removed")
    for parameter in objective.class_predictor[-1].parameters():
        torch.nn.init.zeros_(parameter)
    result = objective(batch)
    fought = result.total - result.terms["transformation"]
    torch.testing.assert_close(fought, torch.tensor(10.0).log())  # ten categories: log 10 is the minimum
    torch.nn.init.normal_(objective.class_predictor[-1].weight)
    result = objective(batch)
    assert result.total - result.terms["transformation"] > 2.31


def test_a_class_that_is_not_known_cannot_be_added():
    config = Config(**{**TINY, "method": "transformation_prediction", "class_information": "added"})
    with pytest.raises(ValueError, match="needs images with a factor category"):
        make_objective(config, make_augmentation(config, make_noise_images()).specs)


def test_the_minus_sign_of_eq_1_rewards_errors():
    plus, batch = make()
    minus, _ = make(prediction_sign="minus")
    values = [float(sign(batch).terms["predictive"].detach()) for sign in (plus, minus)]
    assert values[1] == pytest.approx(-values[0], rel=1e-6)


@pytest.mark.parametrize("target", ["category", "object", "session", "pose"])
def test_a_supervised_encoder_is_told_one_factor_by_a_linear_map_of_h(target):
    views = () if target == "pose" else ("flip",)
    objective, batch = make("supervised", views, options=f"target={target}")
    losses = objective(batch)
    (h,) = objective.represent_views(batch)
    answer = objective.head(h).float()
    if target == "pose":
        a, e, d = (batch.factors[name] for name in ("azimuth", "elevation", "distance"))
        wanted = torch.stack((a.sin(), a.cos(), e, d), 1)
        wanted = (wanted - wanted.mean(0)) / wanted.std(0, correction=0)
        expected = (answer - wanted).square().mean()
    else:
        expected = -answer.log_softmax(1)[torch.arange(16), batch.factors[target]].mean()
    assert losses.total.item() == pytest.approx(expected.item(), abs=1e-3)


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        (dict(options="target=pose"), "target=pose does not go with augmentations"),
        (dict(options="target=session", augmentations="session"), "session changes it"),
        (dict(options="target=session", dataset="digits"), "whose session is not known"),
        (dict(options="target=nonsense"), "is none of category"),
    ],
)
def test_what_cannot_be_told_is_refused(choices, said):
    with pytest.raises(ConfigError, match=said):
        Config(method="supervised", **choices)
