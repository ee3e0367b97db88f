"""A user's own folders as a stream, and reference material."""

from pathlib import Path

import pytest
import yaml
from PIL import Image

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.load import load_stream
from vlcl_toolkit.streams.full_size.class_incremental import class_names
from vlcl_toolkit.streams.full_size.reference import read_captions, reference_source


def add_images(folder: Path, count: int, red: int) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", (10 + i, 12), (red, 0, 0)).save(folder / f"{i:02}.png")


@pytest.fixture
def own(tmp_path) -> Path:
    """Two tasks to be divided, and one that is divided already."""
    root = tmp_path / "own"
    add_images(root / "tools/claw_hammer", 20, 0)
    add_images(root / "tools/saw", 10, 100)
    add_images(root / "flowers/lily", 10, 0)
    add_images(root / "flowers/rose", 10, 100)
    for part, count in (("train", 3), ("test", 2)):
        add_images(root / f"birds/{part}/owl", count, 0)
        add_images(root / f"birds/{part}/tit", count, 100)
    (root / ".hidden").mkdir()
    return root


def write(path: Path, content: object) -> None:
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))


def test_a_task_per_folder_and_a_class_per_sub_folder(own):
    stream = load_stream(f"folder:{own}")
    assert (stream.id, stream.names) == ("folder-own", ("birds", "flowers", "tools"))
    assert stream["tools"].class_names == ("claw hammer", "saw")
    assert stream["tools"].templates == ("a photo of a {}.",)
    sizes = {t.name: (len(t.train), len(t.validation), len(t.test)) for t in stream}
    assert sizes == {"birds": (6, 0, 4), "flowers": (14, 2, 4), "tools": (21, 3, 6)}
    assert stream["tools"].train.labels.bincount().tolist() == [14, 7]
    for task in stream:
        for data in (task.train, task.validation, task.test):
            reds = [int(data[i][0][0, 0, 0]) for i in range(len(data))]
            assert reds == (100 * data.labels).tolist()


def test_split_is_the_same_each_time_and_complete(own):
    first, again = (load_stream(f"folder:{own}") for _ in range(2))
    assert first.split_id == again.split_id
    rows = [first["tools"].train.rows, first["tools"].validation.rows, first["tools"].test.rows]
    assert sorted(row for part in rows for row in part.tolist()) == list(range(30))
    write(own / "task.yaml", {"split": {"seed": 1}})
    assert load_stream(f"folder:{own}").split_id != first.split_id


def test_settings(own):
    write(own / "task.yaml", {"order": ["tools", "birds"], "templates": ["art of a {}."]})
    write(
        own / "tools/task.yaml",
        {"class_names": {"saw": "hand saw"}, "split": {"train": 0.5, "test": 0.5}},
    )
    stream = load_stream(f"folder:{own}")
    assert stream.names == ("tools", "birds")
    assert stream["tools"].class_names == ("claw hammer", "hand saw")
    assert stream["birds"].templates == ("art of a {}.",)
    assert [len(stream["tools"].train), len(stream["tools"].validation)] == [15, 0]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("task.yaml", {"order": ["tool"]}, r"unknown task folder .* 'tool'; did you mean 'tools'"),
        ("task.yaml", {"order": [3]}, r"unknown task folder .* '3'; known"),
        ("task.yaml", {"order": [[3]]}, "of .*own: order must be a list"),
        ("task.yaml", {"ordr": ["tools"]}, "of .*own: unknown setting 'ordr'.*mean 'order'"),
        ("task.yaml", {"templates": "a {}"}, "of .*own: templates must be a list; found 'a {}'"),
        ("task.yaml", "a: [", "is not valid YAML"),
        ("task.yaml", "- a", "must contain settings 'name: value'"),
        ("task.yaml", {"split": {"train": 0.9, "test": 0.9}}, "must sum to 1; found 1.8"),
        ("task.yaml", {"split": {"trian": 0.5}}, "unknown setting 'trian'; did you mean 'train'"),
        ("task.yaml", {"split": {"train": "most"}}, "train must be a number from 0 to 1.*'most'"),
        ("task.yaml", {"split": {"train": 1.4, "test": -0.4}}, "number from 0 to 1; found 1.4"),
        ("task.yaml", {"split": {"seed": 0.5}}, "seed must be a whole number .*found 0.5"),
        ("tools/task.yaml", {"class_names": {"sow": "x"}}, "'sow'; did you mean 'saw'"),
        (
            "tools/task.yaml",
            {"class_names": {"saw": None}},
            "of .*tools: class_names must be .*text",
        ),
        ("tools/task.yaml", {"templates": ["x"]}, "needs exactly one {} for the class name"),
    ],
)
def test_mistakes_in_settings_are_named(own, file, content, message):
    write(own / file, content)
    with pytest.raises(UserError, match=message) as caught:
        load_stream(f"folder:{own}")
    assert "\n" not in str(caught.value)


def test_empty_folders_are_named(tmp_path, own):
    with pytest.raises(UserError, match=r"there is no folder .*nowhere"):
        load_stream(f"folder:{tmp_path / 'nowhere'}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no task"):
        load_stream(f"folder:{tmp_path / 'empty'}")
    (own / "tools/axe").mkdir()
    with pytest.raises(UserError, match=r"class folder 'axe' of .*tools has no image"):
        load_stream(f"folder:{own}")
    (own / "weeds").mkdir()
    (own / "tools/axe").rmdir()
    with pytest.raises(UserError, match=r"task folder .*weeds has no sub-folder"):
        load_stream(f"folder:{own}")


# Reference material


CAPTIONS = "a dog on the beach\thttp://a/1.jpg\nred  kite in the sky \thttp://a/2.jpg\n"


def test_any_folder_and_captions(own, tmp_path):
    (tmp_path / "captions.tsv").write_text(CAPTIONS)
    source = reference_source(str(own), captions=tmp_path / "captions.tsv")
    reference = source()
    assert source() is reference, "read once"
    assert len(reference.images) == 60
    assert reference.sentences == ("a dog on the beach", "red  kite in the sky")
    assert reference.class_names == class_names("imagenet1000")
    assert reference.unlabelled.labels.tolist() == [0] * 60


def test_imagenets(imagenet_root):
    whole = reference_source("imagenet", imagenet_root)()
    assert len(whole.images) == 1000
    assert whole.sentences == ()
    tiny = reference_source("tinyimagenet", imagenet_root)()
    assert len(tiny.images) == 400
    assert tiny.class_names == class_names("tinyimagenet")
    assert tiny.unlabelled.labels.unique().tolist() == [0]


def test_reference_by_name(own, tmp_path):
    (tmp_path / "captions.tsv").write_text(CAPTIONS)
    stream = load_stream(
        f"folder:{own}", reference=str(own / "tools"), captions=tmp_path / "captions.tsv"
    )
    reference = stream.reference()
    assert len(reference.images) == 30
    assert len(reference.sentences) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a dog\n", "line 1: a captions file has lines 'caption<TAB>address'; found 'a dog'"),
        (b"a dog\thttp://a\nb\tc\td\n", "line 2"),
        (b"", "is empty"),
        (b"\xff\xfe\tx\n", "cannot read the captions file"),
    ],
)
def test_captions_in_the_wrong_form_are_named(tmp_path, content, message):
    (tmp_path / "captions.tsv").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_captions(tmp_path / "captions.tsv")


def test_reference_folder_without_images_is_named(tmp_path):
    with pytest.raises(UserError, match="contains no image"):
        reference_source(str(tmp_path))()
    with pytest.raises(UserError, match="there is no folder of reference images"):
        reference_source(str(tmp_path / "nowhere"))()
