"""RAIL against the official code, and CoLeCLIP's class lists (kind "label_space_odcl")."""

import random

import numpy as np
import torch
from tiny import tiny_clip
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from parity.loading import Case, assert_close, runner
from vlcl_toolkit.methods import make_method
from vlcl_toolkit.methods.inference import class_features
from vlcl_toolkit.methods.rail.rail import Rail
from vlcl_toolkit.methods.rail.regression import Dual, Primal, lifted, recursive_update
from vlcl_toolkit.streams import ImageData, Task, TaskStream
from vlcl_toolkit.streams.full_size.xtail import few_shot_rows
from vlcl_toolkit.streams.label_space import LabelSpace
from vlcl_toolkit.training.metrics import metric_vectors, metrics


def images_of(embeddings: Tensor, labels: Tensor) -> ImageData:
    """A set whose images say which row of `embeddings` they stand for: none; the runner knows."""
    data = ImageData(torch.zeros(len(labels), 3, 1, 1, dtype=torch.uint8), labels)
    data.embeddings = normalize(embeddings, dim=1)
    return data


class Stored:
    """In place of the cache of frozen features."""

    def features(self, data: ImageData, *, again: bool = True) -> Tensor:
        return data.embeddings


class StoredRail(Rail):
    """RAIL on stored features of images and classes."""

    def class_features(self, task: Task) -> Tensor:
        return torch.cat([self.texts[part.name] for part in task.parts or (task,)])


def stream_of(case: Case) -> TaskStream:
    tasks = []
    for k, sizes in enumerate(case.record["tasks"]):
        names = tuple(f"{k}.{c}" for c in range(sizes["classes"]))
        train, test = (
            images_of(
                case.tensors[f"task{k}.{part}_embedding"], case.tensors[f"task{k}.{part}_label"]
            )
            for part in ("train", "test")
        )
        tasks.append(Task(f"task{k}", names, ("{}",), train, train.subset([]), test))
    return TaskStream("golden", tuple(tasks), "golden", label_space="all")


def prepared(case: Case, stream: TaskStream) -> Rail:
    record, form = case.record, "dual" if "dual" in case.record["kind"] else "primal"
    settings = {
        "form": form,
        "fusion": record["fusion_ratio"],
        "lift": "projection" in case.tensors,
    }
    settings |= {"zero_shot_scale": record["zero_shot_scale"]}
    settings |= (
        {"gamma": record["rbf_gamma"], "dual_ridge": record["ridge"]}
        if form == "dual"
        else {"ridge": record["ridge"]}
    )
    method = StoredRail(tiny_clip(), make_method("rail", tiny_clip(), settings).config)
    method.attach()
    method.enter_stream(stream)
    method.frozen = Stored()
    sizes = [len(task.class_names) for task in stream]
    texts = case.tensors["text_weights"].T.split(sizes)
    method.texts = dict(zip(stream.names, texts, strict=True))
    if form == "dual":
        method.regression = Dual(record["rbf_gamma"], record["ridge"])
    else:
        width = case.tensors["task0.train_embedding"].shape[1]
        method.regression = Primal(case.tensors.get("projection"), width, record["ridge"])
    return method


@runner("rail_primal_stream", "rail_dual_stream")
def run_stream(case: Case) -> None:
    """Every task learned and tested, as `learn` does it."""
    stream, tensors, allowed = stream_of(case), case.tensors, case.record["tolerance"]
    method, space = prepared(case, stream), LabelSpace(stream)
    for k, (task, sizes) in enumerate(zip(stream, case.record["tasks"], strict=True)):
        raw = tensors[f"task{k}.text_embedding"]
        texts = normalize(normalize(raw, dim=1), dim=1)  # one template: its mean, normalised
        assert_close(
            texts, method.texts[task.name], "text", rtol=0, atol=allowed["text_weights_atol"]
        )
        assert len(raw) == sizes["classes"]
    accuracy = np.zeros((len(stream), len(stream)))
    for k, task in enumerate(stream):
        method.enter_task(k, task)
        method.begin_task(k, task, torch.Generator())
        method.end_task(k, task)
        check_regression(case, method, k)
        for j, tested in enumerate(stream):
            data, asked = space.evaluation_set(tested, k + 1)
            name = f"after{k}.test{j}"
            zero_shot = method.zero_shot_probabilities(data.embeddings, asked)
            assert_close(
                zero_shot,
                tensors[f"zero_shot.test{j}"],
                "p",
                rtol=0,
                atol=allowed["zero_shot_atol"],
            )
            learned = method.columns(asked)[zero_shot.argmax(1)] >= 0
            assert torch.equal(learned, tensors[f"treated_as_learned.{name}"]), name
            scores = method.scores(data.embeddings, asked)
            atol = allowed["fused_atol"]
            assert_close(scores, tensors[f"fused.{name}"], name, rtol=0, atol=atol)
            assert torch.equal(scores.argmax(1), tensors[f"prediction.{name}"]), name
            accuracy[k, j] = 100 * (scores.argmax(1) == data.labels).double().mean()
    np.testing.assert_allclose(accuracy, case.record["accuracy_after_task"], rtol=1e-9)
    scores = metrics(accuracy)
    for name in ("transfer", "average", "last"):
        np.testing.assert_allclose(scores[name], case.record[name], rtol=1e-9)


def check_regression(case: Case, method: Rail, k: int) -> None:
    tensors, allowed, regression = case.tensors, case.record["tolerance"], method.regression
    if isinstance(regression, Primal):
        weights, memory = regression.weights.T, torch.cholesky_inverse(regression.factor())
        for name, found in (("weight", weights), ("memory", memory)):
            expected = tensors[f"{name}.after{k}"]
            assert_close(found, expected, name, rtol=0, atol=allowed[f"{name}_atol"])
        return
    kernel = regression.kernel(regression.features, regression.features)
    assert_close(kernel, tensors[f"kernel.after{k}"], "kernel", rtol=0, atol=allowed["kernel_atol"])
    columns = torch.cat([columns for _, columns in regression.memory])
    targets = one_hot(columns, regression.classes)
    assert_close(targets, tensors[f"targets.after{k}"], "targets", rtol=0, atol=0)
    stored = tensors[f"kernel.after{k}"].double()
    stored.diagonal().add_(regression.ridge)
    solved = torch.cholesky_solve(targets.double(), torch.linalg.cholesky(stored))
    assert_close(
        solved,
        tensors[f"alpha.after{k}"],
        "alpha",
        rtol=0,
        atol=allowed["alpha_atol_from_the_stored_kernel"],
    )
    for j in range(k + 1):
        outputs = regression.predict(normalize(tensors[f"task{j}.test_embedding"], dim=1))
        expected = tensors[f"adapter.after{k}.test{j}"]
        assert_close(outputs, expected, "adapter", rtol=0, atol=allowed["adapter_atol"])


@runner("rail_primal_invariance")
def run_invariance(case: Case) -> None:
    """The solved weights, and the recursion over batches, in every order."""
    tensors, record = case.tensors, case.record
    atol, projection = record["tolerance"]["weight_atol"], tensors["projection"]
    for number, run in enumerate(record["runs"]):
        primal = Primal(projection, projection.shape[1], record["ridge"])
        memory = torch.eye(len(projection)).double() / record["ridge"]
        weights = torch.zeros(len(projection), 0).double()
        for k in run["order"]:
            features = normalize(tensors[f"task{k}.train_embedding"], dim=1)
            labels, classes = tensors[f"task{k}.train_label"], record["classes"][k]
            columns = labels + primal.classes
            primal.add(features, labels, classes)
            new = torch.zeros(len(projection), classes).double()
            weights = torch.cat((weights, new), dim=1)
            lift, targets = lifted(features, projection).double(), one_hot(columns, primal.classes)
            parts = [value.split(run["batch_size"]) for value in (lift, targets.double())]
            for part in zip(*parts, strict=True):
                memory, weights = recursive_update(memory, weights, *part)
        for found in (primal.weights, weights):
            assert_close(found.T, tensors[f"run{number}.weight"], "weight", rtol=0, atol=atol)
        torch.testing.assert_close(primal.weights, weights, rtol=1e-7, atol=1e-7)


def clip_of_sentences(case: Case):
    """A CLIP whose text tower looks sentences up."""
    clip = tiny_clip()
    rows = {text: row for row, text in enumerate(case.record["sentences"])}
    table = normalize(case.tensors["sentence_embedding"], dim=1)
    clip.tokenize = lambda texts: torch.tensor([[rows[text]] for text in texts])
    clip.encode_text = lambda tokens: table[tokens[:, 0]]
    return clip


@runner("rail_text")
def run_text(case: Case) -> None:
    """Class features: every "_" of a name is a space."""
    clip, record = clip_of_sentences(case), case.record
    names = [name.replace("_", " ") for name in record["class_names"]]
    for k, templates in enumerate(record["templates"]):
        expected = case.tensors[f"text_weights.{k}"].T
        found = clip.class_features(names, templates)
        assert_close(found, expected, "text", rtol=0, atol=record["tolerance"]["atol"])


@runner("rail_metrics")
def run_metrics(case: Case) -> None:
    """The official script takes a 0 above the diagonal for a test that was not made."""
    for entry in case.record["matrices"]:
        matrix = np.array(entry["accuracy"])
        tested = matrix.copy()
        tested[np.triu(matrix == 0, k=1)] = np.nan
        vectors = metric_vectors(matrix)
        for name in ("average", "last"):
            np.testing.assert_allclose(vectors[name].mean(), entry[name], rtol=1e-9)
        np.testing.assert_allclose(vectors["average"], entry["average_per_task"], rtol=1e-9)
        expected = np.array(entry["transfer_per_task"][1:], dtype=float)
        per_task = metric_vectors(tested)["transfer"]
        np.testing.assert_allclose(per_task, expected, rtol=1e-9)
        defined = per_task[~np.isnan(per_task)]
        mean = defined.mean() if len(defined) else np.nan
        np.testing.assert_allclose(mean, np.array(entry["transfer"], dtype=float), rtol=1e-9)


@runner("rail_few_shot")
def run_few_shot(case: Case) -> None:
    """The same draws from the same two random states."""
    generators = {
        "python": random.Random(case.record["seed"]),
        "numpy": np.random.RandomState(case.record["seed"]),
    }
    for entry in case.record["draws"]:
        rows = few_shot_rows(entry["labels"], entry["shots"], generators[entry["generator"]])
        assert rows == entry["chosen"]


@runner("label_space_odcl")
def run_odcl(case: Case) -> None:
    """Zero-shot among the learned classes, names that several tasks share merged."""
    record, clip = case.record, clip_of_sentences(case)
    tasks = []
    for k, entry in enumerate(record["tasks"]):
        name = {"Caltech": "Caltech101", "SUN": "SUN397"}.get(entry["name"], entry["name"])
        test = images_of(
            case.tensors[f"task{k}.test_embedding"], case.tensors[f"task{k}.test_label"]
        )
        nothing = test.subset([])
        classes, templates = tuple(entry["class_names"]), tuple(entry["templates"])
        tasks.append(Task(name, classes, templates, nothing, nothing, test))
    stream = TaskStream("golden", tuple(tasks), "golden")
    spaces = {
        name: LabelSpace(stream.with_label_space(name, merge_shared_names=True))
        for name in ("odcl", "task")
    }
    for learned, names in enumerate(record["label_lists"]):
        for j, task in enumerate(stream):
            expected = case.tensors[f"logits.after{learned}.test{j}"]
            data, asked = spaces["odcl"].evaluation_set(task, learned + 1)
            embeddings = task.test.embeddings
            logits = record["scale"] * embeddings @ class_features(clip, asked).T
            atol = record["tolerance"]["logit_atol"]
            assert_close(logits, expected, f"logits {learned} {j}", rtol=0, atol=atol)
            if j <= learned:
                assert list(asked.class_names) == names["classes"]
                columns = torch.tensor(names["target_columns"][j])
                assert torch.equal(data.labels, columns[task.test.labels])
            said = logits.argmax(1)
            assert torch.equal(said, case.tensors[f"prediction.after{learned}.test{j}"])
            found = 100 * float((said == data.labels).double().mean())
            expected_accuracy = record["accuracy_class_incremental"][learned][j]
            np.testing.assert_allclose(found, expected_accuracy, rtol=1e-9)
            own, asked = spaces["task"].evaluation_set(task, learned + 1)
            said = (embeddings @ class_features(clip, asked).T).argmax(1)
            found = 100 * float((said == own.labels).double().mean())
            expected_accuracy = record["accuracy_task_incremental"][learned][j]
            np.testing.assert_allclose(found, expected_accuracy, rtol=1e-9)
