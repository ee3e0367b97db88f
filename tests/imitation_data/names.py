"""Class names of the imitations: the official ones where folders or annotations are named by them."""

import json
from pathlib import Path

_OFFICIAL = json.loads((Path(__file__).parent / "official_names.json").read_text(encoding="utf-8"))
CALTECH, CIFAR100, DTD = _OFFICIAL["caltech"], _OFFICIAL["cifar100"], _OFFICIAL["dtd"]
EUROSAT, COOP_EUROSAT = _OFFICIAL["eurosat"], _OFFICIAL["coop_eurosat"]
PETS = _OFFICIAL["pets"]
VARIANTS = [f"{700 + i // 4}-{100 * (i % 4 + 1)}" for i in range(100)]
FOODS = [f"dish_number_{i:03}" for i in range(101)]
CARS = [f"Maker{i // 7} Model_{i} Sedan {1990 + i % 23}" for i in range(196)]
# As in ClassName.txt: a folder of the first letter, some classes with a place inside.
SCENES = [
    f"/{chr(97 + i // 16)}/{chr(97 + i // 16)}scene_{i:03}" + ("/outdoor" if i % 9 == 0 else "")
    for i in range(397)
]
