"""Ends with one line when this Python is too old for Gatehouse."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - an older Python runs this line to learn that it is too old
    sys.exit(
        "Gatehouse needs Python 3.11 or later, this is "
        + sys.version.split()[0]
        + "; name another one: make demo PYTHON=python3.13"
    )
