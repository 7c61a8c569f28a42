"""Takes pictures of the README's head and of the site's pages, to look at them.

    make docs
    python docs/tools/take_pictures.py build/site --out build/pictures
    python docs/tools/take_pictures.py build/site --out docs/pictures --widths 1280 --committed

Headless Chromium shows README.md about as a code host does, and the site's pages, at three widths: a phone, a tablet, a
desktop. `--committed` takes the two of the repository alone: `readme.png` and `start.png`.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WIDTHS_PX = (390, 820, 1280)
HEIGHTS_PX = {390: 844, 820: 1180, 1280: 800}
PAGES = ("index", "get-started", "int8", "troubleshooting", "reference/runtime", "commands")
BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")
STYLE = """
body { max-width: 980px; margin: 0 auto; padding: 32px; color: #1f2328; background: #fff; line-height: 1.5;
  font: 16px/1.5 -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, "DejaVu Sans", sans-serif }
h1, h2 { border-bottom: 1px solid #d1d9e0; padding-bottom: .3em } a { color: #0969da } img { max-width: 100% }
pre { background: #f6f8fa; padding: 16px; border-radius: 6px; overflow: auto } code { font-size: 85% }
:not(pre) > code { background: #eff1f3; padding: .2em .4em; border-radius: 6px }
table { border-collapse: collapse; display: block; width: max-content; max-width: 100%; overflow: auto }
td, th { border: 1px solid #d1d9e0; padding: 6px 13px }
"""


def browser() -> str:
    """Chromium without a window, as it is called here.

    Raises:
        SystemExit: There is none.
    """
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    return found or sys.exit("error: no Chromium was found.\nhint:  apt install chromium-headless-shell")


def shoot(page: str, picture: Path, width_px: int, height_px: int) -> None:
    """Takes the top of a page."""
    picture.parent.mkdir(parents=True, exist_ok=True)
    line = [
        browser(), "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--allow-file-access-from-files",
        "--virtual-time-budget=4000", f"--window-size={width_px},{height_px}", f"--screenshot={picture}", page,
    ]  # fmt: skip
    subprocess.run(line, check=True, capture_output=True, timeout=120)
    print(picture)


def readme(folder: Path) -> Path:
    """README.md as a page, in the repository's folder as far as its pictures are concerned."""
    import markdown

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    body = markdown.markdown(text, extensions=["tables", "fenced_code", "sane_lists"])
    page = folder / "readme.html"
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><base href="{ROOT.as_uri()}/">'
    page.write_text(
        f"<!doctype html><html><head>{head}<style>{STYLE}</style></head><body>{body}</body></html>", "utf-8"
    )
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path, metavar="SITE", help="what 'make docs' made")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS_PX, metavar="PX")
    parser.add_argument("--committed", action="store_true", help="README's head and the start page alone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        page = readme(Path(name))
        for width in options.widths:
            height, mark = HEIGHTS_PX.get(width, 900), "" if options.committed else f"-{width}"
            shoot(page.as_uri(), options.out / f"readme{mark}.png", width, height)
            for site in ("index",) if options.committed else PAGES:
                address = (options.site.resolve() / f"{site}.html").as_uri()
                called = "start" if site == "index" else site.replace("/", "-")
                shoot(address, options.out / f"{called}{mark}.png", width, height)


if __name__ == "__main__":
    main()
