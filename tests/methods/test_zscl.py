"""ZSCL, LwF and LwF-VR: what they promise, and the mistakes they name."""

from dataclasses import replace

import pytest
import torch
from small_methods import (
    FAMILY,
    REFERENCE,
    SMALL,
    attached,
    begin,
    disturb,
    gradients,
    learn,
    prepared_batch,
    reference_stream,
    weights,
)
from tiny import tiny_clip, tiny_stream

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.methods import make_method
from vlcl_toolkit.methods.zscl.config import VARIANTS
from vlcl_toolkit.methods.zscl.losses import off_diagonal_logits, soft_cross_entropy
from vlcl_toolkit.methods.zscl.official import read_official_checkpoint
from vlcl_toolkit.methods.zscl.reference import random_sentences, tokenize_cut
from vlcl_toolkit.training.loader import load_step

TEXT_TOWER = ("transformer.", "token_embedding", "positional_embedding", "ln_final", "text_proj")


def distillation_gradient(method, step=0, index=0):
    """Gradients of everything but the cross-entropy, and the terms."""
    task = begin(method, index)
    disturb(method)
    batch = prepared_batch(method, task, step, seed=0)
    terms = method.loss(batch)
    both = gradients(method, terms["loss"])
    alone = gradients(method, method.loss(batch)["cross_entropy"])
    return {name: both[name] - alone[name] for name in both}, terms


def in_text_tower(name):
    return name.startswith(TEXT_TOWER)


# Promises of the whole family


@pytest.mark.parametrize("name", FAMILY)
def test_before_training_it_is_the_frozen_clip(clip, stream, name):
    images = clip.eval_transform(stream[0].test.images)
    zero_shot = make_method("zero_shot", clip).predict(images, stream[0])
    method = attached(name, clip)
    assert torch.equal(method.predict(images, stream[0]), zero_shot)
    begin(method)
    assert torch.equal(method.predict(images, stream[0]), zero_shot)


@pytest.mark.parametrize("name", FAMILY)
def test_everything_but_the_scale_is_trained(clip, name):
    total = sum(p.numel() for p in clip.model.parameters())
    method = attached(name, clip)
    begin(method)
    assert sum(p.numel() for p in method.trainable().values()) == total - 1


# Distillation


def test_a_student_that_is_the_teacher_has_no_distillation_gradient():
    method = attached("zscl", feature_distance=True, image_image=True)
    task = begin(method)
    batch = prepared_batch(method, task, 0, seed=0)
    terms = method.loss(batch)
    assert terms["feature_distance"].item() == pytest.approx(0, abs=1e-10)
    assert terms["image_distillation"] > 0  # a cross-entropy, not a divergence
    both = gradients(method, terms["loss"])
    alone = gradients(method, method.loss(batch)["cross_entropy"])
    for name, value in both.items():
        torch.testing.assert_close(value, alone[name], rtol=1e-4, atol=1e-5)


def test_the_official_text_side_does_not_reach_the_text_tower():
    found, _ = distillation_gradient(attached("zscl", weight_consolidation=0.0))
    for name, value in found.items():
        assert bool(value.abs().max() > 1e-5) is not in_text_tower(name), name


def test_the_corrected_text_side_trains_the_text_tower():
    settings = {"text_side": "student", "image_side": False, "weight_consolidation": 0.0}
    found, _ = distillation_gradient(attached("zscl", **settings, sentences_per_step=2))
    assert found["text_projection"].abs().max() > 1e-4
    assert found["visual.proj"].abs().max() < 1e-5


def test_corrected_text_side_with_all_texts_is_the_formula():
    method = attached("zscl", text_side="student", weight_consolidation=0.0)
    task = begin(method)
    disturb(method)
    batch = prepared_batch(method, task, 0, seed=0)
    tokens, scale = method.reference.tokens, method.clip.logit_scale
    found = method.loss(batch)["text_distillation"]
    student = method.clip.encode_text(tokens)
    teacher = method.teacher.texts(tokens)
    official = scale * teacher @ batch.prepared["teacher"].T
    expected = soft_cross_entropy(official, scale * student @ batch.prepared["teacher"].T, 2.0)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "factors"),
    [
        ({}, (1, 1, 0, 0)),
        ({"image_side": False}, (0, 1, 0, 0)),
        ({"text_side": "off"}, (1, 0, 0, 0)),
        ({"distillation_weight": 5.0, "feature_distance": True}, (5, 5, 0, 1)),
        ({"distillation_weight": 0.5, "image_image": True}, (0.5, 0.5, 0.5, 0)),
    ],
)
def test_the_loss_is_the_weighted_sum_of_its_terms(settings, factors):
    method = attached("zscl", **settings)
    task = begin(method)
    disturb(method)
    batch = prepared_batch(method, task, 0, seed=0)
    terms = method.loss(batch)
    names = ("image_distillation", "text_distillation", "image_image", "feature_distance")
    parts = sum(f * terms[name] for f, name in zip(factors, names, strict=True) if f)
    expected = terms["cross_entropy"] + parts + terms["consolidation"]
    torch.testing.assert_close(terms["loss"], expected)


def test_soft_cross_entropy_by_hand():
    teacher, student = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    p, q = (teacher / 2).softmax(1), (student / 2).softmax(1)
    expected = -4 * (p * q.log()).sum()
    torch.testing.assert_close(soft_cross_entropy(teacher, student, 2.0), expected)


def test_an_image_is_not_compared_with_itself():
    logits = off_diagonal_logits(torch.eye(3), 30.0)
    assert logits.softmax(dim=1).diagonal().max() == 0
    assert torch.equal(logits[0, 1:], torch.zeros(2))


# Teachers and reference material


def test_zscl_keeps_the_frozen_teacher_over_tasks():
    method = attached("zscl")
    frozen = method.clip.encode_text(method.reference.tokens).detach()
    learn(method, 0)
    begin(method, 1)
    assert torch.equal(method.teacher.texts(method.reference.tokens), frozen)


def test_lwf_learns_from_the_model_before_the_task():
    method = attached("lwf")
    learn(method, 0)
    task = begin(method, 1)
    before = method.clip.encode_text(method.reference.tokens).detach()
    disturb(method)
    assert torch.equal(method.teacher.texts(method.reference.tokens), before)
    assert torch.equal(method.reference.tokens, method.clip.tokenize(task.prompts(0)))
    assert method.distillation_images() is task.train


def test_a_mixed_teacher_lies_between():
    method = attached("zscl", teacher="mixture", teacher_mixture=0.75)
    zero_shot = weights(method)
    learn(method, 0)
    start = weights(method)
    begin(method, 1)
    mixed = method._teacher_weights()
    for name, value in mixed.items():
        torch.testing.assert_close(value, 0.75 * start[name] + 0.25 * zero_shot[name])


@pytest.mark.parametrize("name", ["lwf", "lwf_vr", "icarl"])
def test_an_aliased_teacher_has_no_gradient(name):
    method = attached(name, alias_teacher=True)
    learn(method, 0)
    found, terms = distillation_gradient(method, index=1)
    assert terms["image_distillation"] > 0.1
    assert max(float(value.abs().max()) for value in found.values()) < 1e-4
    honest, _ = distillation_gradient(attached("lwf"))
    assert max(float(value.abs().max()) for value in honest.values()) > 1e-3


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ("class_names", ["a photo of a tench.", "a photo of a goldfish."]),
        ("task_prompts", ["a photo of a apple.", "a photo of a bread."]),
        (
            "seen_prompts",
            [f"a photo of a {name}." for name in ("cat", "dog", "bird", "apple", "bread")],
        ),
    ],
)
def test_reference_texts(texts, expected):
    method = attached("zscl", reference_texts=texts)
    begin(method, 1)
    assert torch.equal(method.reference.tokens, method.clip.tokenize(expected))


def test_reference_batches_shuffle_all_reference_images():
    method = attached("zscl", reference_batch_size=5)
    task = begin(method)
    sizes, seen = [], []
    for step in range(5):  # 21 images
        seen.append(load_step(method, task, step, seed=0).others["reference"].images)
        sizes.append(len(seen[-1]))
    assert sizes == [5, 5, 5, 5, 1]
    assert len(torch.cat(seen).flatten(1).unique(dim=0)) == 21


def test_random_sentences_are_drawn_once_per_task():
    method = attached("lwf_vr", random_sentences=4)
    begin(method, 0, seed=1)
    first = method.reference.tokens
    assert first.shape == (4, 77)
    begin(method, 1, seed=2)
    assert not torch.equal(method.reference.tokens, first)


def test_random_sentences_start_and_end(clip):
    generator = torch.Generator().manual_seed(0)
    drawn = random_sentences(clip.tokenizer, 49408, 50, generator=generator)
    assert (drawn[:, 0] == 49406).all()
    assert (drawn[:, 11] == 49407).all()
    assert not drawn[:, 12:].any()
    assert drawn[:, 1:11].unique().numel() > 400


def test_long_texts_keep_their_end_unless_told_otherwise(clip):
    text = "word " * 100
    assert clip.tokenize([text])[0, -1] == 49407
    assert 49407 not in tokenize_cut(clip.tokenizer, [text], 77)
    method = attached("zscl", clip, cut_long_texts=True)
    short = method.reference.tokens
    assert torch.equal(short, clip.tokenize(reference_stream().reference().sentences))


def test_negatives_are_the_classes_of_earlier_tasks():
    method = attached("zscl", negatives="previous")
    begin(method, 1)
    assert len(method.tokens) == 5
    own, plain = method.tokens[:2], attached("zscl")
    begin(plain, 1)
    assert torch.equal(own, plain.tokens)


def test_epochs_count_passes_over_the_images():
    method = attached("zscl", epochs=2, warmup=30)
    task = begin(method)
    assert method.steps(task) == 2 * 3 + 1  # 20 images in batches of 8
    assert method.learning_rate(6, task) == pytest.approx(1e-3 * 7 / 30)


# Variants and settings


def test_the_defaults_are_those_of_the_paper(clip):
    config = make_method("zscl", clip).config
    assert (config.learning_rate, config.iterations, config.warmup) == (1e-5, 1000, 100)
    assert (config.batch_size, config.label_smoothing, config.temperature) == (64, 0.2, 2.0)
    assert (config.weight_consolidation, config.averaging, config.average_every) == (
        1.0,
        "ensemble",
        100,
    )
    assert (config.reference_images, config.reference_texts) == ("reference", "sentences")
    assert (config.teacher, config.text_side, config.distillation_weight) == (
        "zero_shot",
        "teacher",
        1.0,
    )


def test_the_variants_differ_as_in_the_paper(clip):
    configs = {name: make_method("zscl", clip, value).config for name, value in VARIANTS.items()}
    full = configs["zscl"]
    assert configs["zscl_star"] == replace(full, weight_consolidation=0.0)
    assert configs["zscl_minus"] == replace(
        full, weight_consolidation=0.0, averaging="none", reference_texts="class_names"
    )
    assert configs["zscl_class_incremental"].distillation_weight == 5
    lwf = make_method("lwf", clip).config
    assert (lwf.weight_consolidation, lwf.averaging, lwf.teacher) == (0.0, "none", "previous")
    assert make_method("lwf_vr", clip).config.reference_texts == "random"


@pytest.mark.parametrize("name", ["lwf", "lwf_vr", "icarl"])
def test_baselines_need_no_reference_material(name):
    learn(attached(name, stream=tiny_stream()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "zscl distils on reference material; stream 'tiny' has none"),
        ({"reference_images": "task"}, "stream 'tiny' has none"),
        ({"reference_texts": "task_prompts"}, "stream 'tiny' has none"),
        ({"reference_images": "memory"}, "zscl has no memory"),
    ],
)
def test_missing_reference_material_is_named(settings, message):
    with pytest.raises(UserError, match=message) as caught:
        attached("zscl", stream=tiny_stream(), **settings)
    assert "\n" not in str(caught.value)


# Official checkpoints


def test_an_official_checkpoint_predicts_as_the_model_that_was_saved(tmp_path, stream):
    trained, path = attached("zscl"), tmp_path / "pets.pth"
    learn(trained)
    state = {f"module.{name}": w for name, w in trained.clip.model.state_dict().items()}
    torch.save({"state_dict": state}, path)
    clip = tiny_clip()
    images = clip.eval_transform(stream[0].test.images)
    with make_method("zscl", clip) as method:
        method.load_state_dict(read_official_checkpoint(path, clip))
        found = method.predict(images, stream[0])
    assert torch.equal(found, trained.predict(images, stream[0]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.pop("visual.proj"),
            r"is not a checkpoint of tiny: 1 names differ \(visual.proj",
        ),
        (lambda s: s.update(extra=torch.ones(1)), r"1 names differ \(extra\)"),
        (lambda s: s.update({"visual.proj": torch.ones(2, 2)}), "visual.proj has shape"),
        (lambda s: s["visual.proj"].fill_(torch.nan), "contains NaN or Inf"),
        (lambda s: s["logit_scale"].fill_(0.0), "has the logit scale 1"),
    ],
)
def test_other_checkpoints_are_refused(tmp_path, change, message):
    state = {name: value.clone() for name, value in tiny_clip().model.state_dict().items()}
    change(state)
    torch.save({"state_dict": state}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=message) as caught:
        read_official_checkpoint(tmp_path / "x.pth", tiny_clip())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("texts", "needed"), [("sentences", "no captions"), ("class_names", "no names of its classes")]
)
def test_reference_images_without_texts_are_refused(texts, needed):
    bare = replace(REFERENCE, sentences=(), class_names=())
    method = make_method("zscl", tiny_clip(), SMALL["zscl"] | {"reference_texts": texts})
    method.attach()
    with pytest.raises(UserError, match=f"{needed}; give a file of captions"):
        method.enter_stream(replace(tiny_stream(), reference=lambda: bare))
