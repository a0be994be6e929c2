"""Patches: what models write, understood, and applied where it fits and nowhere else."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabd.tools.files.patch import FilePatch, Hunk, PatchProblem, apply, parse
from crabd.tools.files.text import Text, compare, decode

WHOLE = """\
*** Begin Patch
*** Update File: src/main.py
@@ class A:
@@     def f(self):
         before
-        old
+        new
         after
@@
-x
+y
*** End of File
*** Update File: src/old.py
*** Move to: src/new.py
-a
+b
*** Add File: a b.txt
+one
+
+two
*** Delete File: gone
*** End Patch"""


def patched(body: str, patch: str) -> str:
    (file,) = parse(f"*** Begin Patch\n*** Update File: f\n{patch}\n*** End Patch")
    return apply(decode(body.encode()), file.hunks, "f").encode().decode()


def test_every_section_is_understood() -> None:
    found = parse(WHOLE)

    first = ("         before", "-        old", "+        new", "         after")
    assert found == (
        FilePatch(
            "update",
            "src/main.py",
            (Hunk(first, ("class A:", "def f(self):")), Hunk(("-x", "+y"), is_at_end=True)),
        ),
        FilePatch("update", "src/old.py", (Hunk(("-a", "+b")),), move_to="src/new.py"),
        FilePatch("add", "a b.txt", text="one\n\ntwo\n"),
        FilePatch("delete", "gone"),
    )


def test_what_is_around_a_patch_is_not_of_it() -> None:
    wrapped = f"apply_patch <<'EOF'\n{WHOLE}\nEOF\n"

    assert parse(wrapped) == parse(WHOLE) == parse(WHOLE.replace("\n", "\r\n"))


@pytest.mark.parametrize(
    ("patch", "problem"),
    [
        ("", "this is no patch"),
        ("hello", "this is no patch"),
        ("*** Begin Patch\n*** Delete File: a", "has no end"),
        ("*** Begin Patch\n*** End Patch", "names no file"),
        ("*** Begin Patch\n-a\n+b\n*** End Patch", "starts with no file"),
        ("*** Begin Patch\n*** Update File: a\n*** End Patch", "nothing is changed in a"),
        ("*** Begin Patch\n*** Update File: a\n@@\n x\n*** End Patch", "changes nothing"),
        ("*** Begin Patch\n*** Update File: a\nx\n*** End Patch", "'x' does not"),
        ("*** Begin Patch\n*** Add File: a\nx\n*** End Patch", "'x' does not"),
        ("*** Begin Patch\n*** Delete File: a\n-x\n*** End Patch", "no lines may follow"),
    ],
)
def test_what_cannot_be_read_is_told(patch: str, problem: str) -> None:
    with pytest.raises(PatchProblem) as told:
        parse(patch)

    assert problem in str(told.value)


def test_lines_are_replaced_where_they_are() -> None:
    assert patched("a\nb\nc\n", "@@\n a\n-b\n+B\n+BB\n c") == "a\nB\nBB\nc\n"


def test_several_hunks_follow_each_other() -> None:
    body = "".join(f"{n}\n" for n in range(10))

    made = patched(body, "@@\n-1\n+one\n@@\n-8\n+eight\n 9")

    assert made == body.replace("1\n", "one\n").replace("8\n", "eight\n")


def test_an_anchor_says_which_of_the_same_lines_is_meant() -> None:
    body = "def f():\n    return 1\n\ndef g():\n    return 1\n"

    assert patched(body, "@@ def g():\n-    return 1\n+    return 2") == body[:-2] + "2\n"
    assert patched(body, "@@ def g():\n def g():\n-    return 1\n+    return 2") == body[:-2] + "2\n"


def test_the_same_lines_in_several_places_change_nothing() -> None:
    with pytest.raises(PatchProblem, match="hunk 1 of f fits in several places, lines 1, 3"):
        patched("a\nb\na\nc\n", "@@\n-a\n+A")


@pytest.mark.parametrize(
    "patch", ["@@\n-x\n+y", "@@ nowhere\n-a\n+b", "@@\n-b\n+B\n@@\n-a\n+A", "@@\n a\n c\n-d"]
)
def test_lines_that_are_not_there_change_nothing(patch: str) -> None:
    with pytest.raises(PatchProblem, match="fits nowhere"):
        patched("a\nb\nc\n", patch)


def test_the_end_of_the_file_says_which_of_the_same_lines_is_meant() -> None:
    assert patched("a\nb\na\n", "@@\n-a\n+A\n*** End of File") == "a\nb\nA\n"


def test_what_is_only_added_goes_behind_its_anchor_or_to_the_end() -> None:
    assert patched("a\nb\n", "@@\n+c") == "a\nb\nc\n"
    assert patched("a\nb\n", "@@ a\n+c") == "a\nc\nb\n"
    assert patched("a\nb", "@@\n+c") == "a\nb\nc\n"
    assert patched("", "@@\n+c") == "c\n"


def test_blanks_at_ends_of_lines_may_be_wrong_and_stay_what_they_are() -> None:
    assert patched("a  \nb\t\nc\n", "@@\n a\n-b\n+B\n c") == "a  \nB\nc\n"


def test_a_line_to_the_letter_comes_before_one_with_other_blanks() -> None:
    assert patched("a \na\n", "@@\n-a\n+A") == "a \nA\n"


def test_an_empty_line_of_context_may_have_lost_its_blank() -> None:
    assert patched("a\n\nb\n", "@@\n a\n\n-b\n+B") == "a\n\nB\n"


def test_ends_of_lines_and_a_byte_order_mark_stay() -> None:
    assert patched("\ufeffa\r\nb\r\nc", "@@\n-b\n+B\n+BB") == "\ufeffa\r\nB\r\nBB\r\nc"
    assert patched("a\r\nb\nc\r\n", "@@\n a\n-b\n+B") == "a\r\nB\r\nc\r\n"


def test_bytes_that_are_no_utf_8_stay() -> None:
    (file,) = parse("*** Begin Patch\n*** Update File: f\n@@\n-b\n+B\n*** End Patch")

    assert apply(decode(b"caf\xe9\nb\n"), file.hunks, "f").encode() == b"caf\xe9\nB\n"


def test_a_unified_diff_is_a_patch_too() -> None:
    found = parse(
        "diff --git a/x b/x\nindex 1..2 100644\n--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@ def f():\n a\n-b\n+B\n"
        "--- /dev/null\n+++ b/new\n@@ -0,0 +1,1 @@\n+hello\n--- a/old\n+++ /dev/null\n@@ -1 +0,0 @@\n-bye\n"
        "--- p/q\t2020-01-01\n+++ p/r\t2020-01-01\n@@ -1 +1 @@\n-a\n+b\n\\ No newline at end of file\n"
    )

    assert found == (
        FilePatch("update", "x", (Hunk((" a", "-b", "+B"), line=1),)),
        FilePatch("add", "new", text="hello\n"),
        FilePatch("delete", "old"),
        FilePatch("update", "p/q", (Hunk(("-a", "+b"), line=1),), move_to="p/r"),
    )


def test_a_unified_diff_says_which_of_the_same_lines_is_meant() -> None:
    (file,) = parse("--- a/x\n+++ b/x\n@@ -5,1 +5,1 @@\n-a\n+A\n")

    assert apply(Text("a\nb\na\nb\na\nb\na\n"), file.hunks, "x").body == "a\nb\na\nb\nA\nb\na\n"


def test_text_that_looks_like_a_patch_is_text() -> None:
    made = patched("*** End Patch\nb\n", "@@\n *** End Patch\n-b\n+*** Update File: x\n+--- a")

    assert made == "*** End Patch\n*** Update File: x\n--- a\n"


LINES = st.lists(st.sampled_from(["a", "b", "", " a", "c\t"]), max_size=30)


@given(LINES, LINES)
def test_the_diff_of_two_texts_makes_one_into_the_other(old: list[str], new: list[str]) -> None:
    before, after = ("".join(f"{line}\n" for line in lines) for lines in (old, new))
    diff = compare("f", before.encode(), after.encode())

    made = apply(decode(before.encode()), parse(diff)[0].hunks, "f").body if diff else before

    assert made == after


@given(st.text(alphabet="*+- @ab\n", max_size=200))
def test_any_text_is_a_patch_or_told_why_not(text: str) -> None:
    with suppress(PatchProblem):
        parse(f"*** Begin Patch\n*** Update File: f\n{text}\n*** End Patch")


def test_a_large_patch_of_a_large_file_is_applied_soon() -> None:
    body = "".join(f"line {n}\n" for n in range(100_000))
    hunks = "".join(f"@@\n line {n}\n-line {n + 1}\n+new\n" for n in range(0, 100_000, 2000))

    assert patched(body, hunks.rstrip("\n")).count("new\n") == 50


def test_a_diff_of_two_unlike_large_files_is_made_soon_and_bounded() -> None:
    before = "".join(f"{n % 7} {n}\n" for n in range(100_000)).encode()
    after = "".join(f"{n % 5} {n}\n" for n in range(100_000)).encode()

    diff = compare("f", before, after)

    assert diff.count("\n") < 410
    assert "more lines of this diff are left out" in diff


def test_a_diff_of_bytes_says_only_that_they_differ() -> None:
    assert compare("f", b"a\0b", b"a\0c").endswith("@@ the bytes of a binary file differ @@\n")
    assert compare("f", b"a", b"a") == ""
    assert (
        compare("f", None, b"")
        == "--- /dev/null\n+++ f\n@@ the file is empty, or only its byte order mark differs @@\n"
    )
