"""Writes the names that releases of TensorRT's Python bindings have, read off the bindings: ``trt_names.json``.

    pip download --no-deps --only-binary :all: --python-version 3.11 tensorrt-cu12-bindings==10.3.0
    python tests/compile/trt_names.py tensorrt_cu12_bindings-10.3.0-*.whl ... tensorrt_rtx_bindings

The bindings are imported without TensorRT: what they link to is replaced by libraries of the same names, made by gcc
for the moment, which have the few functions that bindings look up and do nothing. A wheel for another Python is read by
that one (``python3.10``). What is no wheel is a package that is installed. Attributes of classes and members of
enumerations are told, which is all that code names.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

NAMES = Path(__file__).with_suffix(".json")
_WHEEL = re.compile(r"^(?P<package>[\w.]+?)-(?P<version>[\d.]+)-cp(?P<python>\d+)-")
_READ = """
import importlib.machinery, importlib.util, inspect, json, sys
if sys.argv[1].endswith(".so"):
    loader = importlib.machinery.ExtensionFileLoader("tensorrt", sys.argv[1])
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("tensorrt", loader))
    loader.exec_module(module)
else:
    module = importlib.import_module(sys.argv[1])
found = {"module": [name for name in dir(module) if not name.startswith("_")]}
def look(owner, prefix):
    for name, one in vars(owner).items():
        if inspect.isclass(one) and not name.startswith("_"):
            members = getattr(one, "__members__", None) or [member for member in dir(one) if not member.startswith("_")]
            found[prefix + name] = list(members)
            if owner is module:
                look(one, name + ".")
look(module, "")
print(json.dumps({key: sorted(names) for key, names in sorted(found.items())}))
"""


def read_names(wheel: Path) -> tuple[str, dict[str, list[str]]]:
    """The version of a wheel of bindings, and its names by class; those of the module itself by ``module``."""
    named = _WHEEL.match(wheel.name)
    if named is None:
        raise ValueError(f"{wheel.name} is not named as a wheel of TensorRT's bindings")
    python = f"python{named['python'][0]}.{named['python'][1:]}"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with zipfile.ZipFile(wheel) as archive:
            (inside,) = (name for name in archive.namelist() if re.fullmatch(r".*/tensorrt\.so", name))
            binding = Path(archive.extract(inside, folder))
        write_empty_libraries(binding, folder)
        names = read(python, str(binding), temporary)
    return ".".join(named["version"].split(".")[:2]), names


def read_package(package: str) -> tuple[str, dict[str, list[str]]]:
    """The same of a package that is installed, such as TensorRT-RTX's."""
    version = ".".join(importlib.import_module(package).__version__.split(".")[:2])
    return f"RTX {version}" if "rtx" in package else version, read(sys.executable, package)


def read(python: str, binding: str, libraries: str = "") -> dict[str, list[str]]:
    """The names of a file or a package, as a Python imports it."""
    environment = {**os.environ, **({"LD_LIBRARY_PATH": libraries} if libraries else {})}
    command = [python, "-c", _READ, binding]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{binding} cannot be imported by {python}: {done.stderr[-500:]}")
    names: dict[str, list[str]] = json.loads(done.stdout)
    return names


def write_empty_libraries(binding: Path, folder: Path) -> None:
    """Libraries of the names that a binding links to, with the functions that it looks up there."""
    dynamic = _output("readelf", "-d", str(binding))
    wanted = re.findall(r"Shared library: \[(lib(?:nv|cu)\w+\.so\.\d+)\]", dynamic)
    missing = [line.split()[-1] for line in _output("nm", "-D", "--undefined-only", str(binding)).splitlines()]
    functions = [
        name for name in missing if re.match(r"((create|get|init)(Nv|Infer|Builder|Plugin|Lib)|_ZN\d+nv)", name)
    ]
    source = folder / "empty.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in functions), encoding="utf-8")
    for name in wanted:
        _output("gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name), str(source))


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(f"usage: {Path(sys.argv[0]).name} WHEEL|PACKAGE...")
    known = dict(read_names(Path(one)) if one.endswith(".whl") else read_package(one) for one in sys.argv[1:])
    ordered = dict(sorted(known.items(), key=lambda one: [int(part) for part in re.findall(r"\d+", one[0])]))
    lines = (
        f"{json.dumps(version)}: {{\n"
        + ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in names.items())
        + "\n}"
        for version, names in ordered.items()
    )
    NAMES.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(f"{NAMES.name}: {', '.join(ordered)}")


if __name__ == "__main__":
    main()
