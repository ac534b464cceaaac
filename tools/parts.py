"""What a fork can leave out: services, and larger parts with their tests, targets and pages."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.check_links import anchors

# A link of a page, and an entry of mkdocs.yml.
_LINK = re.compile(
    r"\[(?P<text>[^\]]*)\]\((?![a-z]+:)(?P<target>[^)\s]+)\)|(?P<entry>(?<=: )(docs|benchmarks)/\S+\.md$)",
    re.MULTILINE,
)
# Always left out: what is about this project and not about what is made from it.
FORK = "fork"


@dataclass(frozen=True, slots=True)
class Part:
    """Something that can be left out.

    Attributes:
        paths: Its files and folders. See `without_part` for the rest.
        changes: Lines that differ without it: a file, a text in it, and its replacement.
        needed_by: Services that do not work without it.
    """

    paths: Sequence[str] = ()
    changes: Sequence[tuple[str, str, str]] = ()
    needed_by: Sequence[str] = ()


PARTS: Mapping[str, Part] = {
    # Without it, tokens are verified by their signature only: mode `jwt`.
    "introspection": Part(
        changes=(
            ("services/gatehouse_testbed/stack.py", '_MODE = "hybrid"', '_MODE = "jwt"'),
            ("docker-compose.yml", '"mode": "hybrid"', '"mode": "jwt"'),
        ),
        needed_by=("admin",),
    ),
    "admin": Part(("docs/roles.md",)),
    FORK: Part(("tools/fork", "tests/fork")),
}


def remove_service(root: Path, name: str) -> None:
    """Remove a service: its folders, its entry in the list of services, its container, and its pages."""
    (proto,) = (root / "protos/gatehouse" / name).rglob("*.proto")
    (proto_service,) = re.findall(r"^service (\w+)", proto.read_text(), re.MULTILINE)
    for folder in ("services/gatehouse", "protos/gatehouse", "migrations", "tests"):
        shutil.rmtree(root / folder / name, ignore_errors=True)
    for file in (root / "deploy/kubernetes").rglob(f"{name}.*"):
        file.unlink()
    _edit(root / "services/gatehouse/app/packages.py", rf'^    "gatehouse\.{name}",\n')
    compose = root / "docker-compose.yml"
    block = re.search(rf"^  {name}:\n(?:(?:    .*)?\n)*?(?=\n?  \S)", compose.read_text(), re.MULTILINE)
    if block is None:
        raise ValueError(f"docker-compose.yml: no block for {name}")
    port = re.search(r'user: "10001:(\d+)"', block[0])
    compose.write_text(compose.read_text().replace(block[0], "").replace("\n\n\n", "\n\n"))
    if port:
        _edit(compose, rf'^      - "[^"]*:{port[1]}"\n')
    remove_part(root, name, proto_service)
    _remove_unused_scopes(root)


def _remove_unused_scopes(root: Path) -> None:
    """Remove scopes such as `manage:roles` from the realm file that no access rule requires any longer."""
    rules = "".join(path.read_text() for path in (root / "protos").rglob("*.proto"))
    (file,) = (root / "keycloak").glob("*-realm.json")
    realm = json.loads(file.read_text())
    names = [scope["name"] for scope in realm["clientScopes"] if ":" in scope["name"]]
    unused = {name for name in names if f'"{name}"' not in rules}
    realm["clientScopes"] = [scope for scope in realm["clientScopes"] if scope["name"] not in unused]
    realm["scopeMappings"] = [
        mapping for mapping in realm["scopeMappings"] if mapping.get("clientScope") not in unused
    ]
    for client in realm["clients"]:
        for key in ("defaultClientScopes", "optionalClientScopes"):
            client[key] = [scope for scope in client[key] if scope not in unused]
    file.write_text(json.dumps(realm, indent=2, ensure_ascii=False) + "\n")


def remove_part(root: Path, name: str, proto_service: str = "") -> None:
    """Remove the files of a part, its sections of other files, and links to both."""
    part = PARTS.get(name, Part())
    for path in part.paths:
        if (root / path).is_dir():
            shutil.rmtree(root / path)
        else:
            (root / path).unlink(missing_ok=True)
    for path, old, new in part.changes:
        text = (root / path).read_text()
        if old not in text:
            raise ValueError(f"{path}: {old} is missing")
        (root / path).write_text(text.replace(old, new))
    _remove_sections(root, name)
    _clean_pages(root, name, proto_service)


def without_part(text: str, name: str) -> str | None:
    """Return a text without what stands between `<part NAME>` and `</part NAME>`, with these lines.

    The result is None for a file with `<part NAME/>`, which belongs to the part as a whole.
    """
    if f"<part {name}/>" in text:
        return None
    return re.sub(rf"^.*<part {name}>.*\n(?:.*\n)*?.*</part {name}>.*\n", "", text, flags=re.MULTILINE)


def _remove_sections(root: Path, name: str) -> None:
    for path in text_files(root):
        text = path.read_text()
        rest = without_part(text, name)
        if rest is None:
            path.unlink()
        elif rest != text:
            path.write_text(rest)


def _clean_pages(root: Path, name: str, proto_service: str) -> None:
    """Remove rows, items and diagram lines about what was removed, and unlink the rest of the text.

    Args:
        root: The repository.
        name: The part, such as `admin`.
        proto_service: Its service in the proto, such as `AdminService`; "" if it is no service.
    """
    pages = [page for page in root.rglob("*.md") if page.name != "CHANGELOG.md" and ".venv" not in page.parts]
    for page in [*pages, root / "mkdocs.yml"]:
        lines: list[str] = []
        fence, is_dropped = "", False
        for line in page.read_text().splitlines(keepends=True):
            if line.startswith("```"):
                fence = "" if fence else line.strip("`\n")
            is_dropped = is_dropped and line.startswith("  ")  # the rest of an item
            links = _LINK.finditer(line)
            broken = [link for link in links if _is_broken(page, link["target"] or link["entry"])]
            if line.lstrip().startswith(("|", "- ")) and not fence:
                is_about_it = bool(proto_service) and proto_service in line
                is_dropped = bool(broken) or is_about_it or _names_missing_test(root, line)
            if is_dropped or (fence == "mermaid" and re.search(rf"\b{name}\b", line)):
                continue
            for link in reversed(broken):
                line = line[: link.start()] + (link["text"] or "") + line[link.end() :]  # noqa: PLW2901
            lines.append(line)
        page.write_text("".join(lines))


def _is_broken(page: Path, target: str) -> bool:
    name, _, anchor = target.partition("#")
    path = (page.parent / name) if name else page
    if not path.exists():
        return True
    return path.suffix == ".md" and bool(anchor) and anchor not in anchors(path.read_text())


def _names_missing_test(root: Path, line: str) -> bool:
    """Return whether a row of docs/security.md names a test that was removed."""
    found = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", line)
    return any(not (root / file).exists() or test not in (root / file).read_text() for file, test in found)


def text_files(root: Path) -> list[Path]:
    """Return all files that are UTF-8 text."""
    found = []
    for path in sorted(root.rglob("*")):
        is_own = not {".git", ".venv"} & set(path.relative_to(root).parts)
        if is_own and path.is_file() and not path.is_symlink():
            try:
                path.read_text()
            except UnicodeDecodeError:
                continue
            found.append(path)
    return found


def _edit(path: Path, pattern: str) -> None:
    text, count = re.subn(pattern, "", path.read_text(), flags=re.MULTILINE)
    if count != 1:
        raise ValueError(f"{path.name}: {pattern} matches {count} times")
    path.write_text(text)
