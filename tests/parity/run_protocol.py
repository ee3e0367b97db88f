"""What surrounds ZSCL's training: result matrices, tokens, transforms."""

import re

import numpy as np
import torch
from PIL import Image

from parity.loading import Case, assert_close, assert_same, build_clip, runner
from vlcl_toolkit.clip.transforms import ImageTransform
from vlcl_toolkit.methods.zscl.reference import random_sentences, tokenize_cut
from vlcl_toolkit.training.metrics import metric_vectors, metrics

EXTRA_COLUMN = 2  # CIFAR-10, which is in the files and not in the benchmark
ORDERS = {"order1": list(range(11)), "order2": [9, 6, 7, 8, 5, 10, 0, 1, 3, 4, 2]}
SCORES = {"transfer": "transfer", "avg": "average", "last": "last"}


@runner("metrics_matrix_file")
def run_metrics(case: Case) -> None:
    for name, raw in case.tensors.items():
        if not name.endswith(".raw_11x12"):
            continue
        matrix = np.delete(raw.double().numpy().reshape(11, 12), EXTRA_COLUMN, axis=1)
        for order, positions in ORDERS.items():
            prefix = f"{name.removesuffix('.raw_11x12')}.{order}"
            permuted = matrix[np.ix_(positions, positions)]
            vectors, means = metric_vectors(permuted), metrics(permuted)
            for official, ours in SCORES.items():
                recorded = case.tensors[f"{prefix}.{official}"]
                assert_close(vectors[ours], recorded, f"{prefix}.{official}", rtol=1e-5, atol=1e-5)
            printed = [f"{official}:  {means[ours]:.1f}" for official, ours in SCORES.items()]
            printed += [
                f"{official}:  " + " & ".join(f"{value:.1f}" for value in vectors[ours])
                for official, ours in SCORES.items()
            ]
            assert printed == case.record["official_print"][prefix]


@runner("text_tokens")
def run_tokens(case: Case) -> None:
    clip = build_clip(case.shared_tensors("weights_zeroshot"))
    context = clip.model.context_length
    for index, text in enumerate(case.shared_record("inputs")["tok_texts"]):
        found = tokenize_cut(clip.tokenizer, [text], context)[0]
        assert_same(found, case.tensors[f"text{index}.ids"], f"text {index}")
        if found.max() == found[found.count_nonzero() - 1]:  # it still has its end
            assert_same(clip.tokenize([text])[0], found, f"text {index}, our tokenizer")
    readme = case.path.with_name("README.md").read_text(encoding="utf-8")
    match = re.search(r"virtual_vocab`? = \((\d+), (\d+)\).*?manual_seed\((\d+)\)", readme)
    assert match, "the README does not state how the sentences were drawn"
    words, count, seed = map(int, match.groups())
    drawn = random_sentences(
        clip.tokenizer,
        clip.model.vocab_size,
        count,
        words,
        torch.Generator().manual_seed(seed),
    )
    assert_same(drawn, case.tensors["virtual_vocab"], "virtual_vocab")


@runner("transform")
def run_transform(case: Case) -> None:
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    for name, expected in case.tensors.items():
        image, _, what = name.partition(".")
        if what == "pixels":
            continue
        picture = Image.fromarray(case.tensors[f"{image}.pixels"].to(torch.uint8).numpy())
        transform = ImageTransform(expected.shape[-1], mean, std, augment=what != "eval")
        if what != "eval":
            torch.manual_seed(int(what.removeprefix("train_seed")))
        rounding = case.record["tensors"][name].get("max_abs_diff_float32_vs_float64") or 0.0
        assert_close(transform(picture), expected, name, rtol=1e-4, atol=max(2e-5, 20 * rounding))
