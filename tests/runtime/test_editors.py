"""Which editor is asked for the files of a session."""

from __future__ import annotations

from crabd.runtime.editors import Editors
from tests.tools.files.editor import OpenEditor


def test_the_editor_that_came_last_counts_until_it_goes() -> None:
    editors, first, second = Editors(), OpenEditor(), OpenEditor()
    found = [editors.find("a")]

    editors.attach("a", first)
    editors.attach("a", second)
    found.append(editors.find("a"))
    editors.attach("a", first)
    found.append(editors.find("a"))
    editors.detach("a", first)
    found.append(editors.find("a"))
    editors.detach("a", second)
    editors.detach("a", second)
    found.append(editors.find("a"))

    assert found == [None, second, first, second, None]
    assert editors.find("b") is None
