"""`python tests/imitation_data DIR [--sets NAME ...]`: write imitations of the data sets (default: all)."""

import sys
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).parents[1]))
from imitation_data.write import write_imitations

print(tyro.cli(write_imitations, config=(tyro.conf.PositionalRequiredArgs,)))
