"""Compile `device.cpp` for the torch that is installed; needs a C++ compiler."""

import os
import subprocess
import sys
from pathlib import Path

from torch.utils.cpp_extension import include_paths, library_paths

SOURCE = Path(__file__).with_name("device.cpp")
LIBRARY = SOURCE.parents[2] / "build" / "emulated_gpu.so"


def main() -> int:
    """Nothing is done where the library is newer than its source."""
    if LIBRARY.exists() and LIBRARY.stat().st_mtime > SOURCE.stat().st_mtime:
        return 0
    LIBRARY.parent.mkdir(exist_ok=True)
    paths = [f"-I{path}" for path in include_paths()]
    for path in library_paths():
        paths += [f"-L{path}", f"-Wl,-rpath,{path}"]
    unfinished = LIBRARY.with_suffix(".unfinished")
    flags = ["-std=c++20", "-O1", "-shared", "-fPIC", "-w"]
    compiler = os.environ.get("CXX", "c++")
    words = [compiler, *flags, *paths, str(SOURCE), "-ltorch", "-ltorch_cpu", "-lc10", "-o", str(unfinished)]
    done = subprocess.run(words, check=False)
    if done.returncode == 0:
        unfinished.replace(LIBRARY)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
