"""Tables that are seen however pytest is called."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.bench.measure import Report


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Report:
    """Print a title, a head and rows to the terminal."""

    def show(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        table = [tuple(map(str, row)) for row in (head, *rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        with capsys.disabled():
            print(f"\n\n{title}")
            for row in table:
                print(
                    "  "
                    + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
                )

    return show
