"""What lies in people's folders: layouts, file types, names, leftovers of systems."""

import os

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.tiny import SETTINGS, tiny_clip
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.load import load_stream
from vlcl_toolkit.streams.pictures import IMAGE_SUFFIXES, FilePictures
from vlcl_toolkit.training.loop import run


def put(path, colour=(200, 30, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path)


def fill(root, *folders, count=3):
    for folder in folders:
        for i in range(count):
            put(root / folder / f"{i}.png")
    return f"folder:{root}"


def sizes(task):
    return [len(part) for part in (task.train, task.validation, task.test)]


# Layouts


@pytest.mark.parametrize("names", [("train", "test"), ("Train", "Test"), ("TRAIN", "TEST")])
def test_a_folder_that_is_split_itself_is_one_task(names, tmp_path):
    stream = load_stream(fill(tmp_path / "pets", *(f"{n}/{c}" for n in names for c in "ab")))
    assert stream.names == ("pets",)
    assert stream[0].class_names == ("a", "b")
    assert sizes(stream[0]) == [6, 0, 6]


@pytest.mark.parametrize("name", ["validation", "val", "valid", "Val"])
def test_validation_has_several_names(name, tmp_path):
    parts = ("train", name, "test")
    stream = load_stream(fill(tmp_path / "s", *(f"pets/{n}/{c}" for n in parts for c in "ab")))
    assert sizes(stream[0]) == [6, 6, 6]


@pytest.mark.parametrize(
    "parts", [("train", "val"), ("train", "test", "extra"), ("train", "val", "valid", "test")]
)
def test_what_is_not_clear_is_refused(parts, tmp_path):
    fill(tmp_path / "s", *(f"pets/{n}/{c}" for n in parts for c in "ab"))
    with pytest.raises(
        UserError, match="has train and test, may have validation, and nothing else"
    ):
        load_stream(f"folder:{tmp_path / 's'}")


def test_a_train_is_a_class(tmp_path):
    stream = load_stream(fill(tmp_path / "s", "vehicles/bus", "vehicles/train"))
    assert stream[0].class_names == ("bus", "train")


# Files


def test_every_kind_of_image_is_read_also_in_sub_folders(tmp_path):
    folder = tmp_path / "s" / "t" / "a"
    for suffix in IMAGE_SUFFIXES:
        put(folder / f"one{suffix}")
        put(folder / "deep" / "er" / f"two{suffix.upper()}")
    fill(tmp_path / "s", "t/b")
    (task,) = load_stream(f"folder:{tmp_path / 's'}")
    labels = [label for part in (task.train, task.validation, task.test) for label in part.labels]
    assert labels.count(0) == 2 * len(IMAGE_SUFFIXES)
    for part in (task.train, task.validation, task.test):
        assert all(image.shape == (3, 8, 8) for image, _ in part)


def test_what_is_left_out_is_counted_and_told(tmp_path, capsys):
    name = fill(tmp_path / "s", "t/a", "t/b", count=5)
    (tmp_path / "s" / "t" / "a" / "notes.txt").write_text("x")
    (tmp_path / "s" / "t" / "b" / "scan.PDF").write_text("x")
    os.mkfifo(tmp_path / "s" / "t" / "b" / "pipe.png")
    stream = load_stream(name)
    assert stream.left_out == {".txt": 1, ".pdf": 1, "no regular file": 1}
    result = run("finetune", stream, tiny_clip(), config=SETTINGS, out=tmp_path / "run")
    assert result.config["left_out_files"] == dict(stream.left_out)
    assert "no images: 1 .pdf, 1 .txt, 1 no regular file" in capsys.readouterr().out


def test_leftovers_of_systems_are_no_tasks_classes_or_images(tmp_path):
    name = fill(tmp_path / "s", "t/a", "t/b")
    for stray in ("__MACOSX/t/a", ".ipynb_checkpoints", "t/.ipynb_checkpoints", "t/__MACOSX"):
        put(tmp_path / "s" / stray / "x.png")
    for stray in ("._0.png", ".DS_Store", "Thumbs.db"):
        (tmp_path / "s" / "t" / "a" / stray).write_bytes(b"\0\0")
    stream = load_stream(name)
    assert stream.names == ("t",)
    assert stream[0].class_names == ("a", "b")
    assert sum(sizes(stream[0])) == 6
    assert not stream.left_out


def test_a_class_without_an_image_says_what_an_image_is(tmp_path):
    name = fill(tmp_path / "s", "t/a")
    (tmp_path / "s" / "t" / "b").mkdir()
    (tmp_path / "s" / "t" / "b" / "x.heic").write_bytes(b"x")
    with pytest.raises(UserError, match=r"'b' of .* has no image \(\.apng, .*\.tiff"):
        load_stream(name)


def test_sixteen_bits_become_eight(tmp_path):
    ramp = np.linspace(0, 65535, 64).round().astype(np.uint16).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    Image.fromarray(ramp.astype(np.int32), mode="I").save(tmp_path / "b.tiff")
    expected = (ramp / 257).round().astype(np.uint8)
    for file in ("a.png", "b.tiff"):
        for rgb in (True, False):
            image = np.asarray(FilePictures(tmp_path, [file], rgb=rgb)[0])
            assert np.array_equal(image[..., 0] if rgb else image, expected)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tiff"])
@pytest.mark.parametrize("orientation", [*range(1, 9), 0, 77])
def test_turned_photographs_are_read_upright(orientation, suffix, tmp_path):
    shade = np.zeros((8, 16, 3), np.uint8)
    shade[:4, :8], shade[4:, :8] = 250, 120  # no two turns look alike
    exif = Image.Exif()
    exif[0x0112] = orientation
    image, file = Image.fromarray(shade), tmp_path / "s" / "t" / "a" / f"x{suffix}"
    file.parent.mkdir(parents=True)
    image.save(file, exif=exif)
    put(tmp_path / "s" / "t" / "b" / "x.png")
    (tmp_path / "s" / "task.yaml").write_text("split: {train: 1.0, test: 0.0}")
    (task,) = load_stream(f"folder:{tmp_path / 's'}")
    found = task.train[0][0].permute(1, 2, 0).numpy().astype(int)
    with Image.open(file) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB")).astype(int)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() == 0
    if suffix != ".tiff":  # which PIL always turns
        plain = np.asarray(FilePictures(file.parent, [file.name])[0])
        assert plain.shape == (8, 16, 3)  # the published sets: as torchvision's loader


@pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Truncated File")
def test_damaged_notes_leave_the_picture_readable(tmp_path):
    image = Image.new("RGB", (8, 8), (200, 30, 30))
    image.save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\xff\xff\xff\xff broken")
    assert FilePictures(tmp_path, ["a.jpg"], upright=True)[0].size == (8, 8)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "LAB", "I;16B"])
def test_every_mode_of_a_picture_becomes_rgb(mode, tmp_path):
    ramp = Image.fromarray(np.arange(0, 256, 4, np.uint8).reshape(8, 8))
    if mode == "I;16B":
        wide = (np.asarray(ramp).astype(">u2") * 257).tobytes()
        Image.frombytes("I;16B", (8, 8), wide).save(tmp_path / "a.tiff")
    else:
        rgb = ramp.convert("RGB")
        image = Image.merge("LAB", rgb.split()) if mode == "LAB" else rgb.convert(mode)
        image.save(tmp_path / ("a.tiff" if mode in ("CMYK", "LAB") else "a.png"))
    (name,) = (path.name for path in tmp_path.iterdir())
    image = FilePictures(tmp_path, [name])[0]
    assert image.mode == "RGB"
    if mode not in ("1", "P", "LAB"):
        assert np.abs(np.asarray(image)[..., 1].astype(int) - np.asarray(ramp)).max() <= 1


def test_pixels_without_a_range_are_no_image(tmp_path):
    Image.fromarray(np.ones((8, 8), np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(UserError, match=r"a\.tiff: pixels of the mode F have no known range"):
        FilePictures(tmp_path, ["a.tiff"])[0]


# Names


def test_two_folders_of_one_name_are_refused(tmp_path):
    name = fill(tmp_path / "s", "t/red_cat", "t/red cat")
    with pytest.raises(UserError, match="have the same words, 'red cat'"):
        load_stream(name)


def test_names_that_are_no_utf8(tmp_path):
    name = fill(tmp_path / "s", "t/a", "t/b")
    odd = os.fsencode(tmp_path / "s" / "t" / "a") + b"/\xff.png"
    with open(odd, "wb") as file:
        file.write(b"no image")
    stream = load_stream(name)
    pictures = stream[0].train.pictures
    (place,) = (i for i, path in enumerate(pictures.paths) if "\udcff" in path)
    with pytest.raises(UserError, match=r"cannot read the image .*\\xff\.png"):
        pictures[place]
    assert run(
        "zero_shot", load_stream(name, skip_unreadable=True), tiny_clip(), out=tmp_path / "run"
    )
    os.rename(tmp_path / "s" / "t" / "b", os.fsencode(tmp_path / "s" / "t") + b"/\xfe")
    with pytest.raises(UserError, match=r"'\\udcfe' has a name that is no UTF-8"):
        load_stream(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class_names: {a: null, b: x}", "class_names"),
        ("class_names: {a: [x], b: y}", "class_names"),
        ("templates: [7]", "templates"),
        ("templates: 7", "templates"),
        ("class_names: {a: , b: x}", "class_names"),
        ("class_names: a", "class_names"),
        ("templates: {a: 2024-99-99}", "not valid YAML"),
        ("split: {train: most}", "train"),
        ("split: {train: null, test: 0.5}", "train"),
        ("split: {train: .nan, test: 0.5}", "train"),
        ("split: [1, 2]", "split"),
        ("a: &a [*a]", "YAML|unknown"),
        ("order: 3", "order"),
        ("order: []", "task.yaml names no task"),
        ("order: [t, t]", "task.yaml has 't' 2 times"),
        ("templates: []", "task.yaml of .* has no template"),
        ("class_names: 2001-99-99", "task.yaml is not valid YAML"),
        ("[]", r"task.yaml must contain settings .* found \[\]"),
        ("order: " + "[" * 3000 + "]" * 3000, "not valid YAML"),
    ],
)
def test_values_of_task_yaml(text, message, tmp_path):
    name = fill(tmp_path / "s", "t/a", "t/b")
    where = tmp_path / "s" if text.startswith("order") else tmp_path / "s" / "t"
    (where / "task.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        load_stream(name)


@pytest.mark.parametrize(
    "word", ["7", "007", "1.10", "1_000", "0x1F", "12:30", "no", "on", "true", "2024-01-01", "1e3"]
)
def test_words_are_read_as_they_are_written(word, tmp_path):
    name = fill(tmp_path / "s", f"{word}/{word}", f"{word}/b", "z/a")
    (tmp_path / "s" / "task.yaml").write_text(f"order: [z, {word}]")
    (tmp_path / "s" / word / "task.yaml").write_text(f"class_names: {{{word}: x, b: {word}}}")
    stream = load_stream(name)
    assert stream.names == ("z", word)
    assert set(stream[1].class_names) == {"x", word}


def test_an_empty_word_is_refused(tmp_path):
    name = fill(tmp_path / "s", "t/a", "t/b")
    for text in ("class_names: {a: ''}", "class_names: {a: ' '}"):
        (tmp_path / "s" / "t" / "task.yaml").write_text(text)
        with pytest.raises(UserError, match=r"'a' .*has no words"):
            load_stream(name)


@pytest.mark.parametrize("name", ["folder:", "folder: "])
def test_a_stream_of_no_folder_is_refused(name):
    with pytest.raises(UserError, match="names no folder"):
        load_stream(name)
