"""Builds one engine in a process of its own, because TensorRT may crash it, or use up the memory.

`splite_deploy.compile.tensorrt.engines` runs it in a folder; `splite_deploy.compile.tensorrt.job` describes its files.
Lines on standard output are progress, ``SHARE STEP``; TensorRT's log output goes to standard error.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from splite_deploy.compile.tensorrt.build import build
from splite_deploy.compile.tensorrt.errors import MEMORY_HINT
from splite_deploy.compile.tensorrt.job import Job, write_error
from splite_deploy.errors import CompileError, SpliteError


def main() -> None:
    """Does the job of the folder it runs in."""
    steps = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # TensorRT's libraries print as well
    sys.stdin.read()
    folder = Path.cwd()
    job = Job.read(folder)
    try:
        build(job, folder, lambda step, share: print(f"{share:.3f} {step}", file=steps)).write(folder)
    except SpliteError as err:
        write_error(folder, err)
        sys.exit(1)
    except MemoryError:  # std::bad_alloc in C++
        message = f"There was not enough memory to build the {job.precision} engine."
        write_error(folder, CompileError(message, hint=MEMORY_HINT))
        sys.exit(1)


if __name__ == "__main__":
    main()
