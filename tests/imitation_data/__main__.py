"""`python tests/imitation_data DIR [NAME ...]`: write imitations of the data sets (default: all of them)."""

import sys
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).parents[1]))
from imitation_data.write import write_imitations

print(tyro.cli(write_imitations))
