"""Faults that the tests must see: each is planted in a copy of the tree, alone, and the tests named for it must fail.

    python tests/planted.py [--only NAME ...] [--share 0.2 --seed 0] [--output FILE]

Every test named is one of `make test`. What is planted is exact text: where that is no longer found, or found twice,
the fault is an error too, so that the table cannot rot. The exit status is 1 if any fault is not caught.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parents[1]
COPIED = ("ciperlib", "tests", "notebooks", "figures", "data", "README.md", "pyproject.toml", "constraints.txt",
          "environment.yml", "Makefile")  # fmt: skip
SECONDS = 900  # after which the tests of a fault hang
CAUGHT, SURVIVED = "caught", "survived"


class Fault(NamedTuple):
    """What is planted where, and the tests (files, or node ids below tests/) of which at least one must fail."""

    name: str
    file: str
    old: str
    new: str
    tests: str


TRAINING, METHOD, AUGMENT = "learn/training.py", "learn/methods/{}.py".format, "learn/augment/{}.py".format
BATCHES, LEAKS, FIGURES = "test_batches.py::test_", "test_leaks.py::test_", "test_figures.py::test_"
EQUIVARIANCE, PROBES, KINS = "test_equivariance.py::test_", "test_probes.py::test_", "test_methods.py::test_"
COMPARE = "test_compare.py::test_"
COMPASS, TURNED = "analyse/probing/compass.py", "test_compass.py::test_"
TURNTABLE, DRAWN = "data/turntable/{}.py".format, "test_turntable.py::test_"
CONDITIONAL, WITHIN = "analyse/probing/conditional.py", "test_conditional.py::test_"

FAULTS = (
    # --- the loop
    Fault("every epoch has the same seed", TRAINING,
          'derived_seed(self.config.seed, "epoch", epoch)', 'derived_seed(self.config.seed, "epoch", 0)',
          f"{BATCHES}every_epoch_and_every_seed_has_an_order_of_its_own"),
    Fault("images are never shuffled", TRAINING,
          "torch.randperm(len(self.images), generator=generator, device=self.device)",
          "torch.arange(len(self.images), device=self.device)",
          f"{BATCHES}every_epoch_and_every_seed_has_an_order_of_its_own"),
    Fault("no weight decay", TRAINING,
          "config.learning_rate, config.momentum, weight_decay=config.weight_decay)",
          "config.learning_rate, config.momentum)",
          f"{BATCHES}weight_decay_reaches_every_weight"),
    Fault("no decay of biases and norms", TRAINING,
          "return torch.optim.SGD(parameters, config.learning_rate",
          'parameters = [{"params": [p for p in parameters if p.ndim > 1]}, {"params": [p for p in parameters if '
          'p.ndim < 2], "weight_decay": 0.0}]\n    return torch.optim.SGD(parameters, config.learning_rate',
          f"{BATCHES}weight_decay_reaches_every_weight"),
    Fault("the anchor is the first view", TRAINING,
          "yield Batch(index[mine], self._lay(self.images.floats(index[mine])), views, factors)",
          "yield Batch(index[mine], views[0].images, views, factors)",
          f"{BATCHES}the_anchor_is_the_clean_image_and_index_and_category_are_its_own"),
    Fault("a narrow network trains channels last", "learn/devices.py",
          "c.in_channels < 8 and c.kernel_size", "c.in_channels < 0 and c.kernel_size",
          "test_devices.py::test_a_narrow_network_trains_on_a_cpu_without_avx_512"),
    Fault("a method's recipe is in nobody's name", "config.py",
          "made_by.items() if recipe > 1}", "made_by.items() if recipe > 9}",
          "test_registry.py::test_a_method_s_own_recipe_renames_its_own_runs_alone"),
    Fault("a run of an older recipe is trained again under its name", TRAINING,
          "    if config.recipes:\n", "    if False:\n",
          "test_registry.py::test_a_run_of_an_older_recipe_is_known_by_its_name_and_not_trained_again"),
    Fault("rendered levels are read off again", "learn/augment/transformations.py",
          "images.renderer is not None and not other", "images.renderer is not None and other",
          "test_transformations.py::test_rendered_levels_are_drawn_anew_and_rendered"),
    Fault("the prediction's variance is not halved", METHOD("sie"),
          "losses.variance_hinge(guess) / 2", "losses.variance_hinge(guess)",
          f"{KINS}sie_s_terms_and_their_weights"),
    Fault("an upper bound is told the pose of other images", METHOD("supervised"),
          "(gather(batch.factors[name]).float() for name in POSE)",
          "(gather(batch.factors[name]).float().flip(0) for name in POSE)",
          "test_objectives.py::test_a_supervised_encoder_is_told_one_factor_by_a_linear_map_of_h"),
    Fault("each map is fitted on all images", CONDITIONAL,
          "maps = [_fit(x, y, which.y == k,", "maps = [_fit(x, y, which.y >= 0,",
          f"{WITHIN}a_front_of_its_own_is_read_within_each_object_and_by_no_single_map"),
    Fault("a column that does not vary is divided by its spread", "analyse/probing/probes.py",
          "torch.where(y_scale.isinf(), 1.0, y_scale)", "torch.where(y_scale.isnan(), 1.0, y_scale)",
          f"{WITHIN}a_column_that_does_not_vary_is_predicted_by_its_mean"),
    Fault("two stages are told the group", CONDITIONAL,
          "told=guessed.prediction, seed=seed", "told=None, seed=seed",
          f"{WITHIN}without_being_told_it_is_as_good_as_the_guesses"),
    Fault("an unseen object is fitted on", CONDITIONAL,
          "part = train.subset(fold[which.y] != f)", "part = train.subset(fold[which.y] >= 0)",
          f"{WITHIN}no_fold_has_fitted_on_a_value_that_it_is_asked_about"),
    Fault("few images predict by whatever map is best", CONDITIONAL,
          "(tried[best] if known else tried[0])", "tried[best]",
          f"{WITHIN}a_tiny_set_does_no_worse_than_the_mean"),
    Fault("every draw of few labels is the first", CONDITIONAL,
          'derived_seed(seed, "learning_curve", draw)', 'derived_seed(seed, "learning_curve")',
          f"{WITHIN}more_images_and_more_labels_tell_more"),
    Fault("an option counts for whoever is trained", "config.py",
          "in _pairs(self.options).items() if name in mine}", "in _pairs(self.options).items()}",
          "test_registry.py::test_an_option_counts_where_it_is_not_the_default_and_its_owner_is_in_use"),
    Fault("a choice counts in every name once somebody reads it", "config.py",
          "read = {name for owner in self.owners.values() for name in owner.reads}",
          "read = {name for method in methods.values() for name in method.reads}",
          "test_registry.py::test_whatever_a_new_entry_reads_no_shipped_run_is_renamed"),
    Fault("factors stay as they were where images are rendered anew", "data/imageset.py",
          "return replace(self, images=images, masks=masks, factors=factors)",
          "return replace(self, images=images, masks=masks)",
          "test_imageset.py::test_rendered_images_are_rendered_anew_and_others_are_refused"),
    Fault("a run of another version of a plugin is trusted", "learn/runs.py",
          "if made.get(name) != digest:", "if made.get(name) is None:",
          "test_plugins.py::test_a_run_of_another_version_is_refused_by_name"),
    Fault("a plugin that fails leaves what it registered", "plugin.py",
          "            registry.restore(entries)\n        raise", "            pass\n        raise",
          "test_plugins.py::test_a_plugin_that_cannot_be_leaves_nothing_behind"),
    Fault("steps stand in the order in which they were read", "registry.py",
          "iter(sorted(self._loaded(), key=lambda name: (self._entries[name].place, name)))", "iter(self._loaded())",
          "test_plugins.py::test_steps_stand_by_place_then_by_name_however_they_were_read"),
    Fault("encoders of different kinds have one label", "labels.py",
          "if len(found[text]) > 1 else text", "if len(found[text]) > 9 else text",
          "test_present.py::test_labels_are_alike_only_where_all_is_the_same_but_the_seed"),
    Fault("a linear map of channels that come last is drawn as rows", "analyse/attribution/fullgrad.py",
          'return {"": term.permute(0, 3, 1, 2)}', 'return {"": term}',
          "test_saliency.py::test_a_linear_map_of_channels_that_come_last_is_drawn_as_the_convolution_that_it_is"),
    Fault("the mode is checked once", "analyse/attribution/fullgrad.py",
          "        self._check_mode()\n        self._check_inputs(inputs)\n", "        self._check_inputs(inputs)\n",
          "test_saliency.py::test_the_mode_is_checked_at_every_call"),
    Fault("painted images are rendered anew as if nobody had painted them", "analyse/attribution/sanity_checks.py",
          "images=pixels, renderer=None)", "images=pixels)",
          "test_saliency_tests.py::test_planted_encoders_get_the_right_verdict"),
    Fault("a browser that hangs after a picture ends all pictures", "present/drawing.py",
          "isinstance(error, TimeoutError) and not painter.drew", "isinstance(error, TimeoutError)",
          "test_present.py::test_a_browser_that_hangs_after_a_picture_is_replaced"),
    Fault("the method's crop scales are ignored", TRAINING,
          "{scale: make_augmentation(config, images, scale) for scale in scales}",
          "{scale: make_augmentation(config, images) for scale in scales}",
          f"{BATCHES}crops_are_of_the_size_that_the_method_asks_for"),
    Fault("both views are the same", TRAINING,
          "drawn = [self.augmentations[scale](self.images, index, generator) for scale in self.objective.crops]",
          "drawn = [self.augmentations[self.objective.crops[0]](self.images, index, generator)] "
          "* len(self.objective.crops)",
          f"{BATCHES}views_are_drawn_independently_of_each_other"),
    Fault("what is left over is always the same", TRAINING,
          "order = torch.randperm(len(self.images), generator=generator, device=self.device)",
          "order = torch.randperm(self.steps * self.config.batch_size, generator=generator, device=self.device)",
          f"{BATCHES}an_image_is_met_at_most_once_an_epoch_and_none_is_left_out_for_ever"),
    Fault("the category is another image's", TRAINING,
          "{name: column[index[mine]] for", "{name: column[index.flip(0)[mine]] for",
          f"{BATCHES}the_anchor_is_the_clean_image_and_index_and_category_are_its_own"),
    Fault("the cosine is a step ahead", TRAINING,
          "self._set_rate(epoch * self.steps + step)", "self._set_rate(epoch * self.steps + step + 1)",
          f"{BATCHES}the_rate_follows_a_cosine"),
    Fault("half the learning rate", TRAINING,
          "self.config.learning_rate * (1 + math.cos(math.pi * done)) / 2",
          "self.config.learning_rate * (1 + math.cos(math.pi * done)) / 4",
          f"{BATCHES}the_rate_follows_a_cosine"),
    Fault("BatchNorm keeps the mode it was left in", TRAINING,
          "        self.objective.train()\n", "",
          f"{BATCHES}batch_norm_learns_the_statistics_of_each_training_pass"),
    Fault("gradients are never set to nothing", TRAINING,
          "        self.optimiser.zero_grad(set_to_none=True)\n", "",
          f"{BATCHES}momentum_carries_the_steps_before"),
    Fault("a resumed run forgets its momentum", TRAINING,
          'OPTIMISER_STATE = ("momentum_buffer", "step"', 'OPTIMISER_STATE = ("step"',
          "test_training.py::test_a_stopped_run_resumes_to_the_bit"),
    Fault("the share that is done lags a step behind", TRAINING,
          "(epoch * self.steps + step + 1) / (self.steps * self.config.epochs)",
          "(epoch * self.steps + step) / (self.steps * self.config.epochs)",
          f"{BATCHES}the_share_of_the_training_that_is_done_ends_at_1"),
    Fault("a teacher does not know the colours", TRAINING,
          "for encoder in self.objective.modules():", "for encoder in [self.objective.encoder]:",
          f"{KINS}a_teacher_knows_the_colours_of_the_images"),
    Fault("own rows get no gradient where processes share a batch", "learn/parallel.py",
          "    parts[rank()] = rows\n", "",
          "test_training.py::test_two_processes_equal_one[ciper]"),
    # --- views
    Fault("grey before jitter", AUGMENT("fused"),
          "        _jitter(steps, planes, named, bounds)\n        _grey(steps, planes, named)\n    if order",
          "        _grey(steps, planes, named)\n        _jitter(steps, planes, named, bounds)\n    if order",
          "test_augment.py::test_operations_agree_with_torchvision"),
    Fault("jitter reaches up and never down", AUGMENT("jitter"),
          "spec.low + (spec.high - spec.low) * factor", "neutral + (spec.high - neutral) * factor",
          "test_augment.py::test_jitter_is_distributed_as_torchvisions"),
    Fault("jitter's order is always the first", AUGMENT("jitter"),
          "(order * len(ORDERS)).floor()]", "torch.zeros_like(order)]",
          "test_augment.py::test_jitter_is_distributed_as_torchvisions"),
    Fault("a flip that is not done is written down", AUGMENT("fused"),
          "columns = torch.where(named[\"flip\"].bool()[:, None], columns.flip(1), columns)",
          "columns = torch.where(named[\"flip\"].bool()[:, None], columns, columns)",
          "test_augment.py::test_operations_agree_with_torchvision"),
    Fault("the pose is the anchor's minus the view's", AUGMENT("pose"),
          "change = factors[name][view] - factors[name][anchor]",
          "change = factors[name][anchor] - factors[name][view]",
          f"{BATCHES}a_pose_view_is_another_image_of_the_object_and_says_how_it_was_turned"),
    Fault("an image can be its own partner", AUGMENT("positives"),
          "start + chosen + length * (chosen >= skip)", "start + chosen",
          f"{BATCHES}a_pose_view_is_another_image_of_the_object_and_says_how_it_was_turned"),
    Fault("the last partner is never drawn", AUGMENT("positives"),
          "(random.double() * left).long()", "(random.double() * (left - 1)).long()",
          f"{BATCHES}every_other_image_of_the_object_can_be_the_partner"),
    # --- losses
    Fault("targets are standardised by n - 1", METHOD("losses"),
          "parameters.var(0, unbiased=False) + EPSILON", "parameters.var(0) + EPSILON",
          "test_losses.py::test_standardisation_is_batch_norm_without_an_affine_part"),
    Fault("the projector's weights are every seed's", METHOD("heads"),
          'with seeded(config.seed, "projector"):', 'with seeded(0, "projector"):',
          "test_objectives.py::test_every_weight_that_is_drawn_is_drawn_by_the_seed"),
    Fault("SIE's hypernetwork is every seed's", METHOD("sie"),
          'with seeded(config.seed, "hypernetwork"):', 'with seeded(0, "hypernetwork"):',
          "test_objectives.py::test_every_weight_that_is_drawn_is_drawn_by_the_seed"),
    Fault("SIE's variance weighs as much as its covariance", METHOD("sie"),
          '"variance": 10.0,\n    "prediction', '"variance": 1.0,\n    "prediction',
          f"{KINS}the_papers_constants"),
    Fault("SIE turns the target and not the view", METHOD("sie"),
          '"equivariance": F.mse_loss(guess, b2),', '"equivariance": F.mse_loss(guess, b1),',
          f"{KINS}sie_s_terms_and_their_weights"),
    Fault("EquiMod's temperature is the contrastive one", METHOD("equimod"),
          "TEMPERATURE = 0.2", "TEMPERATURE = 0.5",
          f"{KINS}equimod_finds_the_view_s_embedding"),
    Fault("E-SSL's rotations are dealt out image by image", METHOD("essl"),
          "torch.arange(4, device=h.device).repeat_interleave(len(small))",
          "torch.arange(4, device=h.device).repeat(len(small))",
          f"{KINS}essl_is_contrast_and_four_rotations_of_a_small_view"),
    Fault("AugSelf asks in one order", METHOD("augself"),
          "torch.cat((torch.cat((h1, h2), 1), torch.cat((h2, h1), 1)))",
          "torch.cat((torch.cat((h1, h2), 1), torch.cat((h1, h2), 1)))",
          f"{KINS}augself_asks_in_both_orders_one_head_a_step"),
    Fault("the teacher's momentum is another", METHOD("clever"),
          "CENTRE_MOMENTUM, TEACHER_MOMENTUM = 0.9, 0.996", "CENTRE_MOMENTUM, TEACHER_MOMENTUM = 0.9, 0.99",
          f"{KINS}the_papers_constants"),
    Fault("CLeVER's regularisation weighs nothing", METHOD("clever"),
          '"regularisation": size}', '"regularisation": 0.0}',
          f"{KINS}clever_s_total_is_its_terms_with_their_weights"),
    Fault("the clean pass has a gradient and no statistics", METHOD("simclr"),
          "        with torch.no_grad():\n            self.encoder(batch.anchor)\n", "",
          "test_objectives.py::test_the_clean_pass_moves_batch_statistics_and_gives_no_gradient"),
    # --- cross-fits
    Fault("networks are fitted on the fold that they score", "analyse/information/entropy_models.py",
          "torch.nonzero((folds != f) & (folds != (f + 1) % count)).flatten()",
          "torch.nonzero(folds != (f + 1) % count).flatten()",
          f"{LEAKS}what_a_network_says_of_a_row_does_not_hang_on_the_labels_of_its_fold"),
    Fault("networks stop where the fold that they score is best", "analyse/information/entropy_models.py",
          "loss = cross_entropy(logits(f, held[f], of_fold), y[held[f]])",
          "loss = cross_entropy(logits(f, own[f], of_fold), y[own[f]])",
          f"{LEAKS}what_a_network_says_of_a_row_does_not_hang_on_the_labels_of_its_fold"),
    Fault("the direct reader is fitted on the fold that it scores", "analyse/information/entropy_models.py",
          "LogisticProblem(x[~own], y[~own], k, like).solve(strength",
          "LogisticProblem(x, y, k, like).solve(strength",
          f"{LEAKS}nobody_knows_random_labels_of_rows_that_were_held_out"),
    Fault("the direct reader chooses on the fold that it scores", "analyse/information/entropy_models.py",
          "strength, start = _choose(inner, x[next_one], y[next_one])",
          "strength, start = _choose(inner, x[own], y[own])",
          f"{LEAKS}what_is_said_of_a_row_does_not_hang_on_the_labels_of_its_fold"),
    Fault("folds divide groups", "analyse/information/canonical_variates.py",
          "distinct, group = torch.unique(groups, return_inverse=True)",
          "distinct, group = torch.unique(torch.arange(len(groups)), return_inverse=True)",
          f"{LEAKS}a_twin_among_the_fitted_rows_would_be_seen"),
    Fault("the summary of a fold has seen it", "analyse/information/canonical_variates.py",
          "gram, cross = grams.sum(0) - grams[f], crosses.sum(0) - crosses[f]",
          "gram, cross = grams.sum(0), crosses.sum(0)",
          f"{LEAKS}what_is_said_of_a_row_does_not_hang_on_the_labels_of_its_fold"),
    Fault("the linear family is fitted on the fold that it scores", "analyse/information/vinformation.py",
          "        rows = self.folds != f\n", "        rows = self.folds >= 0\n",
          f"{LEAKS}what_is_said_of_a_row_does_not_hang_on_the_labels_of_its_fold"),
    Fault("the linear family chooses on the fold that it scores", "analyse/information/vinformation.py",
          "return self.folds == (f + 1) % self.count", "return self.folds == f",
          f"{LEAKS}what_is_said_of_a_row_does_not_hang_on_the_labels_of_its_fold"),
    Fault("the battery is fitted on the images that it scores", "analyse/equivariance/battery.py",
          "fit, test, groups = block[fitted].double(), block[scored].double(), firsts.groups[scored]\n"
          "    action = fit_action(fit, firsts.groups[fitted], seed=seed)",
          "fit, test, groups = block[scored].double(), block[scored].double(), firsts.groups[scored]\n"
          "    action, fitted = fit_action(fit, firsts.groups[scored], seed=seed), scored",
          f"{LEAKS}levels_without_meaning_cannot_be_read_retrieved_or_predicted"),
    Fault("readers choose their strength where they were fitted", "analyse/equivariance/level_probes.py",
          "fits[strength] = model, float(nll(model, fit[held]).mean())",
          "fits[strength] = model, float(nll(model, fit[inner]).mean())",
          f"{LEAKS}readers_choose_their_strength_on_images_that_they_were_not_fitted_on"),
    Fault("the inner split divides groups", "analyse/probing/checks.py",
          "distinct, group = torch.unique(groups, return_inverse=True)",
          "distinct, group = torch.unique(torch.arange(len(groups)), return_inverse=True)",
          f"{LEAKS}the_inner_split_keeps_groups_whole_and_loses_no_row"),
    Fault("parameters are read on the images that were fitted on", "analyse/equivariance/decodability.py",
          "found = fit_regression_probe(fit, score, name, seed=seed, resamples=resamples)",
          'found = fit_regression_probe(fit, replace(fit, name="again"), name, seed=seed, resamples=resamples)',
          f"{LEAKS}a_flip_that_noise_does_not_show_cannot_be_read"),
    # --- measures
    Fault("the local sensitivity is twice too large", "analyse/equivariance/sensitivity.py",
          "/ (2 * step * spread))", "/ (step * spread))",
          f"{EQUIVARIANCE}the_local_sensitivity_of_a_representation_that_is_the_factor"),
    Fault("one level too few in the turn error", "analyse/equivariance/battery.py",
          "off / (gaps.shape[1] + 1)", "off / gaps.shape[1]",
          f"{EQUIVARIANCE}the_rotation_error_by_a_loop_over_quaternions"),
    Fault("invariant is what moves half as far as to another image", "analyse/equivariance/battery.py",
          "KEPT, LEFT = 0.1, 0.1, 0.5, 0.1", "KEPT, LEFT = 0.5, 0.1, 0.5, 0.1",
          f"{EQUIVARIANCE}the_lines_of_the_verdict_are_where_the_docstring_says"),
    Fault("re-encoded is what a fifth is known of", "analyse/equivariance/battery.py",
          "KEPT, LEFT = 0.1, 0.1, 0.5, 0.1", "KEPT, LEFT = 0.1, 0.2, 0.5, 0.1",
          f"{EQUIVARIANCE}the_lines_of_the_verdict_are_where_the_docstring_says"),
    Fault("a verdict that half of the images do not give stands", "analyse/equivariance/battery.py",
          'verdict != "unresolved" and verdict_of(fewer)[0] != verdict', 'verdict_of(fewer)[0] != verdict and n < 0',
          f"{EQUIVARIANCE}a_verdict_needs_half_of_the_images"),
    Fault("images that become alike are re-encoded", "analyse/equivariance/battery.py",
          "if found.remaining.high < LEFT:", "if found.remaining.high < 0:",
          f"{EQUIVARIANCE}images_that_become_one_point_are_lost_however_well_the_level_is_told"),
    Fault("h0 is drawn to the mean by what is best for the scored images' start", "analyse/equivariance/battery.py",
          "share = (away * away[:, :1]).sum((0, 2))", "share = (away * away).sum((0, 2))",
          f"{EQUIVARIANCE}what_the_map_knows_beyond_the_mean"),
    Fault("noise is re-encoded", "analyse/equivariance/battery.py",
          "levels == 2 and by_map and found.r2_beyond.low > 0", "levels == 2 and by_map and found.r2_gain.low > 0",
          f"{EQUIVARIANCE}noise_alone_is_not_called_re_encoded"),
    Fault("two fitted images for three dimensions are enough", "analyse/equivariance/battery.py",
          "FITTED = 1.5", "FITTED = 0.67",
          f"{EQUIVARIANCE}the_lines_of_the_verdict_are_where_the_docstring_says"),
    Fault("distances between images are of n instead of n - 1", "analyse/equivariance/battery.py",
          "square().sum(1) * len(start) / (len(start) - 1)", "square().sum(1)",
          f"{EQUIVARIANCE}the_invariance_error_and_the_shares_against_loops"),
    Fault("orbits begin at the last level", "analyse/orbits.py",
          "torch.stack([part.matrix for part in parts], 1)", "torch.stack([part.matrix for part in parts[::-1]], 1)",
          "test_transformations.py::test_orbits_have_every_level_of_every_image_in_order"),
    Fault("the bootstrap draws rows and not groups", "analyse/statistics.py",
          "distinct, group = torch.unique(groups, return_inverse=True)",
          "distinct, group = torch.unique(torch.arange(len(groups)), return_inverse=True)",
          f"{PROBES}interval_covers_the_truth_about_95_times_in_100_whatever_the_groups"),
    Fault("the interval holds 90 of 100", "analyse/statistics.py",
          "[0.025, 0.975]", "[0.05, 0.95]",
          f"{PROBES}interval_is_that_of_a_loop_over_drawn_groups"),
    Fault("t-intervals of n degrees of freedom", "analyse/statistics.py",
          "student_t.ppf(0.975, n - 1)", "student_t.ppf(0.975, n)",
          f"{COMPARE}differences_of_three_seeds_by_hand"),
    Fault("seeds are not paired", "analyse/compare.py",
          "(scores[first] - scores[second]).dropna()", "(scores[first] - scores[second].mean()).dropna()",
          f"{COMPARE}differences_of_three_seeds_by_hand"),
    Fault("an answer is kept under the measure's name alone", "analyse/keys.py",
          "return [code.co_code.hex(), constants, code.co_names, code.co_varnames]", "return [code.co_name]",
          f"{COMPARE}another_pixel_measure_parameter_or_encoder_is_measured_anew"),
    Fault("what a measure reads is no part of its key", "analyse/keys.py",
          '["function", _describe_code(own.__code__), defaults, read]',
          '["function", _describe_code(own.__code__), defaults]',
          f"{COMPARE}another_pixel_measure_parameter_or_encoder_is_measured_anew"),
    Fault("a namesake is taken for a known encoder", "analyse/compare.py",
          'known[known["run"] == case.config.name]', 'known[known["encoder"] == case.name]',
          f"{COMPARE}a_namesake_with_another_choice_is_not_taken_for_it"),
    Fault("a kept answer is believed whoever wrote it", "analyse/compare.py",
          'for row in kept["rows"]] if sealed else None', 'for row in kept["rows"]]',
          f"{COMPARE}a_kept_answer_that_nobody_vouches_for_is_not_believed"),
    Fault("networks are told apart by their weights alone", "analyse/keys.py",
          "_describe(type(value), type(value).__name__, inside), fingerprint(value)]", "fingerprint(value)]",
          "test_keys.py::test_a_network_s_own_code_counts"),
    Fault("a report takes one encoder's probes for another's", "analyse/report.py",
          'self._found.get("encoder") is not encoder or self._found["weights"] != weights',
          'self._found.get("weights") != weights',
          "test_report.py::test_what_was_found_of_one_encoder_is_not_another_s"),
    Fault("a table of an older measure is taken for today's", "analyse/shipped.py",
          'known.get("recipe", 1) != measure.recipe', 'known.get("recipe", 1) > measure.recipe',
          "test_shipped.py::test_a_table_of_an_older_measure_is_refused"),
    Fault("two kinds of encoder are one row", "analyse/compare.py",
          "if len(kinds[case.name]) > 1:", "if len(kinds[case.name]) > 2:",
          f"{COMPARE}cases_that_a_row_would_hide_are_refused"),
    Fault("seeds and objects as if only one of them were drawn", "analyse/statistics.py",
          "total = max(squares.sum(), squares[0], squares[1])", "total = min(squares[0], squares[1])",
          "test_statistics_coverage.py::test_the_interval_over_seeds_and_groups_holds_it_whatever_varies_most"),
    Fault("Holm multiplies by the rank", "analyse/statistics.py",
          "np.arange(known.sum(), 0, -1)", "np.arange(1, known.sum() + 1)",
          "test_statistics_coverage.py::test_corrections_against_their_definitions"),
    Fault("azimuths are not wrapped", "analyse/statistics.py",
          "return torch.atan2(torch.sin(a - b), torch.cos(a - b)).abs()", "return (a - b).abs()",
          f"{PROBES}circular_error_goes_the_short_way_round"),
    Fault("neighbours vote without a temperature", "analyse/probing/probes.py",
          "((similarity.double() - 1) / temperature).exp()", "(similarity.double() - 1).exp()",
          f"{PROBES}a_near_neighbour_outvotes_three_far_ones_where_the_temperature_is_low"),
    Fault("an image is its own neighbour", "analyse/layout/layouts.py",
          "_distances(x, own=torch.inf)", "_distances(x, own=0.0)",
          "test_layout.py::test_overlap_against_scikit_learn_s_neighbours"),
    Fault("FullGrad forgets the coordinates", "analyse/attribution/fullgrad.py",
          'constants.setdefault("coordinates", []).append(', 'constants.setdefault("none", []); str(',
          "test_saliency.py::test_the_workbook_s_encoders_with_a_probe_on_top"),
    Fault("a mask is any ray that meets the object", "data/turntable/raycaster.py",
          "masks = 2 * met.sum(1) >= shape[1]", "masks = met.any(1)",
          "test_turntable.py::test_a_mask_is_the_majority_of_a_pixels_rays"),
    Fault("ties count as misses", "analyse/equivariance/actions.py",
          "return (harmonic[nearer + same] - harmonic[nearer]) / same", "return 1.0 / (nearer + same)",
          f"{EQUIVARIANCE}ties_score_chance"),
    Fault("present where p is at most a quarter", "analyse/information/explaining_away.py",
          "if not p_value <= 0.05:", "if not p_value <= 0.25:",
          "test_information.py::test_the_verdict_needs_every_family_to_agree"),
    Fault("absent before networks are asked", "analyse/information/explaining_away.py",
          "if ends[highest][1] < SMALL_NATS and networks:", "if ends[highest][1] < SMALL_NATS:",
          "test_information.py::test_the_verdict_needs_every_family_to_agree"),
    Fault("the interval is of this number of images", "analyse/information/readings.py",
          "STILL * _gained(parts, side, model)", "0 * _gained(parts, side, model)",
          "test_information.py::test_the_interval_reaches_to_images_without_end"),
    Fault("nothing is ever not converged", "analyse/information/explaining_away.py",
          "> max(spread, SMALL_NATS)", "> 10 * max(spread, SMALL_NATS)",
          "test_information.py::test_the_verdict_needs_every_family_to_agree"),
    Fault("heavy tails pass", "analyse/information/explaining_away.py",
          "if clipped > HEAVY:", "if clipped > 1:",
          "test_information.py::test_a_few_outliers_change_nothing_and_heavy_tails_are_refused"),
    Fault("by heart, whatever is known of other images", "analyse/information/explaining_away.py",
          " and held_out > LOW * math.log(levels)", "",
          "test_information.py::test_training_perfect_and_test_low_is_learned_by_heart"),
    Fault("one direction of a factor is erased", "analyse/probing/erasure.py",
          "left = left[:, strengths > RANK_TOLERANCE * strengths.max()]", "left = left[:, :1]",
          f"{WITHIN}what_is_erased_leaves_no_linear_trace_and_takes_nothing_else"),
    Fault("a factor's directions are projected away", "analyse/probing/erasure.py",
          "erased = (vectors / roots) @ left @ (left.T @ (vectors * roots).T)",
          "erased = (q := torch.linalg.qr((vectors * roots) @ left)[0]) @ q.T",
          f"{WITHIN}erasing_moves_representations_as_little_as_can_be"),
    Fault("outliers stay where they are", "analyse/information/explaining_away.py",
          "inside = z.double().clamp(middle - reach, middle + reach).float()", "inside = z",
          "test_information.py::test_a_few_outliers_change_nothing_and_heavy_tails_are_refused"),
    Fault("evidence needs the map alone", "analyse/attribution/saliency_tests.py",
          'experiment = "object" if swapped.low > hidden.high else "surroundings"',
          'experiment = "object" if pixels.value > floors["area"] else "surroundings"',
          "test_saliency_tests.py::test_map_and_experiment_have_to_agree"),
    Fault("a map need not beat an edge detector", "analyse/attribution/saliency_tests.py",
          'rows.value[["area", EDGES, RANDOM_WEIGHTS]]', 'rows.value[["area", RANDOM_WEIGHTS]]',
          "test_saliency_tests.py::test_a_map_has_to_beat_an_edge_detector_and_random_weights"),
    Fault("every kind has the seeds of the first", "learn/zoo.py",
          'named = own.pop("seeds", SEEDS)', 'named = own.pop("seeds", SEEDS) and kinds[0].get("seeds", SEEDS)',
          f"{COMPARE}without_seeds_each_kind_has_its_own"),
    Fault("a group's map starts from the mean of all, always", "analyse/probing/conditional.py",
          "fit if own_mean else Linear(", "fit if own_mean is None else Linear(",
          f"{WITHIN}a_constant_azimuth_within_an_object_is_known"),
    # --- figures
    Fault("lower bars of scores drawn as upper ones", "present/plotting.py",
          "error_x=dict(array=[high - mean], arrayminus=[mean - low]",
          "error_x=dict(array=[high - mean], arrayminus=[high - mean]",
          f"{FIGURES}scores_of_one_seed_show_its_interval"),
    Fault("lower bars of factors drawn as upper ones", "present/plotting.py",
          'error_x=dict(array=rows["high"] - rows["value"], arrayminus=rows["value"] - rows["low"]',
          'error_x=dict(array=rows["high"] - rows["value"], arrayminus=rows["high"] - rows["value"]',
          f"{FIGURES}factors_show_their_intervals_each_at_its_own"),
    Fault("lower bars of the synergy drawn as upper ones", "present/plotting.py",
          'error_y=dict(array=rows["high"] - rows["value"], arrayminus=rows["value"] - rows["low"]',
          'error_y=dict(array=rows["high"] - rows["value"], arrayminus=rows["high"] - rows["value"]',
          f"{FIGURES}synergy_shows_its_interval"),
    Fault("the explorer's bars are exchanged", "present/explorer.py",
          "bars = dict(array=above, arrayminus=", "bars = dict(arrayminus=above, array=",
          f"{FIGURES}the_explorer_shows_the_intervals_of_probes_and_of_the_synergy"),
    Fault("half of an interval is the whole", "present/verdicts.py",
          "{(high - low) / 2:.2f}", "{high - low:.2f}",
          f"{FIGURES}decodability_writes_half_of_the_interval_over_seeds"),
    # --- each object's compass, and the families
    Fault("other places are the same places", CONDITIONAL,
          'fit_unseen(train, test, "object", "session", **options).scores', "guessed.scores",
          f"{WITHIN}object_by_object_it_says_what_each_probe_says"),
    Fault("circles have no middle of their own", COMPASS,
          "    means = _means(x, own, count)\n", "    means = 0 * _means(x, own, count)\n",
          f"{TURNED}a_front_of_its_own_is_found_and_one_map_is_at_chance"),
    Fault("turns are not taken back", COMPASS, "self.weight * self.turns[own].conj()", "self.weight",
          f"{TURNED}a_front_of_its_own_is_found_and_one_map_is_at_chance"),
    Fault("a mirrored object is read the plain way", COMPASS,
          "torch.where(self.mirrored[own], found.conj(), found)", "found",
          f"{TURNED}mirrored_objects_need_to_be_asked_for"),
    Fault("a new object's turn is not taken from its views", COMPASS,
          "guess = read * _phase(sums)[own].conj()", "guess = read",
          f"{TURNED}a_new_object_costs_one_view_where_a_turn_is_all_that_it_has"),
    Fault("what is labelled is tested", COMPASS,
          "guess[rows] = x[rows].to(known.dtype) @ weight[k, :, 0]\n"
          "        total += _mean_error(guess, azimuth, own, ~told",
          "guess[rows] = x[rows].to(known.dtype) @ weight[k, :, 0]\n"
          "        total += _mean_error(guess, azimuth, own, told",
          f"{TURNED}without_an_azimuth_there_is_nothing_to_turn"),
    Fault("an object may be new and known", COMPASS,
          "    if both := sorted(known & other):", "    if both := sorted(known - known):",
          f"{TURNED}what_cannot_be_asked_is_refused"),
    Fault("a turn of more than half a turn is not wrapped", AUGMENT("pose"),
          "(degrees + 180) % 360 - 180", "degrees", "test_augment.py::test_a_turn_can_be_said_in_degrees_and_wraps"),
    Fault("the predictor sees the anchor twice", METHOD("heads"),
          "torch.cat((h0, hv), 1) if self.concatenated", "torch.cat((h0, h0), 1) if self.concatenated",
          "test_objectives.py::test_the_predictor_may_see_both_representations_instead_of_their_difference"),
    Fault("every stage is the last one", "learn/encoders/resnet.py",
          "for layer in range(stage):", "for layer in range(self.stages):",
          "test_stages.py::test_the_last_stage_is_h_and_the_first_a_convolution"),
    Fault("nobody says that no picture was drawn", "batch/runner.py",
          "            left.append(record.notebook)\n", "",
          "test_batch.py::test_only_a_run_s_own_pictures_are_published"),
    Fault("new objects are trained on", TURNTABLE("__init__"),
          "% families.EACH >= families.TRAINING", "% families.EACH >= 0",
          f"{DRAWN}no_object_is_on_both_sides_and_both_have_every_category"),
    Fault("new places are known ones", TURNTABLE("__init__"),
          '"families", False, (9, 11))', '"families", False, (0, 2))',
          f"{DRAWN}no_object_is_on_both_sides_and_both_have_every_category"),
    Fault("an object's shadow tells its category", TURNTABLE("families"), "float(size), SHADOW)", "float(size))",
          f"{DRAWN}colour_and_size_do_not_give_the_category_away"),
    Fault("what shows nothing is an object", TURNTABLE("families"), "if _can_be_seen(parts):", "if True:",
          f"{DRAWN}an_object_that_shows_nothing_is_drawn_again_or_refused"),
    Fault("objects are drawn by another seed", TURNTABLE("families"), "SEED, TRIES = 7, 10", "SEED, TRIES = 8, 10",
          f"{DRAWN}a_drawn_object_is_the_same_on_every_machine_and_each_is_another"),
)  # fmt: skip


def stale(fault: Fault, tree: Path = HERE) -> str | None:
    """What is wrong with an entry of the table: text that is not there, or there twice, or a test that is not."""
    count = (tree / "ciperlib" / fault.file).read_text().count(fault.old)
    if count != 1:
        return f"the text is found {count} times in {fault.file}"
    file, _, test = fault.tests.partition("::")
    if test and f"def {test.partition('[')[0]}" not in (tree / "tests" / file).read_text():
        return f"{fault.tests} is no test"
    return None


@contextmanager
def copy_of_the_tree() -> Iterator[Path]:
    """A copy in which anything may be written: links to the files would be written through."""
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        for name in COPIED:
            source, target = HERE / name, Path(folder) / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
            elif source.exists():
                shutil.copy2(source, target)
        yield Path(folder)


def run_tests(tree: Path, tests: Sequence[str]) -> tuple[int | None, str]:
    """Pytest's exit status in the copy (0 passed, 1 failed; None where it hangs) and its last words. The library is the
    copy's, wherever another one is installed."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    for variable in ("CIPER_RUNS", "CIPER_ZOO", "CIPER_DATA"):
        environment.pop(variable, None)
    check = "import ciperlib, sys; sys.exit(not ciperlib.__file__.startswith(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", check, str(tree)], cwd=tree, env=environment, check=True)
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=line"]
    command += [node for test in tests for node in _whole_names(f"tests/{test}", tree)]
    try:
        done = subprocess.run(command, cwd=tree, env=environment, timeout=SECONDS, capture_output=True, text=True)
    except subprocess.TimeoutExpired:
        return None, ""
    return done.returncode, done.stdout[-2000:] + done.stderr[-2000:]


def _whole_names(test: str, tree: Path) -> list[str]:
    """A node id may be the beginning of a test's name: all that begin so are meant."""
    file, _, start = test.partition("::")
    lines = (tree / file).read_text().splitlines() if start else []
    names = [line[4:].partition("(")[0] for line in lines if line.startswith(f"def {start}")]
    return [f"{file}::{name}" for name in names] or [test]


def plant(fault: Fault, tree: Path) -> str:
    """Its fate: caught, survived, or what is wrong with the entry."""
    if wrong := stale(fault, tree):
        return wrong
    path = tree / "ciperlib" / fault.file
    sound = path.read_text()
    path.write_text(sound.replace(fault.old, fault.new))
    try:
        status, _ = run_tests(tree, [fault.tests])
    finally:
        path.write_text(sound)
    return {0: SURVIVED, 1: CAUGHT, None: "its tests hang"}.get(status, f"pytest ends with {status}")


def draw(share: float, seed: int) -> list[Fault]:
    count = max(1, round(share * len(FAULTS)))
    chosen = set(random.Random(seed).sample(range(len(FAULTS)), count))
    return [fault for i, fault in enumerate(FAULTS) if i in chosen]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="faults whose name contains one of these words")
    parser.add_argument("--share", type=float, default=1.0, help="of the faults, drawn by --seed (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--output", type=Path, help="JSON file: name -> caught, survived or what is wrong")
    parser.add_argument("--list", action="store_true", help="name the faults, and plant none")
    options = parser.parse_args()
    chosen = draw(options.share, options.seed)
    if options.only:
        chosen = [fault for fault in FAULTS if any(word in fault.name for word in options.only)]
    fates: dict[str, str] = {}
    with copy_of_the_tree() as tree:
        status, words = (0, "") if options.list else run_tests(tree, list(dict.fromkeys(f.tests for f in chosen)))
        if status != 0:
            fates["no fault at all"] = f"the tests named for these faults fail without them: {words}"
        for fault in chosen:
            fates[fault.name] = (stale(fault) or fault.tests) if options.list else plant(fault, tree)
            print(f"{fault.name}: {fates[fault.name]}", flush=True)
            if options.output:
                options.output.write_text(json.dumps(fates, indent=1))
    survived = [name for name, fate in fates.items() if fate != CAUGHT]
    if not options.list:
        print(
            f"{len(chosen)} faults, {len(chosen) - len(survived)} caught; not caught: {', '.join(survived) or 'none'}"
        )
    return 0 if options.list else bool(survived)


if __name__ == "__main__":
    sys.exit(main())
