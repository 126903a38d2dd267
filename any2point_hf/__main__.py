"""`python -m any2point_hf` is `any2point`."""

import sys

from .cli import main

sys.exit(main())
