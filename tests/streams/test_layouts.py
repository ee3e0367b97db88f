"""Data sets as they lie on people's disks: CoOp's folders, archives of other hosts, leftovers."""

import shutil

import pytest
from imitation_data.write import write_imitations

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.load import load_stream
from vlcl_toolkit.streams.full_size.check import check_data
from vlcl_toolkit.streams.full_size.imagenet import read_imagenet, read_tiny_imagenet
from vlcl_toolkit.streams.full_size.prepare import prepare_data

COOP = {  # torchvision's folder -> CoOp's
    "caltech101": "caltech-101",
    "dtd/dtd/images": "dtd/images",
    "flowers-102": "oxford_flowers",
    "oxford-iiit-pet": "oxford_pets",
    "SUN397": "sun397/SUN397",
    "eurosat/2750": "eurosat/EuroSAT_RGB",
    "fgvc-aircraft-2013b/data": "fgvc_aircraft",
    "cifar-100-python": "cifar100",
    "MNIST/raw": "mnist",
}
WHOLE = ["Aircraft", "CIFAR100", "MNIST"]  # without a split file of CoOp's
SETS = [
    "Caltech101",
    "DTD",
    "EuroSAT",
    "Flowers",
    "Food",
    "OxfordPet",
    "StanfordCars",
    "SUN397",
    *WHOLE,
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_imitations(tmp_path_factory.mktemp("layouts") / "data", SETS)


def moved(root, there):
    """The same files where CoOp's instructions put them; its split files lie beside the images' folder."""
    shutil.copytree(root, there)
    for old, new in COOP.items():
        (there / new).parent.mkdir(parents=True, exist_ok=True)
        (there / old).rename(there / new)
    (split,) = (there / "sun397/SUN397").glob("split_zhou_*.json")
    split.rename(there / "sun397" / split.name)
    (there / "oxford_flowers" / "setid.mat").unlink()
    return there


def coop(root):
    return load_stream("mtil", root=root, sets=SETS, split="coop", verify=False)


def test_coops_folders_give_the_same_split_and_pictures(root, tmp_path):
    ours, theirs = coop(root), coop(moved(root, tmp_path / "coop"))
    assert theirs.split_id == ours.split_id
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine.test[0][0] == other.test[0][0]).all()
        alone = [
            load_stream("mtil", root=r, sets=[mine.name], split="coop", verify=False).split_id
            for r in (root, tmp_path / "coop")
        ]
        assert alone[0] == alone[1], mine.name
    options = {"sets": SETS, "splits": ("coop",), "decode": False, "sizes": False}
    assert [f for f in check_data(tmp_path / "coop", **options) if not f.good] == []


def test_another_layout_is_named_where_it_does_not_do(root, tmp_path):
    there = moved(root, tmp_path / "coop")
    with pytest.raises(
        UserError, match=r"oxford_flowers is there: another layout, see docs/data\.md"
    ):
        load_stream("mtil", root=there, sets=["Flowers"], verify=False)


@pytest.mark.parametrize(
    "folders",
    [
        ("fgvc_aircraft", "cifar100", "mnist"),
        ("fgvc_aircraft/data", "cifar100/cifar-100-python", "mnist/raw"),
        ("fgvc_aircraft", "cifar100", "mnist/MNIST/raw"),
    ],
)
@pytest.mark.parametrize("split", ["zscl", "coop"])
def test_sets_without_a_split_file_in_coops_folders(split, folders, root, tmp_path):
    for old, new in zip(list(COOP)[-3:], folders, strict=True):
        shutil.copytree(root / old, tmp_path / new)
    ours, theirs = (
        load_stream("mtil", root=r, sets=WHOLE, split=split, verify=False) for r in (root, tmp_path)
    )
    assert theirs.split_id == ours.split_id
    options = {"sets": WHOLE, "splits": (split,), "decode": True, "sizes": False}
    assert [f for f in check_data(tmp_path, **options) if not f.good] == []
    assert all(line.endswith("complete") for line in prepare_data(tmp_path, WHOLE, fetch=False))


def test_a_set_that_is_not_whole_in_either_folder_is_named(root, tmp_path):
    shutil.copytree(root / "MNIST/raw", tmp_path / "mnist")
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(UserError, match=r"MNIST/raw.* is missing \(.*mnist is there"):
        load_stream("mtil", root=tmp_path, sets=["MNIST"], verify=False)


def test_leftovers_of_systems_in_imagenets(imagenet_root, tmp_path):
    there = shutil.copytree(imagenet_root, tmp_path / "data", symlinks=True)
    for some in (
        next((there / "imagenet/train").glob("n*")),
        next((there / "tiny-imagenet-200/train").glob("n*")) / "images",
    ):
        (some / "._0001.JPEG").write_bytes(b"x")
    for read in (read_imagenet, read_tiny_imagenet):
        assert len(read(there, "train").labels) == len(read(imagenet_root, "train").labels)


def test_leftovers_change_nothing(root, tmp_path):
    there = shutil.copytree(root, tmp_path / "data")
    for base in ("caltech101/101_ObjectCategories", "eurosat/2750"):
        for stray in (".ipynb_checkpoints", "__MACOSX"):
            (there / base / stray).mkdir()
            (there / base / stray / "x.jpg").write_bytes(b"x")
        some = next(
            path for path in (there / base).iterdir() if not path.name.startswith((".", "_"))
        )
        (some / "._0001.jpg").write_bytes(b"x")
    sets = ["Caltech101", "EuroSAT"]
    ours, theirs = (load_stream("mtil", root=r, sets=sets, verify=False) for r in (root, there))
    assert theirs.split_id == ours.split_id
    options = {"sets": sets, "splits": ("zscl",), "decode": True, "sizes": False}
    assert [f for f in check_data(there, **options) if not f.good] == []


def test_food_without_its_list_of_classes(tmp_path):
    root = write_imitations(tmp_path, ["Food"])
    (root / "food-101/meta/classes.txt").unlink()
    options = {"sets": ["Food"], "splits": ("coop",), "decode": False, "sizes": False}
    assert [f.text for f in check_data(root, **options) if not f.good] == []
