"""Takes the picture of the page that `splite-deploy bench --html` writes.

    python docs/tools/picture_report.py --out docs/pictures/report.png
    python docs/tools/picture_report.py --out report.png --bundle hand.splite --width 360 --dark

It measures the bundle of a hand network that the package brings along, whose golden crops are rendered: no data set is
shown. Figures are those of the machine that takes the picture.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from take_pictures import ROOT, shoot

BUNDLE = ROOT / "splite_deploy" / "demo" / "hand.splite"
DARK = "@media (prefers-color-scheme: dark)"


def make_page(bundle: Path, page: Path, fps: float, frames: int) -> None:
    """Times a bundle on one thread, as a user does."""
    line = ["bench", bundle, "--threads", 1, "--fps", fps, "--frames", frames, "--html", page]
    subprocess.run([sys.executable, "-m", "splite_deploy", *map(str, line)], cwd=ROOT, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.png")
    parser.add_argument("--bundle", type=Path, default=BUNDLE, help="(default: that of the package)")
    parser.add_argument("--fps", type=float, default=30.0, help="frames per second, as a budget (default: 30)")
    parser.add_argument("--frames", type=int, default=600, help="timed frames of each artifact (default: 600)")
    parser.add_argument("--width", type=int, default=1280, metavar="PX", help="(default: 1280)")
    parser.add_argument("--height", type=int, default=1180, metavar="PX", help="(default: 1180)")
    parser.add_argument("--dark", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        page = Path(name) / "report.html"
        make_page(options.bundle.resolve(), page, options.fps, options.frames)
        if options.dark:
            text = page.read_text(encoding="utf-8")
            page.write_text(text.replace(DARK, "@media all"), encoding="utf-8")
        shoot(page.as_uri(), options.out.resolve(), options.width, options.height)


if __name__ == "__main__":
    main()
