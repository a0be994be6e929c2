"""What crabctl can do. Each module holds related commands and is imported only when one of them is called.

A command takes its arguments and returns its exit code; what it raises is told to the person in one place,
``crabctl/__main__.py``.
"""
