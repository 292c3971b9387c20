"""``python -m flashvsr`` is the command ``flashvsr``."""

import sys

from flashvsr.cli import main

sys.exit(main())
