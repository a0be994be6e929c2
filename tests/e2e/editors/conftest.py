"""Have the checks that all visits share explain what differs."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests.e2e.editors.visiting")
