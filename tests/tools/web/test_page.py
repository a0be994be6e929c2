"""Pages as a reader gets them."""

from __future__ import annotations

import pytest

from crabd.tools.web.page import LEAST_MAIN, read

HERE = "https://example.org/docs/"


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>one\n  two</p><p>three<br>four", "one two\n\nthree\nfour"),
        ("<title> A\n title</title><h2>A <em>part</em></h2>text", "Title: A title\n\n## A part\n\ntext"),
        ("see <a href='/x?a=1&amp;b=2'>this page</a>.", "see [this page](https://example.org/x?a=1&b=2)."),
        ("<a href='#top'>up</a> <a href='javascript:x()'>run</a> <a href='http://['>odd</a>", "up run odd"),
        ("<ul><li>a<li>b<ul><li>c</ul></li></ul><ol><li>d<li>e</ol>", "- a\n- b\n  - c\n\n1. d\n2. e"),
        (
            "use <code>x = 1</code>:<pre>if x:\n    y()</pre>so",
            "use `x = 1`:\n\n```\nif x:\n    y()\n```\n\nso",
        ),
        ("<table><tr><th>a<th>b<tr><td>1</td><td>2</td></table>", "| a | b\n| 1 | 2"),
        ("a <img src=x alt='a crab'> runs<img src=y>", "a [image: a crab] runs"),
        ("<head><style>x{}</style></head><body>a<script>alert('b')</script><svg>c</svg>d", "ad"),
        ("<nav>menu</nav><p>text</p><footer>small print</footer>", "text"),
        ("<nav>only a menu", "only a menu"),
        ("<header>h</header><main>short</main>rest", "h\n\nshort\n\nrest"),
        (f"<header>h</header><main>{'x' * LEAST_MAIN}</main>rest", "x" * LEAST_MAIN),
        ("1 &lt; 2 &amp; 3 < 4 </p></b> &#x41;", "1 < 2 & 3 < 4\n\nA"),
        ("", ""),
    ],
)
def test_a_page_is_read_as_text(page: str, text: str) -> None:
    assert read(page, HERE) == text
