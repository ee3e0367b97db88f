"""MTIL from imitations of the official downloads: both splits, orders, names, labels, templates."""

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from imitation_data import mtil as imitations
from imitation_data import names as official_names
from imitation_data.writing import label_of

from vlcl_toolkit.clip.transforms import ImageTransform
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.load import load_stream
from vlcl_toolkit.streams import PictureData, TaskStream, load_batch
from vlcl_toolkit.streams.full_size.mtil import mtil_names, random_80_20
from vlcl_toolkit.streams.splits import facts

ORDER_I = (
    "Aircraft",
    "Caltech101",
    "CIFAR100",
    "DTD",
    "EuroSAT",
    "Flowers",
    "Food",
    "MNIST",
    "OxfordPet",
    "StanfordCars",
    "SUN397",
)
ORDER_II = tuple(ORDER_I[i] for i in (9, 6, 7, 8, 5, 10, 0, 1, 3, 4, 2))
# Training / validation / test images of the imitations.
SIZES = {
    "zscl": [
        (300, 0, 200),
        (404, 0, 101),
        (500, 0, 200),
        (141, 0, 94),
        (80, 0, 20),
        (306, 0, 204),
        (303, 0, 202),
        (100, 0, 20),
        (148, 0, 74),
        (588, 0, 392),
        (1588, 0, 397),
    ],
    "coop": [
        (300, 100, 200),
        (200, 100, 200),
        (400, 100, 200),
        (141, 47, 94),
        (50, 20, 30),
        (306, 102, 204),
        (202, 101, 202),
        (80, 20, 20),
        (111, 37, 74),
        (392, 196, 392),
        (794, 397, 794),
    ],
}
KNOWN = facts("mtil")["data_sets"]


@pytest.fixture(scope="module", params=["zscl", "coop"])
def stream(request, mtil_root) -> TaskStream:
    return load_stream("mtil", root=mtil_root, split=request.param, verify=False)


def split_of(stream: TaskStream) -> str:
    return stream.split_id.split("-")[1]


def test_orders_and_sizes(stream):
    assert stream.names == ORDER_I
    found = [(len(task.train), len(task.validation), len(task.test)) for task in stream]
    assert found == SIZES[split_of(stream)]


def test_imitations_can_never_be_mistaken_for_the_data_sets(stream):
    assert "-unverified-" in stream.split_id


def test_every_image_has_its_label(stream):
    for task in stream:
        for data in (task.train, task.validation, task.test):
            step = max(1, len(data) // 25)
            for index in range(0, len(data), step):
                image, label = data[index]
                if task.name == "Caltech101" and data.picture(index).mode == "L":
                    continue  # grey ones have no colour to tell
                pixels = image.permute(1, 2, 0).numpy()
                if task.name == "MNIST":
                    assert pixels[0, 0, 0] == 20 + 24 * int(label)
                    continue
                found = label_of(pixels)
                if task.name == "Caltech101" and split_of(stream) == "coop":
                    found -= found > 1  # Faces_easy is left out
                assert found == int(label), (task.name, index)


def test_class_names(stream):
    names = {task.name: task.class_names for task in stream}
    counts = [len(names[name]) for name in ORDER_I]
    caltech = 100 if split_of(stream) == "coop" else 101
    assert counts == [100, caltech, 100, 47, 10, 102, 101, 10, 37, 196, 397]
    assert not any("_" in text for found in names.values() for text in found)
    assert names["Aircraft"] == tuple(official_names.VARIANTS)
    assert names["CIFAR100"][1] == "aquarium fish"
    assert names["MNIST"][:2] == ("0 - zero", "1 - one")
    if split_of(stream) == "zscl":
        for name in ("Caltech101", "EuroSAT", "Flowers"):
            assert names[name] == tuple(KNOWN[name]["class_names"])
        assert names["OxfordPet"][1] == "American Bulldog"
        assert names["StanfordCars"][0] == "Maker0 Model 0 Sedan 1990"
        assert names["SUN397"][0] == "ascene 000/outdoor"
    else:
        assert names["Caltech101"][:5] == ("face", "leopard", "motorbike", "accordion", "airplane")
        assert names["EuroSAT"] == tuple(official_names.COOP_EUROSAT)
        assert names["OxfordPet"][1] == "american bulldog"
        assert names["StanfordCars"][0] == "1990 Maker0 Model 0 Sedan"
        assert names["SUN397"][0] == "outdoor ascene 000"


def test_templates(stream):
    for task in stream:
        wanted = KNOWN[task.name]["templates"]
        assert list(task.templates) == (wanted if split_of(stream) == "zscl" else wanted[:1])


def test_no_image_is_in_two_parts(stream):
    for task in stream:
        parts = [getattr(task, part) for part in ("train", "validation", "test")]
        assert all(isinstance(part, PictureData) for part in parts)
        names = [p.pictures.name(row) for p in parts for row in p.rows.tolist()]
        assert len(set(names)) == len(names), task.name


def test_published_facts_are_whole():
    assert mtil_names() == ORDER_I
    assert tuple(facts("mtil")["orders"]["II"]) == ORDER_II
    assert sum(known["classes"] for known in KNOWN.values()) == 1201
    assert sum(known["coop_classes"] for known in KNOWN.values()) == 1200
    assert [len(known["templates"]) for known in KNOWN.values()] == [
        2,
        34,
        18,
        8,
        3,
        1,
        1,
        1,
        1,
        9,
        2,
    ]
    sizes = [known["sizes"]["zscl"]["test"] for known in KNOWN.values()]
    assert sizes == [3333, 1736, 10000, 1880, 5400, 6149, 25250, 10000, 3669, 8041, 21751]
    assert KNOWN["Caltech101"]["class_names"][:2] == ["off-center face", "centered face"]
    assert "head of a  crocodile" in KNOWN["Caltech101"]["class_names"]
    assert KNOWN["SUN397"]["sizes"]["coop"] == {"train": 15880, "validation": 3970, "test": 19850}


def test_orders_by_name(mtil_root):
    second = load_stream("mtil-II", root=mtil_root, verify=False)
    assert second.names == ORDER_II
    assert second.id == "mtil"
    assert second.split_id == load_stream("mtil", root=mtil_root, verify=False).split_id


def test_few_shot_protocols(mtil_root):
    five = load_stream("mtil-5shot", root=mtil_root, verify=False, sets=["DTD", "EuroSAT"])
    assert (five.id, five.names) == ("mtil-5shot", ("DTD", "EuroSAT"))
    assert five["EuroSAT"].train.labels.bincount().tolist() == [5] * 10
    assert five["DTD"].train.labels.bincount().tolist() == [3] * 47  # the imitation has no more
    sixteen = load_stream("mtil-16shot", root=mtil_root, verify=False)
    assert sixteen.id == "mtil-coop-16shot"
    assert sixteen.names == tuple(n for n in ORDER_I if n not in ("EuroSAT", "MNIST", "OxfordPet"))


def test_seed_42_split_is_the_one_published():
    # The first rows that torch's generator draws for EuroSAT's 27000 images, and the sizes.
    train, test = random_80_20(27000)
    expected = torch.utils.data.random_split(
        range(27000), [21600, 5400], torch.Generator().manual_seed(42)
    )
    assert train.tolist() == list(expected[0])
    assert test.tolist() == list(expected[1])
    assert [len(part) for part in random_80_20(8677)] == [6941, 1736]
    assert [len(part) for part in random_80_20(108754)] == [87003, 21751]


def test_batches_of_any_size_go_through_the_transform(stream):
    transform = ImageTransform(16, (0.5,) * 3, (0.25,) * 3, augment=False)
    images, labels = load_batch(stream["EuroSAT"].test, torch.tensor([3, 0]), transform)
    assert images.shape == (2, 3, 16, 16)
    picture = stream["EuroSAT"].test.picture(3)
    assert torch.equal(images[0], transform(picture))
    assert labels.tolist() == stream["EuroSAT"].test.labels[[3, 0]].tolist()


def test_grey_images_keep_their_mode_until_they_are_resized(mtil_root):
    stream = load_stream("mtil", root=mtil_root, verify=False, sets=["Caltech101", "MNIST"])
    modes = {stream["Caltech101"].train.picture(i).mode for i in range(50)}
    assert modes == {"L", "RGB"}
    assert stream["MNIST"].test.picture(0).mode == "L"
    assert np.array(stream["MNIST"].test.picture(0)).shape == (28, 28)


# Mistakes


def test_sizes_are_checked_unless_told_otherwise(mtil_root):
    with pytest.raises(UserError, match=r"DTD \(split 'zscl'\) must have 1880 train images.* 141"):
        load_stream("mtil", root=mtil_root, sets=["DTD"], verify=True)


def test_files_with_other_checksums_are_refused(mtil_root):
    for name, file in (("CIFAR100", "train"), ("Flowers", "imagelabels.mat")):
        with pytest.raises(UserError, match=f"{file} has MD5 .*published is"):
            load_stream("mtil", root=mtil_root, sets=[name], verify=True)


class Hostile:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("file", ["train", "test", "meta"])
@pytest.mark.parametrize("stream", ["mtil", "cifar100-10"])
def test_code_in_a_pickle_is_never_run(mtil_root, tmp_path, stream, file):
    shutil.copytree(mtil_root / "cifar-100-python", tmp_path / "cifar-100-python")
    path = tmp_path / "cifar-100-python" / file
    content = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps({**content, "extra": Hostile(tmp_path / "made")}, protocol=2))
    sets = {"sets": ["CIFAR100"]} if stream == "mtil" else {}
    with pytest.raises(UserError, match=r"CIFAR100.*damaged or inconsistent.*mkdir"):
        load_stream(stream, root=tmp_path, verify=False, **sets)
    assert not (tmp_path / "made").exists()
    pickle.loads(path.read_bytes())
    assert (tmp_path / "made").exists(), "the file would have run"


@pytest.mark.parametrize("content", [[1], {"data": [1], "fine_labels": [0]}, {"data": None}])
def test_pickles_with_other_content_are_named(mtil_root, tmp_path, content):
    shutil.copytree(mtil_root / "cifar-100-python", tmp_path / "cifar-100-python")
    (tmp_path / "cifar-100-python/train").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=r"CIFAR100.*damaged or inconsistent"):
        load_stream("cifar100-10", root=tmp_path, verify=False)


@pytest.mark.parametrize("name", ORDER_I)
def test_missing_set_says_which_file_from_where_into_which_folder(name, tmp_path):
    with pytest.raises(UserError) as caught:
        load_stream("mtil", root=tmp_path, sets=[name])
    message = str(caught.value)
    assert message.startswith(f"{name} is not complete: {tmp_path}/")
    assert "unpack" in message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == [], "looking must leave nothing behind"


def test_missing_split_file_is_named(mtil_root, tmp_path):
    (tmp_path / "eurosat").mkdir()
    (tmp_path / "eurosat/2750").symlink_to(mtil_root / "eurosat/2750")
    path = tmp_path / "eurosat/split_zhou_EuroSAT.json"
    with pytest.raises(
        UserError, match=f"needs {path}.*drive.google.com.* by hand into {path.parent}"
    ):
        load_stream("mtil", root=tmp_path, sets=["EuroSAT"], split="coop")
    path.write_text(json.dumps({"train": [["a.jpg", 0]]}))
    with pytest.raises(UserError, match="does not have the form"):
        load_stream("mtil", root=tmp_path, sets=["EuroSAT"], split="coop")
    entries = {"train": [["a.jpg", 0, "x"]], "val": [["b.jpg", 0, "y"]], "test": []}
    path.write_text(json.dumps(entries))
    with pytest.raises(UserError, match="calls label 0 both 'x' and 'y'"):
        load_stream("mtil", root=tmp_path, sets=["EuroSAT"], split="coop")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "zsc"}, "unknown split 'zsc'; did you mean 'zscl'"),
        ({"sets": ["Cars"]}, "unknown data set 'Cars'; did you mean 'StanfordCars'"),
        ({"rot": "."}, "unknown option of 'mtil' 'rot'; did you mean 'root'"),
    ],
)
def test_unknown_options_are_named(options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        load_stream("mtil", **{"root": tmp_path, **options})


def test_a_data_folder_is_needed(monkeypatch, tmp_path):
    monkeypatch.delenv("VLCL_DATA", raising=False)
    with pytest.raises(UserError, match="VLCL_DATA"):
        load_stream("mtil")
    monkeypatch.setenv("VLCL_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="there is no data folder"):
        load_stream("mtil")


def test_split_id_follows_files_and_labels(mtil_root, tmp_path):
    def identity(root: Path) -> str:
        return load_stream("mtil", root=root, sets=["EuroSAT"], verify=False).split_id

    imitations.eurosat(tmp_path)
    assert identity(tmp_path) == identity(mtil_root)
    (tmp_path / "eurosat/2750/River/River_1.jpg").rename(tmp_path / "eurosat/2750/Forest/x.jpg")
    assert identity(tmp_path) != identity(mtil_root)
