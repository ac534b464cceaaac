"""Writes docs/settings.md from the settings in code: `document.py`, `document.py --check`."""

from __future__ import annotations

import sys
from pathlib import Path

from gatehouse.app.services import settings_model
from gatehouse.settings import describe_settings

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"
HEAD = """# Settings

Generated from the settings in code by `make docs`. `gatehouse config --describe` prints the same,
`gatehouse config` the values in force, `gatehouse config --sources` where each comes from. How they are read:
[operations.md](operations.md#settings).

Defaults are JSON. `GATEHOUSE_ISSUERS` is a JSON list of objects with the members below, such as

```sh
export GATEHOUSE_ISSUERS='[{"issuer": "https://id.example.com", "audience": "my-api", "mode": "jwt"}]'
```

| setting | default | meaning |
|---|---|---|
"""


def page() -> str:
    """Makes the page."""
    rows = (
        f"| `{name}` | {f'`{default}`' if default else 'required'} | {meaning} |"
        for name, default, meaning in describe_settings(settings_model())
    )
    return HEAD + "\n".join(rows) + "\n"


def main() -> int:
    """Writes the page, or says with `--check` whether it is as it should be."""
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page())
        return 0
    if PAGE.exists() and PAGE.read_text() == page():
        return 0
    print("docs/settings.md: not what the settings in code make; run `make docs`")
    return 1


if __name__ == "__main__":
    sys.exit(main())
