"""`python -m vlcl_toolkit.cli`, which is what torchrun starts: see docs/multi_gpu.md."""

import sys

from vlcl_toolkit.cli import main

sys.exit(main())
