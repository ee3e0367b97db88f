"""What a user may bring, at random (hypothesis): settings, orders, task.yaml, folders, pictures, weights,
checkpoints. Each is refused by name, or it is valid, which is tested apart from the library.
"""

import io
import json
import math
import random
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import torch
import yaml
from hypothesis import HealthCheck, Phase, given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save
from small_methods import SMALL
from stress.outcome import Outcome, damaged, quietly, tried
from tiny import tiny_stream

from vlcl_toolkit.clip.weights import read_state
from vlcl_toolkit.methods import make_config
from vlcl_toolkit.methods.registry import config_class
from vlcl_toolkit.streams.folder import folder_stream
from vlcl_toolkit.streams.pictures import IMAGE_SUFFIXES, FilePictures
from vlcl_toolkit.training.checkpoint import CheckpointStore

Draw = Callable[[Any], Any]


def bad_inputs(count: int, seed: int) -> Outcome:
    """Try `count` inputs, of all kinds in equal parts."""
    kinds = (settings, orders, task_yaml, folders, pictures, weights, checkpoints)
    outcome: Outcome = Counter()
    for number, kind in enumerate(kinds):
        share = count * (number + 1) // len(kinds) - count * number // len(kinds)
        if share:
            with tempfile.TemporaryDirectory() as place:
                quietly(lambda k=kind, n=share, p=place: _fuzz(k, Path(p), n, seed, outcome))
    return outcome


def _fuzz(
    kind: Callable[[Draw, Path], str], place: Path, count: int, seed: int, outcome: Outcome
) -> None:
    # Hypothesis only draws: the first bad end must not stop the count.
    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def one(data: Any) -> None:
        drawn: list[Any] = []

        def draw(strategy: Any) -> Any:
            drawn.append(data.draw(strategy))
            return drawn[-1]

        end = kind(draw, place)
        if end not in ("named", "accepted", "identical", "repaired"):
            print(f"{end}: {kind.__name__} {drawn!r:.600}", file=sys.stderr)
        outcome[end] += 1

    one()


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([-1, 0, 1, -1e-9, 1e300, 10**12, "1e-3", "x", math.nan, math.inf]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=4,
)


def settings(draw: Draw, place: Path) -> str:
    """One setting of a method."""
    method = draw(st.sampled_from(list(SMALL)))
    known = [field.name for field in fields(config_class(method))] or ["none"]
    name = draw(st.sampled_from([*known, known[0] + "x"]))
    value, made = draw(VALUES), []
    end = tried(lambda: made.append(make_config(method, {name: value})), name)
    if end != "done":
        return end
    kept = asdict(made[0]).get(name)
    numbers = json.dumps(kept)  # of a mapping: all in it
    valid = kept == value and isinstance(kept, bool) == isinstance(value, bool)
    return "accepted" if valid and "NaN" not in numbers and "Inf" not in numbers else "silent"


def orders(draw: Draw, place: Path) -> str:
    """An order of the tasks of a stream."""
    stream = tiny_stream()
    parts = [*stream.names, "0", "1", "2", "-3", "", "pet", "reversed", "ä", "1.5"]
    words = st.sampled_from(parts) | st.text(max_size=3)
    order = ",".join(draw(st.lists(words, min_size=1, max_size=4)))
    made: list[Any] = []
    end = tried(lambda: made.append(stream.reorder(order)))
    if end != "done":
        return end
    return "accepted" if sorted(made[0].names) == sorted(stream.names) else "silent"


def _small_stream(place: Path) -> Path:
    root = place / "stream"
    if not root.exists():
        for task in ("one", "two"):
            for number, name in enumerate(("cat", "dog")):
                (root / task / name).mkdir(parents=True)
                for image in range(5):
                    picture = Image.new("RGB", (4, 4), (40 * number, 9 * image, 7))
                    picture.save(root / task / name / f"{image}.png")
    return root


def task_yaml(draw: Draw, place: Path) -> str:
    """task.yaml of a stream or of a task."""
    root = _small_stream(place)
    near = {
        "order": st.lists(st.sampled_from(["one", "two", "three"]), max_size=3),
        "templates": st.lists(st.sampled_from(["{}", "a {}.", "a {x}", "{0}{}", ""]), max_size=2),
        "split": st.dictionaries(
            st.sampled_from(["train", "test", "validation", "seed"]),
            st.sampled_from([0, 0.5, 1, 0.7, 0.3, -1, "0.5"]),
        ),
        "class_names": st.dictionaries(
            st.sampled_from(["cat", "dog", "cow"]), st.sampled_from(["cat", "a", "", 7, None, "{}"])
        ),
        "templatse": VALUES,
    }
    mapping = st.fixed_dictionaries({}, optional={k: v | VALUES for k, v in near.items()})
    good = st.fixed_dictionaries({}, optional=near)
    content = draw(
        st.one_of(
            good.map(lambda value: yaml.safe_dump(value, allow_unicode=True).encode()),
            mapping.map(lambda value: yaml.safe_dump(value, allow_unicode=True).encode()),
            st.text(alphabet="ab:-[]{}#&*!|>'\"%@ \n\t01", max_size=30).map(str.encode),
            st.binary(max_size=30),
        )
    )
    path = draw(st.sampled_from([root, root / "one"])) / "task.yaml"
    path.write_bytes(content)
    try:
        made: list[Any] = []
        end = tried(lambda: made.append(folder_stream(root)), "task.yaml")
        return end if end != "done" else _coherent(made[0], yaml.safe_load(content))
    finally:
        path.unlink()


def _coherent(stream: Any, asked: Any = None) -> str:
    """Whether a stream is one that can be learned, and what its task.yaml asked for is in it."""
    valid = len(stream) > 0
    for task in stream:
        texts = [text.format(name) for text in task.templates for name in task.class_names]
        valid &= bool(texts) and all(text.strip() for text in texts)
        valid &= len(set(task.class_names)) == len(task.class_names) > 0
        valid &= all(name.strip() for name in task.class_names)
        labels = torch.cat([part.labels for part in (task.train, task.validation, task.test)])
        valid &= set(labels.tolist()) == set(range(len(task.class_names)))
    for key, value in (asked or {}).items():
        valid &= key in ("order", "templates", "split", "class_names")
        if key == "order" and value is not None:
            valid &= list(stream.names) == value
    return "accepted" if valid else "silent"


_NAMES = st.sampled_from(
    [
        "train",
        "test",
        "val",
        "validation",
        "Test",
        "a",
        "b",
        "a b",
        "ä_1",
        ".hidden",
        "__MACOSX",
        "{}",
    ]
)
_FILES = st.sampled_from(
    ["1.png", "2.PNG", "3.tif", "notes.txt", "._1.png", "empty.jpg", "loop", "pipe"]
)
_TREES = st.recursive(
    st.sets(_FILES, max_size=3),
    lambda inner: st.dictionaries(_NAMES, inner, max_size=4),
    max_leaves=9,
)


def folders(draw: Draw, place: Path) -> str:
    """A folder of any layout."""
    root = place / "tree"
    try:
        _grow(root, draw(_TREES))
        made: list[Any] = []

        def load() -> None:
            stream = folder_stream(root)
            for task in stream:
                for part in (task.train, task.validation, task.test):
                    for index in range(len(part)):
                        part[index]
            made.append(stream)

        end = tried(load, str(root))
        return end if end != "done" else _coherent(made[0])
    finally:
        shutil.rmtree(root)


def _grow(path: Path, tree: Any) -> None:
    path.mkdir()
    for name in sorted(tree):
        if isinstance(tree, dict):
            _grow(path / name, tree[name])
        elif name == "loop":
            (path / name).symlink_to(path)
        elif name == "pipe":
            (path / name).symlink_to(path / "nowhere")
        elif "png" in name.lower() or "tif" in name:
            Image.new("RGB", (3, 3)).save(path / name)
        else:
            (path / name).write_bytes(b"")


_KINDS = {
    **{f"{mode}.png": (mode, "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")},
    **{f"{mode}.tif": (mode, "TIFF") for mode in ("1", "L", "CMYK", "I;16", "F", "RGB", "I")},
    **{f"{mode}.jpg": (mode, "JPEG") for mode in ("L", "RGB", "CMYK")},
    **{f"{mode}.gif": (mode, "GIF") for mode in ("L", "P")},
    **{f"{mode}.webp": (mode, "WEBP") for mode in ("RGB", "RGBA")},
    **{f"{mode}.bmp": (mode, "BMP") for mode in ("1", "L", "RGB")},
    "L.pgm": ("L", "PPM"),
    "RGB.ppm": ("RGB", "PPM"),
}
_HEADS = (
    *(
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0",
        b"GIF89a",
        b"II*\x00",
        b"BM",
        b"RIFF",
        b"P6 9 9",
    ),
    *(b"PK\x03\x04", b"\x80\x02", b"\x08\x00\x00\x00\x00\x00\x00\x00{}"),
)


def pictures(draw: Draw, place: Path) -> str:
    """An image file: of an odd kind, damaged, or something else."""
    name = draw(st.sampled_from(sorted(_KINDS)))
    mode, form = _KINDS[name]
    luck = draw(st.randoms(use_true_random=False))
    size = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    buffer = io.BytesIO()
    values = np.random.default_rng(luck.randrange(10**6)).integers(0, 255, size, dtype=np.uint8)
    Image.fromarray(values).convert(mode).save(buffer, format=form)
    content = buffer.getvalue()
    how = draw(st.sampled_from(["whole", "damaged", "damaged", "foreign"]))
    if how == "damaged":
        content = damaged(content, luck)
    elif how == "foreign":
        content = draw(st.sampled_from(_HEADS)) + luck.randbytes(luck.randrange(3000))
        name = "foreign" + draw(st.sampled_from(sorted(IMAGE_SUFFIXES)))
    (place / name).write_bytes(content)
    made: list[Any] = []
    end = tried(lambda: made.append(FilePictures(place, [name])[0]), name)
    if end == "named" and how == "whole" and mode not in ("F", "I"):
        return "silent"  # there was nothing wrong with it
    if end != "done":
        return end
    # Damaged pixels are pixels: few formats have a checksum.
    return "accepted" if made[0].mode == "RGB" and min(made[0].size) > 0 else "silent"


def weights(draw: Draw, place: Path) -> str:
    """A weights file, damaged or something else."""
    suffix = draw(st.sampled_from([".pt", ".pth", ".safetensors", ".bin"]))
    luck, path = draw(st.randoms(use_true_random=False)), place / f"weights{suffix}"
    state = {"visual.proj": torch.ones(3, 2), "text": torch.zeros(4, dtype=torch.float16)}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = save(state) if suffix == ".safetensors" else buffer.getvalue()
    if draw(st.booleans()):
        content = damaged(content, luck)
    else:
        content = draw(st.sampled_from(_HEADS)) + luck.randbytes(luck.randrange(3000))
    path.write_bytes(content)
    made: list[Any] = []
    end = tried(lambda: made.append(read_state(path)), path.name)
    if end != "done":
        return end
    # Which names and shapes a model needs is tested when they are put into it.
    return "accepted" if all(map(torch.is_tensor, made[0].values())) else "silent"


def checkpoints(draw: Draw, place: Path) -> str:
    """Two generations of any tensors, one of whose files is damaged."""
    folder = place / "checkpoints"
    shutil.rmtree(folder, ignore_errors=True)
    luck: random.Random = draw(st.randoms(use_true_random=False))
    kinds = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.uint8]
    shapes = st.lists(st.lists(st.integers(0, 4), max_size=3), max_size=4)
    state = draw(
        st.dictionaries(st.text(max_size=4), st.text(max_size=4) | st.integers(), max_size=3)
    )
    saved = []
    store = CheckpointStore(folder)
    for step in (1, 2):
        tensors = {}
        for number, shape in enumerate(draw(shapes)):
            dtype = draw(st.sampled_from(kinds))
            tensors[f"{step}.{number}"] = torch.full(shape, number + step).to(dtype)
        store.save(step, tensors, state)
        saved.append((step, tensors))
    path = draw(st.sampled_from(sorted(folder.iterdir())))
    how = draw(st.sampled_from(["not", "bytes", "bytes", "bytes", "lost"]))
    if how == "bytes":
        path.write_bytes(damaged(path.read_bytes(), luck))
    elif how == "lost":
        path.unlink()
    made: list[Any] = []
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        end = tried(lambda: made.append(CheckpointStore(folder).load()), path.name)
    if end != "done":
        return end
    found = made[0]
    for step, tensors in saved:
        if found is not None and found.step == step and found.state == state:
            same = found.tensors.keys() == tensors.keys() and all(
                found.tensors[k].dtype == v.dtype and torch.equal(found.tensors[k], v)
                for k, v in tensors.items()
            )
            named = any(path.name in str(warning.message) for warning in told)
            if same and (step == 2 or named):
                return "repaired" if named else "identical"
    return "silent"
