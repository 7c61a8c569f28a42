"""Lists the addresses outside of the site that its pages link to; with --check it asks for each.

    python docs/tools/links.py
    python docs/tools/links.py --check      needs a network; exit status 1 where one is gone

Links within the site are checked by its build.
"""

from __future__ import annotations

import argparse
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))
from hooks import OUTSIDE, prose

ADDRESS = re.compile(r"\]\((https?://[^)\s]+)\)")
GONE = (404, 410)
PATIENCE_S = 20.0


def addresses() -> dict[str, list[str]]:
    """The pages that link to each address."""
    pages = sorted((ROOT / "docs").rglob("*.md")) + [ROOT / path for path in OUTSIDE.values() if path.endswith(".md")]
    found: dict[str, list[str]] = {}
    for page in pages:
        for line in prose(page.read_text(encoding="utf-8")):
            for address in ADDRESS.findall(line):
                found.setdefault(address, []).append(page.relative_to(ROOT).as_posix())
    return dict(sorted(found.items()))


def answer(address: str) -> str:
    """What is wrong with an address; empty where it answers, even by refusing programs."""
    request = urllib.request.Request(address, headers={"User-Agent": "Mozilla/5.0"})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S):
            return ""
    except urllib.error.HTTPError as err:
        return f"{err.code}" if err.code in GONE else ""
    except OSError as err:
        return f"no answer: {err}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="ask for each address")
    options = parser.parse_args()
    wrong = 0
    for address, pages in addresses().items():
        problem = answer(address) if options.check else ""
        wrong += bool(problem)
        print(f"{address}  ({', '.join(dict.fromkeys(pages))}){'  ' + problem if problem else ''}")
    sys.exit(int(wrong > 0))


if __name__ == "__main__":
    main()
