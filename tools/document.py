"""Write docs/settings.md from the settings in code, or compare it with `--check`."""

from __future__ import annotations

import sys
from pathlib import Path

from gatehouse.app.services import settings_model
from gatehouse.settings import describe_settings

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"
HEAD = """# Settings

Generated from the settings in code by `make docs`. `gatehouse config --describe` prints the same table,
`gatehouse config` the current values, `gatehouse config --sources` the origin of each.
[operations.md](operations.md#settings) says how to set them.

Defaults are JSON. `GATEHOUSE_ISSUERS` is a JSON list of objects with the keys below, such as

```sh
export GATEHOUSE_ISSUERS='[{"issuer": "https://id.example.com", "audience": "my-api", "mode": "jwt"}]'
```

| setting | default | meaning |
|---|---|---|
"""


def page() -> str:
    """Return the page."""
    rows = (
        f"| `{name}` | {f'`{default}`' if default else 'required'} | {meaning} |"
        for name, default, meaning in describe_settings(settings_model())
    )
    return HEAD + "\n".join(rows) + "\n"


def main() -> int:
    """Write the page; with `--check` only report whether it is up to date."""
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page())
        return 0
    if PAGE.exists() and PAGE.read_text() == page():
        return 0
    print("docs/settings.md: out of date; run `make docs`")
    return 1


if __name__ == "__main__":
    sys.exit(main())
