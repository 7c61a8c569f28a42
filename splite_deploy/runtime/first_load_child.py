"""Run as a module, in a process of its own, by `splite_deploy.runtime.first_load`: loads a file and runs it once.

Its standard input is a line of JSON and the file; its standard output is lines of JSON, the last of which says how it
went. Where it ends without that line the file has ended it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from typing import Any

GIB = 1 << 30
_LEAST_MEMORY = 2 * GIB
_OPEN_SIZE = 64
"""Of an axis that the file leaves open, but for the first, which is 1."""


def main() -> None:
    """Answers one request."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what native code prints is no answer

    def say(**answer: Any) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    asked = json.loads(sys.stdin.buffer.readline())
    data = sys.stdin.buffer.read()
    _limit(asked["cpu_s"], len(data))
    say(**_tried(asked, data, say))


def _tried(asked: dict[str, Any], data: bytes, say: Any) -> dict[str, Any]:
    """How loading and running went: a problem, with a hint, or none."""
    import numpy as np

    from splite_deploy.errors import BackendError, SpliteError, first_line
    from splite_deploy.runtime.backends import find_backend
    from splite_deploy.runtime.backends.base import ModelFile

    name = asked["name"]
    try:
        backend = find_backend(asked["backend"])
        options, fields = backend.options(), {one.name for one in dataclasses.fields(backend.options)}
        wanted = {"threads": 1, "reference": asked["reference"]}
        options = dataclasses.replace(options, **{key: value for key, value in wanted.items() if key in fields})
        with backend.open(ModelFile(data, name, asked["format"]), options) as session:
            say(step="loaded")
            rng = np.random.default_rng(0)
            feeds = {}
            for spec in session.inputs:
                shape = [size or (_OPEN_SIZE if axis else 1) for axis, size in enumerate(spec.shape)]
                feeds[spec.name] = (rng.random(shape, np.float32) * (1 if spec.dtype[0] == "f" else 100)).astype(
                    spec.dtype
                )
            try:
                session.run(feeds)
            except BackendError as err:
                if _no_memory(err):
                    raise
                # Sizes that the file leaves open were guessed; what is wrong else is said where it is run in earnest.
    except SpliteError as err:
        return {"problem": err.message, "hint": err.hint, "memory": _no_memory(err)}
    except MemoryError:
        return {
            "problem": f"{name} needs more memory than a file of its size may.",
            "hint": "It is damaged: copy or convert it again.",
            "memory": True,
        }
    except Exception as err:  # a backend of another package may raise anything
        return {
            "problem": f"{backend.label} cannot load {name}: {first_line(err, named=True)}",
            "hint": f"It may be damaged: copy or convert it again, or upgrade {backend.label}.",
        }
    return {"problem": None}


def _no_memory(err: BaseException) -> bool:
    told = str(err).lower()
    return any(mark in told for mark in ("bad_alloc", "bad alloc", "out of memory", "failed to allocate memory"))


def _limit(cpu_s: int, size: int) -> None:
    """Bounds what a damaged file may take of this machine, where the system can.

    Memory is that of data: address space is taken in plenty, and left unused, by threads and by ONNX Runtime.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    memory = min(max(_LEAST_MEMORY, 16 * size), whole * 3 // 4)
    for kind, value in (("RLIMIT_CORE", 0), ("RLIMIT_DATA", memory), ("RLIMIT_CPU", 4 * cpu_s)):
        try:
            _, hard = resource.getrlimit(getattr(resource, kind))
            bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(getattr(resource, kind), (bound, hard))
        except (AttributeError, ValueError, OSError):
            continue  # a system without it


if __name__ == "__main__":
    main()
