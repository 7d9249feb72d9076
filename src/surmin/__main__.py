"""`python -m surmin`."""

import sys

from surmin.cli import main

sys.exit(main())
