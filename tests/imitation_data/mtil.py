"""Imitations of MTIL's eleven data sets: folders, file names and annotations as published, tiny images."""

import pickle
import random
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from imitation_data import names
from imitation_data.writing import colour, write_image, write_json, write_text
from scipy.io import savemat

TRAIN, VALIDATION, TEST = 3, 1, 2
"""Images per class in each official part."""


def _empty_split() -> dict[str, list]:
    return {"train": [], "val": [], "test": []}


def aircraft(root: Path) -> None:
    """FGVC-Aircraft."""
    data = root / "fgvc-aircraft-2013b/data"
    write_text(data / "variants.txt", names.VARIANTS)
    write_text(data / "families.txt", sorted({v.split("-")[0] for v in names.VARIANTS}))
    write_text(data / "manufacturers.txt", ["Boeing"])
    lines: dict[str, list[str]] = {}
    number = 0
    for part, count in (("train", TRAIN), ("val", VALIDATION), ("test", TEST)):
        lines[part] = []
        for label, variant in enumerate(names.VARIANTS):
            for _ in range(count):
                number += 7
                write_image(data / f"images/{number:07}.jpg", label)
                lines[part].append(f"{number:07} {variant}")
        random.Random(number).shuffle(lines[part])
        write_text(data / f"images_variant_{part}.txt", lines[part])
    write_text(data / "images_variant_trainval.txt", lines["train"] + lines["val"])


def caltech(root: Path) -> None:
    """Caltech101, with CoOp's split file."""
    base = root / "caltech101/101_ObjectCategories"
    write_image(base / "BACKGROUND_Google/image_0001.jpg", 0)
    split = _empty_split()
    kept = [name for name in names.CALTECH if name != "Faces_easy"]
    renamed = {
        "airplanes": "airplane",
        "Faces": "face",
        "Leopards": "leopard",
        "Motorbikes": "motorbike",
    }
    for label, name in enumerate(names.CALTECH):
        for i in range(1, 6):
            file = f"{name}/image_{i:04}.jpg"
            write_image(base / file, label, grey=i == 5)
            if name in kept:
                part = ("train", "train", "val", "test", "test")[i - 1]
                split[part].append([file, kept.index(name), renamed.get(name, name)])
    write_json(root / "caltech101/split_zhou_Caltech101.json", split)


def cifar100(root: Path) -> None:
    """CIFAR100, python version."""
    base = root / "cifar-100-python"
    base.mkdir(parents=True)
    for part, count in (("train", 5), ("test", TEST)):
        labels = list(range(100)) * count
        random.Random(count).shuffle(labels)
        planes = np.array([colour(label) for label in labels], dtype=np.uint8)
        content = {
            "data": planes.repeat(1024, axis=1),
            "fine_labels": labels,
            "coarse_labels": [label // 5 for label in labels],
            "filenames": [f"image_s_{i:06}.png" for i in range(len(labels))],
            "batch_label": f"{part}ing batch 1 of 1",
        }
        (base / part).write_bytes(pickle.dumps(content, protocol=2))
    coarse = [f"group_{i}" for i in range(20)]
    meta = {"fine_label_names": names.CIFAR100, "coarse_label_names": coarse}
    (base / "meta").write_bytes(pickle.dumps(meta, protocol=2))


def dtd(root: Path) -> None:
    """DTD, ten partitions, with CoOp's split file."""
    base, split = root / "dtd/dtd", _empty_split()
    lines: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for label, name in enumerate(names.DTD):
        number = 0
        for part, count in (("train", TRAIN), ("val", VALIDATION), ("test", TEST)):
            for _ in range(count):
                number += 1
                file = f"{name}/{name}_{number:04}.jpg"
                write_image(base / "images" / file, label)
                lines[part].append(file)
                coop = ("train", "train", "train", "val", "test", "test")[number - 1]
                split[coop].append([file, label, name])
    for part in lines:
        for partition in range(1, 11):
            write_text(base / f"labels/{part}{partition}.txt", lines[part])
    write_json(root / "dtd/split_zhou_DescribableTextures.json", split)


def eurosat(root: Path) -> None:
    """EuroSAT (RGB), with CoOp's split file."""
    split = _empty_split()
    for label, name in enumerate(names.EUROSAT):
        for i in range(1, 11):
            file = f"{name}/{name}_{i}.jpg"
            write_image(root / "eurosat/2750" / file, label)
            part = "train" if i <= 5 else "val" if i <= 7 else "test"
            split[part].append([file, label, names.COOP_EUROSAT[label]])
    write_json(root / "eurosat/split_zhou_EuroSAT.json", split)


def flowers(root: Path) -> None:
    """Flowers102, with CoOp's split file."""
    base, labels = root / "flowers-102", []
    ids: dict[str, list[int]] = {"trnid": [], "valid": [], "tstid": []}
    split = _empty_split()
    parts = ["trnid"] * TRAIN + ["valid"] * VALIDATION + ["tstid"] * TEST
    for part in parts:
        for label in range(102):
            labels.append(label + 1)
            ids[part].append(len(labels))
            file = f"image_{len(labels):05}.jpg"
            write_image(base / "jpg" / file, label)
            key = {"trnid": "train", "valid": "val", "tstid": "test"}[part]
            split[key].append([file, label, f"flower {label}"])
    savemat(base / "imagelabels.mat", {"labels": np.array([labels], dtype=np.uint8)})
    savemat(base / "setid.mat", {k: np.array([v], dtype=np.uint16) for k, v in ids.items()})
    write_json(base / "split_zhou_OxfordFlowers.json", split)


def food(root: Path) -> None:
    """Food101, with CoOp's split file."""
    base, split = root / "food-101", _empty_split()
    meta: dict[str, dict[str, list[str]]] = {"train": {}, "test": {}}
    for label, name in enumerate(names.FOODS):
        files = [f"{name}/{1000 * label + i}" for i in range(TRAIN + TEST)]
        meta["train"][name], meta["test"][name] = files[:TRAIN], files[TRAIN:]
        for i, file in enumerate(files):
            write_image(base / f"images/{file}.jpg", label)
            part = ("train", "test", "train", "val", "test")[i]
            split[part].append([f"{file}.jpg", label, name])
    for part, content in meta.items():
        write_json(base / f"meta/{part}.json", content)
        write_text(
            base / f"meta/{part}.txt", [file for files in content.values() for file in files]
        )
    write_text(base / "meta/classes.txt", names.FOODS)
    write_text(base / "meta/labels.txt", [name.replace("_", " ") for name in names.FOODS])
    write_json(base / "split_zhou_Food101.json", split)


def mnist(root: Path) -> None:
    """MNIST, IDX files."""
    base = root / "MNIST/raw"
    base.mkdir(parents=True)
    for part, count in (("train", 10), ("t10k", TEST)):
        labels = np.array(list(range(10)) * count, dtype=np.uint8)
        images = np.full((len(labels), 28, 28), 20 + labels[:, None, None] * 24, dtype=np.uint8)
        head = struct.pack(">IIII", 0x803, len(labels), 28, 28)
        (base / f"{part}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        head = struct.pack(">II", 0x801, len(labels))
        (base / f"{part}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())


def pets(root: Path) -> None:
    """Oxford-IIIT Pet, with CoOp's split file."""
    base, split = root / "oxford-iiit-pet", _empty_split()
    lines: dict[str, list[str]] = {"trainval": [], "test": []}
    for label, name in enumerate(names.PETS):
        for i in range(1, TRAIN + VALIDATION + TEST + 1):
            image = f"{name}_{i}"
            part = "trainval" if i <= TRAIN + VALIDATION else "test"
            species = 1 if name[0].isupper() else 2
            lines[part].append(f"{image} {label + 1} {species} {i}")
            write_image(base / f"images/{image}.jpg", label)
            xml = f"<annotation><filename>{image}.jpg</filename></annotation>"
            write_text(base / f"annotations/xmls/{image}.xml", [xml])
            key = "test" if part == "test" else "train" if i <= TRAIN else "val"
            split[key].append([f"{image}.jpg", label, name.lower()])
    for part, content in lines.items():
        write_text(base / f"annotations/{part}.txt", content)
    head = ["#Image CLASS-ID SPECIES BREED ID"]
    write_text(base / "annotations/list.txt", head + lines["trainval"] + lines["test"])
    write_json(base / "split_zhou_OxfordPets.json", split)


def cars(root: Path) -> None:
    """StanfordCars, with CoOp's split file."""
    base, split = root / "stanford_cars", _empty_split()
    fields = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname"]
    for part, count in (("train", TRAIN), ("test", TEST)):
        records = []
        for i in range(196 * count):
            label, file = i * 5 % 196, f"{i + 1:05}.jpg"
            write_image(base / f"cars_{part}/{file}", label)
            records.append((1, 1, 9, 9, label + 1, file))
            words = names.CARS[label].split(" ")
            key = "val" if part == "train" and i >= 196 * (TRAIN - 1) else part
            renamed = " ".join([words[-1], *words[:-1]])
            split[key].append([f"cars_{part}/{file}", label, renamed])
        annotations = np.array([records], dtype=[(field, object) for field in fields])
        where = (
            "devkit/cars_train_annos.mat" if part == "train" else "cars_test_annos_withlabels.mat"
        )
        (base / where).parent.mkdir(parents=True, exist_ok=True)
        savemat(base / where, {"annotations": annotations})
    meta = np.array([names.CARS], dtype=object)
    savemat(base / "devkit/cars_meta.mat", {"class_names": meta})
    write_json(base / "split_zhou_StanfordCars.json", split)


def sun397(root: Path) -> None:
    """SUN397, with CoOp's split file."""
    base, split = root / "SUN397", _empty_split()
    write_text(base / "ClassName.txt", names.SCENES)
    for label, name in enumerate(names.SCENES):
        for i in range(5):
            file = f"{name[1:]}/sun_{label:03}{'baedc'[i]}.jpg"  # written out of order
            write_image(base / file, label)
            words = " ".join(reversed(name[3:].split("/")))
            split[("train", "train", "val", "test", "test")[i]].append([file, label, words])
    write_json(base / "split_zhou_SUN397.json", split)


MTIL: dict[str, Callable[[Path], None]] = {
    "Aircraft": aircraft,
    "Caltech101": caltech,
    "CIFAR100": cifar100,
    "DTD": dtd,
    "EuroSAT": eurosat,
    "Flowers": flowers,
    "Food": food,
    "MNIST": mnist,
    "OxfordPet": pets,
    "StanfordCars": cars,
    "SUN397": sun397,
}
