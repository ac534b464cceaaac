"""What a fork can leave out: services, and larger parts with their tests, targets and pages."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.check_links import anchors

# A link of a page, and an entry of mkdocs.yml.
_LINK = re.compile(
    r"\[(?P<text>[^\]]*)\]\((?![a-z]+:)(?P<target>[^)\s]+)\)|(?P<entry>(?<=: )(docs|benchmarks)/\S+\.md$)",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Part:
    """Something that can be left out; the attributes are explained in parts.toml."""

    paths: Sequence[str] = ()
    changes: Sequence[tuple[str, str, str]] = ()
    words: Sequence[str] = ()
    clients: Sequence[str] = ()
    needed_by: Sequence[str] = ()


PARTS: Mapping[str, Part] = {
    name: Part(**part)
    for name, part in tomllib.loads(Path(__file__).with_suffix(".toml").read_text()).items()
}
# What cannot be left out, with the reason.
KEPT = {"testbed": "`make demo` and nearly all tests run on the test bed"}


def problem_of_part(name: str, without: Collection[str], services: Collection[str]) -> str:
    """Return why a part cannot be left out, "" if it can.

    Args:
        name: A service or another part.
        without: Everything that is left out.
        services: Names of the services.
    """
    if name in KEPT:
        return f"cannot be left out, because {KEPT[name]}"
    known = [*services, *(part for part in PARTS if part not in services)]
    if name not in known:
        return f"unknown; use some of {', '.join(known)}"
    needing = (set(PARTS[name].needed_by) & set(services)) - set(without) if name in PARTS else set()
    return f"{min(needing)} needs it; leave that out, too" if needing else ""


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
    remove_part(root, name, [proto_service, f"| `{name}` |"], is_service=True)
    _remove_from_lists(root, name)
    _clean_realm(root, PARTS.get(name, Part()).clients)


def _remove_from_lists(root: Path, name: str) -> None:
    """Remove a service from lists of names in pages, such as the first column of a table."""
    for page in _pages(root):
        page.write_text(re.sub(rf"(?<=`), `{name}`|`{name}`, (?=`)", "", page.read_text()))


def _pages(root: Path) -> list[Path]:
    return [page for page in root.rglob("*.md") if ".venv" not in page.parts]


def _clean_realm(root: Path, clients: Sequence[str]) -> None:
    """Remove clients from the realm file, and scopes such as `manage:roles` that no rule requires any longer.

    Args:
        root: The repository.
        clients: Their ids.
    """
    rules = "".join(path.read_text() for path in (root / "protos").rglob("*.proto"))
    (file,) = (root / "keycloak").glob("*-realm.json")
    realm = json.loads(file.read_text())
    names = [scope["name"] for scope in realm["clientScopes"] if ":" in scope["name"]]
    unused = {name for name in names if f'"{name}"' not in rules}
    realm["clientScopes"] = [scope for scope in realm["clientScopes"] if scope["name"] not in unused]
    realm["scopeMappings"] = [
        mapping for mapping in realm["scopeMappings"] if mapping.get("clientScope") not in unused
    ]
    by_client = {
        client: [mapping for mapping in mappings if mapping["client"] not in clients]
        for client, mappings in realm["clientScopeMappings"].items()
    }
    realm["clientScopeMappings"] = {client: mappings for client, mappings in by_client.items() if mappings}
    realm["clients"] = [client for client in realm["clients"] if client["clientId"] not in clients]
    realm["users"] = [user for user in realm["users"] if user.get("serviceAccountClientId") not in clients]
    for client in realm["clients"]:
        for key in ("defaultClientScopes", "optionalClientScopes"):
            client[key] = [scope for scope in client[key] if scope not in unused]
    file.write_text(json.dumps(realm, indent=2, ensure_ascii=False) + "\n")


def remove_part(root: Path, name: str, words: Sequence[str] = (), *, is_service: bool = False) -> None:
    """Remove the files of a part, its sections of other files, links to both, and what pages say about it.

    Args:
        root: The repository.
        name: The part, such as `admin`.
        words: Further words of the part, see parts.toml.
        is_service: Whether lines of diagrams with its name are about it.
    """
    part = PARTS.get(name, Part())
    for path in part.paths:
        if (root / path).is_dir():
            shutil.rmtree(root / path)
        else:
            (root / path).unlink(missing_ok=True)
    for path, old, new in part.changes:
        if not (root / path).exists():  # it was removed with another part
            continue
        text = (root / path).read_text()
        if old not in text:
            raise ValueError(f"{path}: {old} is missing")
        (root / path).write_text(text.replace(old, new))
    _remove_sections(root, name)
    _clean_pages(root, [*words, *part.words], name if is_service else None)


def without_part(text: str, name: str) -> str | None:
    """Return a text without what stands between `<part NAME>` and `</part NAME>`, with these lines.

    The result is None for a file with `<part NAME/>`, which belongs to the part as a whole.
    """
    if f"<part {name}/>" in text:
        return None
    section = rf"^.*<part {name}>.*\n(?:.*\n)*?.*</part {name}>.*\n"
    # Of two empty lines around a section, one remains.
    return re.sub(
        rf"((?<=\n)\n)?{section}(\n)?", lambda found: found[1] or found[2] or "", text, flags=re.MULTILINE
    )


def _remove_sections(root: Path, name: str) -> None:
    for path in text_files(root):
        text = path.read_text()
        rest = without_part(text, name)
        if rest is None:
            path.unlink()
        elif rest != text:
            path.write_text(rest)


def _clean_pages(root: Path, words: Sequence[str], service: str | None) -> None:
    """Remove rows, items and diagram lines about what was removed, and unlink the rest of the text."""
    for page in [*_pages(root), root / "mkdocs.yml"]:
        lines: list[str] = []
        fence, is_dropped = "", False
        for line in page.read_text().splitlines(keepends=True):
            if line.startswith("```"):
                fence = "" if fence else line.strip("`\n")
            is_dropped = is_dropped and line.startswith("  ")  # the rest of an item
            links = _LINK.finditer(line)
            broken = [link for link in links if _is_broken(page, link["target"] or link["entry"])]
            is_history = page.name == "CHANGELOG.md"  # which remains, without the links
            if line.lstrip().startswith(("|", "- ")) and not fence and not is_history:
                is_about_it = any(word in line for word in words)
                is_dropped = bool(broken) or is_about_it or _names_missing_test(root, line)
            if is_dropped or (fence == "mermaid" and service and re.search(rf"\b{service}\b", line)):
                continue
            for link in reversed(broken):
                before, after = line[: link.start()], line[link.end() :]
                # From the last link to the first, so that the positions of the others stay valid.
                is_aside = before.endswith(" (") and after.startswith(")")  # such as ([roles.md](roles.md))
                line = before[:-2] + after[1:] if is_aside else before + (link["text"] or "") + after  # noqa: PLW2901
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
