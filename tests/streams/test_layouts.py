"""Data sets as they lie on people's disks: CoOp's folders, archives of other hosts, leftovers."""

import shutil

import pytest
from imitation_data.write import write_imitations

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.load import load_stream
from vlcl_toolkit.streams.full_size.check import check_data

COOP = {  # torchvision's folder -> CoOp's
    "caltech101": "caltech-101",
    "dtd/dtd/images": "dtd/images",
    "flowers-102": "oxford_flowers",
    "oxford-iiit-pet": "oxford_pets",
    "SUN397": "sun397/SUN397",
    "eurosat/2750": "eurosat/EuroSAT_RGB",
}
SETS = ["Caltech101", "DTD", "EuroSAT", "Flowers", "OxfordPet", "SUN397"]


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
    options = {"sets": SETS, "splits": ("coop",), "decode": False, "sizes": False}
    assert [f for f in check_data(tmp_path / "coop", **options) if not f.good] == []


def test_another_layout_is_named_where_it_does_not_do(root, tmp_path):
    there = moved(root, tmp_path / "coop")
    with pytest.raises(
        UserError, match=r"oxford_flowers is there: another layout, see docs/data\.md"
    ):
        load_stream("mtil", root=there, sets=["Flowers"], verify=False)


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
