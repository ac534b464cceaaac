"""Exit with an error if this Python is too old for Gatehouse."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - this line is for an older Python
    sys.exit(
        "Gatehouse needs Python 3.11 or later, but this is "
        + sys.version.split()[0]
        + "; choose another one with: make demo PYTHON=python3.13"
    )
