"""Images decoded when asked for, and the cache of decoded images."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vlcl_toolkit.clip.transforms import ImageTransform
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.load import load_stream
from vlcl_toolkit.streams import ImageData, PictureData, Task, joined, load_batch
from vlcl_toolkit.streams.image_cache import CachedPictures
from vlcl_toolkit.streams.location import DataLocation
from vlcl_toolkit.streams.pictures import ArrayPictures, FilePictures

SIZES = [(40, 30), (24, 60), (33, 33), (50, 31)]
TRANSFORMS = [
    ImageTransform(24, (0.5,) * 3, (0.2,) * 3, augment=augment) for augment in (False, True)
]


@pytest.fixture
def folder(tmp_path) -> Path:
    """Four JPEG files of different sizes, the third grey, and a palette image."""
    rng = np.random.default_rng(0)
    for i, (width, height) in enumerate(SIZES):
        image = Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))
        (image.convert("L") if i == 2 else image).save(tmp_path / f"{i}.jpg")
    image.convert("P").save(tmp_path / "4.png")
    return tmp_path


def pictures_of(folder: Path, *, rgb: bool = True) -> FilePictures:
    return FilePictures(folder, [*(f"{i}.jpg" for i in range(4)), "4.png"], rgb=rgb)


def data_of(pictures) -> PictureData:
    return PictureData(pictures, torch.arange(len(pictures)))


def test_same_interface_as_images_in_memory(folder):
    data = data_of(pictures_of(folder))
    assert isinstance(data, ImageData)
    image, label = data[1]
    assert (len(data), tuple(image.shape), image.dtype, int(label)) == (
        5,
        (3, 60, 24),
        torch.uint8,
        1,
    )
    part = data.subset([3, 1]).subset([1])
    assert part.labels.tolist() == [1]
    assert torch.equal(part[0][0], image)
    assert data.relabelled(torch.zeros(5, dtype=torch.int64)).labels.sum() == 0


def test_images_at_once_need_one_size(folder):
    data = data_of(pictures_of(folder))
    assert data.subset([0, 0]).images.shape == (2, 3, 30, 40)
    with pytest.raises(UserError, match="these 5 images have 4 different sizes"):
        _ = data.images


def test_labels_must_fit(folder):
    with pytest.raises(UserError, match=r"labels must be int64 \[5\].*found int64 \[2\]"):
        PictureData(pictures_of(folder), torch.tensor([0, 1]))


def test_batches_equal_the_transform_of_each_picture(folder):
    data = data_of(pictures_of(folder, rgb=False))
    images, labels = load_batch(data, torch.tensor([2, 4]), TRANSFORMS[0])
    assert labels.tolist() == [2, 4]
    for image, index in zip(images, (2, 4), strict=True):
        assert torch.equal(image, TRANSFORMS[0](data.picture(index)))


def test_augmentation_of_pictures_is_seeded(folder):
    data, indices = data_of(pictures_of(folder)), torch.arange(4)
    before = torch.get_rng_state()
    first, _ = load_batch(data, indices, TRANSFORMS[1], seed=1)
    assert torch.equal(first, load_batch(data, indices, TRANSFORMS[1], seed=1)[0])
    assert not torch.equal(first, load_batch(data, indices, TRANSFORMS[1], seed=2)[0])
    assert torch.equal(before, torch.get_rng_state())


def test_joined_sets(folder):
    data = data_of(pictures_of(folder))
    memory = ImageData(torch.full((2, 3, 8, 8), 7, dtype=torch.uint8), torch.tensor([5, 6]))
    both = joined([data.subset([4, 0]), memory])
    assert both.labels.tolist() == [4, 0, 5, 6]
    assert torch.equal(both[1][0], data[0][0])
    assert torch.equal(both[3][0], memory[1][0])
    assert both.pictures.name(0).endswith("4.png")
    assert torch.equal(joined([memory, memory]).images, torch.cat([memory.images] * 2))


@pytest.mark.parametrize("damage", ["truncated", "no image", "missing"])
def test_unreadable_image_is_named(folder, damage):
    path = folder / "1.jpg"
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"no image")
    with pytest.raises(UserError, match=f"cannot read the image {path}: .*fetch it again"):
        data_of(pictures_of(folder))[1]


# Cache


@pytest.mark.parametrize("rgb", [True, False])
def test_cache_changes_no_bit(folder, tmp_path, rgb):
    source = pictures_of(folder, rgb=rgb)
    cached = CachedPictures(source, tmp_path / "cache", "set")
    plain, fast = data_of(source), data_of(cached)
    for index in range(5):
        assert cached[index].mode == source[index].mode
        assert cached[index].tobytes() == source[index].tobytes()
    for transform in TRANSFORMS:
        there, here = (load_batch(d, torch.arange(5), transform, seed=3)[0] for d in (plain, fast))
        assert torch.equal(there, here)


def test_cache_is_made_once_and_needs_no_decoding(folder, tmp_path, monkeypatch):
    source = pictures_of(folder)
    first = CachedPictures(source, tmp_path / "cache", "set")
    before = [first[i].tobytes() for i in range(5)]
    monkeypatch.setattr(FilePictures, "__getitem__", lambda *_: pytest.fail("decoded again"))
    again = pickle.loads(pickle.dumps(CachedPictures(source, tmp_path / "cache", "set")))
    assert [again[i].tobytes() for i in range(5)] == before


def test_changed_files_are_decoded_again(folder, tmp_path):
    old = CachedPictures(pictures_of(folder), tmp_path / "cache", "set")
    Image.new("RGB", (9, 9)).save(folder / "0.jpg")
    new = CachedPictures(pictures_of(folder), tmp_path / "cache", "set")
    assert new.path != old.path
    assert new[0].size == (9, 9)


def test_damage_of_the_cache_is_found(folder, tmp_path):
    source = pictures_of(folder)
    cached = CachedPictures(source, tmp_path / "cache", "set")
    content = bytearray(cached.path.read_bytes())
    content[40 * 30 * 3 + 5] ^= 1  # in the second image
    cached.path.write_bytes(content)
    reopened = CachedPictures(source, tmp_path / "cache", "set")
    reopened[0]
    with pytest.raises(UserError, match=r"is damaged at .*1\.jpg"):
        reopened[1]
    table = cached.path.with_suffix(".json")
    table.write_text(table.read_text().replace("RGB", "RGA", 1))
    with pytest.raises(UserError, match=r"table of the image cache.* is damaged; remove it"):
        CachedPictures(source, tmp_path / "cache", "set")


def test_unreadable_image_stays_unreadable_in_the_cache(folder, tmp_path):
    (folder / "1.jpg").write_bytes(b"no image")
    cached = CachedPictures(pictures_of(folder), tmp_path / "cache", "set")
    assert cached[0].size == SIZES[0]
    with pytest.raises(UserError, match=r"cannot read the image .*1\.jpg"):
        cached[1]


# Unreadable images of a stream


def make_stream_folder(path: Path) -> Path:
    for label, name in enumerate(("cat", "dog")):
        for i in range(10):
            file = path / "pets" / name / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (12, 10 + i), (100 * label, 0, 0)).save(file)
    return path


def test_skipped_images_are_counted(tmp_path):
    path = make_stream_folder(tmp_path / "own")
    whole = load_stream(f"folder:{path}")
    names = ("pets/cat/3.png", "pets/dog/7.png")
    for name in names:
        (path / name).write_bytes(b"\x89PNG damaged")
    skipping = load_stream(f"folder:{path}", skip_unreadable=True)
    assert skipping.skipped == {"pets": 2}
    count = sum(len(part) for part in (skipping[0].train, skipping[0].validation, skipping[0].test))
    assert count == 18
    for part in ("train", "validation", "test"):
        data = getattr(skipping[0], part)
        assert [int(data[i][0][0, 0, 0]) for i in range(len(data))] == (100 * data.labels).tolist()
    assert whole.skipped == {}
    again = load_stream(f"folder:{path}", skip_unreadable=True, cache=tmp_path / "cache")
    assert again.skipped == {"pets": 2}
    assert [len(again[0].train), len(again[0].test)] == [
        len(skipping[0].train),
        len(skipping[0].test),
    ]


def test_what_is_readable_is_remembered(tmp_path, monkeypatch):
    path = make_stream_folder(tmp_path / "own")
    load_stream(f"folder:{path}", skip_unreadable=True)
    monkeypatch.setattr(FilePictures, "__getitem__", lambda *_: pytest.fail("looked again"))
    assert load_stream(f"folder:{path}", skip_unreadable=True).skipped == {}


def test_parts_of_one_set_share_a_cache(tmp_path):
    path = make_stream_folder(tmp_path / "own")
    stream = load_stream(f"folder:{path}", cache=tmp_path / "cache")
    assert isinstance(stream[0].train.pictures, CachedPictures)
    assert stream[0].train.pictures is stream[0].test.pictures
    assert len(list((tmp_path / "cache").glob("*.pixels"))) == 1


def test_arrays_need_no_cache(tmp_path):
    data = PictureData(ArrayPictures(np.zeros((2, 5, 5), np.uint8), "grey"), torch.tensor([0, 1]))
    task = Task("x", ("a", "b"), ("a {}.",), data, data.subset([]), data)
    ((ready,), _) = DataLocation(cache=tmp_path).prepare([task])
    assert ready.train is data
    assert list(tmp_path.iterdir()) == []
    assert data.picture(1).mode == "L"
    assert data[1][0].shape == (3, 5, 5)
