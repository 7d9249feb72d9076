"""Where the tests find MNIST, which the project does not contain."""

import os
from pathlib import Path

from surmin.data.idx_folder import IMAGES, LABELS, find_idx_file

PROJECT_ROOT = Path(__file__).resolve().parent.parent
ABSENT = "MNIST is neither in $SURMIN_DATA nor in ../shared/data/mnist"


def mnist_folder() -> Path | None:
    """Returns a folder with the four files of MNIST, or None; a test that needs it then skips, saying `ABSENT`."""
    named = os.environ.get("SURMIN_DATA")
    candidates = [*([Path(named)] if named else []), PROJECT_ROOT.parent / "shared" / "data" / "mnist"]
    files = [*IMAGES.values(), *LABELS.values()]
    return next((folder for folder in candidates if all(find_idx_file(folder, name) for name in files)), None)
