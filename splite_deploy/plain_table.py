"""Tables whose texts are shown as they are, whoever made them."""

from __future__ import annotations

from typing import Any

import rich.table
from rich.console import RenderableType
from rich.text import Text

from splite_deploy.text import shown


class Table(rich.table.Table):
    """A table of rich that follows no markup in its texts and sends no control character of theirs.

    What shall look different is given as rich's `Text`, see `plain`.
    """

    def __init__(
        self, *headers: Any, title: RenderableType | None = None, caption: RenderableType | None = None, **options: Any
    ) -> None:
        title, caption = plain(title, "table.title"), plain(caption, "table.caption")
        super().__init__(*headers, title=title, caption=caption, **options)  # type: ignore[arg-type]  # rich's is narrow

    def add_column(self, header: RenderableType = "", *rest: Any, **options: Any) -> None:
        """Adds a column, as rich's table does."""
        super().add_column(plain(header), *rest, **options)

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """Adds a row, as rich's table does."""
        super().add_row(*map(plain, cells), **options)


def plain(value: Any, style: str = "") -> Any:
    """A text as it is to be shown, in rich's style; anything else as it is."""
    return Text(shown(value, lines=True), style) if isinstance(value, str) else value
