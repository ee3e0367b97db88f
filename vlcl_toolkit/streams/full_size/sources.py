"""Where the data sets come from and where their files lie below the data folder.

The layout is torchvision's. Addresses and checksums are torchvision's too, wherever it has them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torchvision import datasets as tv
from torchvision.datasets.utils import calculate_md5

from vlcl_toolkit.errors import UserError


@dataclass(frozen=True)
class Download:
    """A file to fetch.

    Attributes:
        url, md5: None: no checksum is published.
        into: folder that it is put into and unpacked in.
        inner: an archive inside the archive, unpacked as well.
    """

    url: str
    md5: str | None
    into: str
    inner: str | None = None

    @property
    def file(self) -> str:
        """Path of the fetched file."""
        return f"{self.into}/{self.url.rsplit('/', 1)[1]}".removeprefix("./")


@dataclass(frozen=True)
class Source:
    """Files of a data set, relative to the data folder.

    Attributes:
        folder: its own folder. `required`: what a complete set has at least.
        downloads: what can be fetched by a program.
        by_hand: what a person has to do for the rest; empty: nothing.
        checksums: MD5 of unpacked files that are published.
    """

    folder: str
    required: tuple[str, ...]
    downloads: tuple[Download, ...] = ()
    by_hand: str = ""
    checksums: tuple[tuple[str, str], ...] = ()


_CALTECH = "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip"
_EUROSAT = (
    "https://huggingface.co/datasets/torchgeo/eurosat/resolve/"
    "c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip"
)
_FLOWERS = tv.Flowers102._file_dict
_FLOWERS_URL = tv.Flowers102._download_url_prefix
_MNIST = [f"MNIST/raw/{name.removesuffix('.gz')}" for name, _ in tv.MNIST.resources]

SOURCES: dict[str, Source] = {
    "Aircraft": Source(
        "fgvc-aircraft-2013b",
        (
            "fgvc-aircraft-2013b/data/variants.txt",
            *(f"fgvc-aircraft-2013b/data/images_variant_{p}.txt" for p in ("train", "val", "test")),
            "fgvc-aircraft-2013b/data/images",
        ),
        (Download(tv.FGVCAircraft._URL, None, "."),),
    ),
    "Caltech101": Source(
        "caltech101",
        ("caltech101/101_ObjectCategories",),
        (
            Download(
                _CALTECH,
                "3138e1922a9193bfa496528edbbc45d0",
                "caltech101",
                "caltech-101/101_ObjectCategories.tar.gz",
            ),
        ),
    ),
    "CIFAR100": Source(
        "cifar-100-python",
        tuple(f"cifar-100-python/{name}" for name in ("train", "test", "meta")),
        (Download(tv.CIFAR100.url, tv.CIFAR100.tgz_md5, "."),),
        checksums=(
            *((f"cifar-100-python/{n}", m) for n, m in tv.CIFAR100.train_list),
            *((f"cifar-100-python/{n}", m) for n, m in tv.CIFAR100.test_list),
            ("cifar-100-python/meta", tv.CIFAR100.meta["md5"]),
        ),
    ),
    "DTD": Source(
        "dtd",
        (
            *(f"dtd/dtd/labels/{part}1.txt" for part in ("train", "val", "test")),
            "dtd/dtd/images",
        ),
        (Download(tv.DTD._URL, tv.DTD._MD5, "dtd"),),
    ),
    "EuroSAT": Source(
        "eurosat",
        ("eurosat/2750",),
        (Download(_EUROSAT, "c8fa014336c82ac7804f0398fcb19387", "eurosat"),),
    ),
    "Flowers": Source(
        "flowers-102",
        ("flowers-102/imagelabels.mat", "flowers-102/setid.mat", "flowers-102/jpg"),
        tuple(Download(_FLOWERS_URL + name, md5, "flowers-102") for name, md5 in _FLOWERS.values()),
        checksums=tuple(
            (f"flowers-102/{_FLOWERS[key][0]}", _FLOWERS[key][1]) for key in ("label", "setid")
        ),
    ),
    "Food": Source(
        "food-101",
        ("food-101/meta/train.json", "food-101/meta/test.json", "food-101/images"),
        (Download(tv.Food101._URL, tv.Food101._MD5, "."),),
    ),
    "MNIST": Source(
        "MNIST/raw",
        tuple(_MNIST),
        tuple(Download(tv.MNIST.mirrors[0] + n, md5, "MNIST/raw") for n, md5 in tv.MNIST.resources),
    ),
    "OxfordPet": Source(
        "oxford-iiit-pet",
        (
            "oxford-iiit-pet/annotations/trainval.txt",
            "oxford-iiit-pet/annotations/test.txt",
            "oxford-iiit-pet/images",
        ),
        tuple(Download(url, md5, "oxford-iiit-pet") for url, md5 in tv.OxfordIIITPet._RESOURCES),
    ),
    "StanfordCars": Source(
        "stanford_cars",
        (
            "stanford_cars/devkit/cars_meta.mat",
            "stanford_cars/devkit/cars_train_annos.mat",
            "stanford_cars/cars_test_annos_withlabels.mat",
            "stanford_cars/cars_train",
            "stanford_cars/cars_test",
        ),
        by_hand=(
            "its host is gone: find cars_train.tgz, cars_test.tgz, car_devkit.tgz and "
            "cars_test_annos_withlabels.mat (formerly ai.stanford.edu/~jkrause/car196; the set is "
            "mirrored on Kaggle as 'stanford-cars-dataset') and unpack the three archives beside "
            "the .mat file"
        ),
    ),
    "SUN397": Source(
        "SUN397",
        ("SUN397/ClassName.txt",),
        (Download(tv.SUN397._DATASET_URL, tv.SUN397._DATASET_MD5, "."),),
        by_hand="if the host does not answer, find SUN397.tar.gz (37 GB, MD5 as above) elsewhere",
    ),
    "TinyImageNet": Source(
        "tiny-imagenet-200",
        (
            "tiny-imagenet-200/wnids.txt",
            "tiny-imagenet-200/val/val_annotations.txt",
            "tiny-imagenet-200/train",
            "tiny-imagenet-200/val/images",
        ),
        (
            Download(
                "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
                "90528d7ca1a48142e341f4ef8d21d0de",
                ".",
            ),
        ),
    ),
    "ImageNet": Source(
        "imagenet",
        ("imagenet/train", "imagenet/val"),
        by_hand=(
            "register at image-net.org, fetch ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, "
            "and unpack them to train/<wnid>/*.JPEG and val/<wnid>/*.JPEG (a folder of 1000 classes "
            "each)"
        ),
    ),
}


def _coop(name: str, drive_id: str) -> tuple[str, str]:
    return f"split_zhou_{name}.json", f"https://drive.google.com/file/d/{drive_id}/view"


COOP_FILES = {
    "Caltech101": _coop("Caltech101", "1hyarUivQE36mY6jSomru6Fjd-JzwcCzN"),
    "DTD": _coop("DescribableTextures", "1u3_QfB467jqHgNXC00UIzbLZRQCg2S7x"),
    "EuroSAT": _coop("EuroSAT", "1Ip7yaCWFi0eaOFUGga0lUdVi_DDQth1o"),
    "Flowers": _coop("OxfordFlowers", "1Pp0sRXzZFZq15zVOzKjKBu4A9i01nozT"),
    "Food": _coop("Food101", "1QK0tGi096I0Ba6kggatX1ee6dJFIcEJl"),
    "OxfordPet": _coop("OxfordPets", "1501r8Ber4nNKvmlFVQZ8SeUHTcdTTEqs"),
    "StanfordCars": _coop("StanfordCars", "1ObCFbaAgVu0I-k_Au-gIUcefirdAuizT"),
    "SUN397": _coop("SUN397", "1y2RD81BYuiyvebdN-JymPfyWYcd8_MUq"),
}
"""CoOp's split files, which lie in a set's own folder: name and address, as CoOp's DATASETS.md has it."""


def coop_file(name: str) -> str:
    """Path of a set's CoOp split file, relative to the data folder."""
    return f"{SOURCES[name].folder}/{COOP_FILES[name][0]}"


# Sets without a CoOp file are whole in CoOp's folders too: torchvision's folder of the files, then others.
_SAME_FILES = {
    "Aircraft": ("fgvc-aircraft-2013b/data", "fgvc_aircraft", "fgvc_aircraft/data"),
    "CIFAR100": ("cifar-100-python", "cifar100", "cifar100/cifar-100-python"),
    "MNIST": ("MNIST/raw", "mnist", "mnist/raw", "mnist/MNIST/raw"),
}


def files_folder(name: str, root: Path) -> Path:
    """Where the files of Aircraft, CIFAR100 or MNIST lie; torchvision's folder if nowhere all of them do."""
    usual = _SAME_FILES[name][0]
    paths = [Path(path).relative_to(usual) for path in SOURCES[name].required]
    for folder in _SAME_FILES[name]:
        if all((root / folder / path).exists() for path in paths):
            return root / folder
    return root / usual


def placed(name: str, root: Path, path: str) -> Path:
    """Where a file of a set lies that has the given path in torchvision's layout."""
    if name not in _SAME_FILES:
        return root / path
    return files_folder(name, root) / Path(path).relative_to(_SAME_FILES[name][0])


def missing(name: str, root: Path) -> list[Path]:
    """What a complete set has and this folder has not."""
    paths = [placed(name, root, path) for path in SOURCES[name].required]
    return [path for path in paths if not path.exists()]


# Folders of CoOp's and DIKI's layout, and of archives as some hosts name them.
_OTHER_FOLDERS = {
    "Aircraft": ("fgvc_aircraft",),
    "Caltech101": ("caltech-101",),
    "CIFAR100": ("cifar100",),
    "EuroSAT": ("EuroSAT_RGB", "eurosat/EuroSAT_RGB"),
    "Flowers": ("oxford_flowers",),
    "Food": ("food101", "food-101/food-101"),
    "MNIST": ("mnist",),
    "OxfordPet": ("oxford_pets",),
    "SUN397": ("sun397",),
}


def require(name: str, root: Path) -> None:
    """Raise UserError if a part of data set `name` is not there: which, from where, into which folder."""
    for path in missing(name, root):
        other = [root / f for f in _OTHER_FOLDERS.get(name, ()) if (root / f).is_dir()]
        found = f" ({other[0]} is there: another layout, see docs/data.md)" if other else ""
        raise UserError(f"{name} is not complete: {path} is missing{found}; {advice(name, root)}")


def wrong_checksums(name: str, root: Path) -> Iterator[str]:
    """One line for each unpacked file whose MD5 is not the published one."""
    for file, published in SOURCES[name].checksums:
        path = placed(name, root, file)
        if (found := calculate_md5(path)) != published:
            yield f"{path} has MD5 {found}, published is {published}; fetch it again"


def require_coop(name: str, root: Path) -> Path:
    """The set's CoOp split file, in torchvision's folder or CoOp's; UserError if it is not there."""
    path, file = root / coop_file(name), COOP_FILES[name][0]
    for other in (*_OTHER_FOLDERS.get(name, ()), ""):
        if not path.is_file() and (root / other / file).is_file():
            path = root / other / file
    if not path.is_file():
        raise UserError(
            f"split='coop' of {name} needs {path}, which is missing; fetch {COOP_FILES[name][1]} "
            f"by hand into {path.parent}"
        )
    return path


def advice(name: str, root: Path) -> str:
    """How to get a data set."""
    source = SOURCES[name]
    if not source.downloads:
        return f"into {root / source.folder}: {source.by_hand}"
    addresses = ", ".join(download.url for download in source.downloads)
    folder = root / source.downloads[0].into
    return (
        f"`vlcl data prepare --root {root} --sets {name}` fetches it, or unpack {addresses} "
        f"in {folder}"
    )
