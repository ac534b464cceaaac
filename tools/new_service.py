"""Add a service: `new_service.py NAME RESOURCE`, or `make new-service NAME=billing RESOURCE=invoice`.

Writes proto, stubs, spec, service, repository, tables, migration, tests, manifests and a block of
docker-compose.yml, adds the service to the list in gatehouse/app/packages.py, and lists all these files.
The result passes `make lint` and `make test`.
"""

from __future__ import annotations

import argparse
import keyword
import re
import subprocess
import sys
from pathlib import Path
from string import Template

from gatehouse.app.services import SERVICES
from gatehouse.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
TEMPLATES = Path(__file__).resolve().parent / "new_service"
FIRST_PORT = 50051
_NAME = re.compile(r"[a-z][a-z0-9]{1,30}")


def check_name(name: str) -> str:
    """Return what is wrong with the name of a new service, "" if nothing is."""
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        return "use 2 to 31 lower-case letters and digits, starting with a letter, such as billing"
    taken = {path.name for path in (ROOT / "services" / "gatehouse").iterdir()} | set(Settings.model_fields)
    if name in taken or name.startswith("pg") or name in {"postgres", "keycloak", "public", "information"}:
        return "the name is taken; choose another one"
    return ""


def check_resource(resource: str) -> str:
    """Return what is wrong with the name of a resource, "" if nothing is."""
    if not resource:
        return ""
    if (
        not _NAME.fullmatch(resource)
        or keyword.iskeyword(resource)
        or keyword.iskeyword(resource.capitalize())
    ):
        return "use one word in the singular, of lower-case letters and digits, such as invoice"
    taken = {method.name: name for name, spec in SERVICES.items() for method in spec.descriptor.methods}
    rpc = f"List{plural(resource).capitalize()}"
    return f"the service {taken[rpc]} has an RPC {rpc}; choose another one" if rpc in taken else ""


def plural(noun: str) -> str:
    """Return the plural of a noun."""
    if re.search(r"[^aeiou]y$", noun):
        return f"{noun[:-1]}ies"
    return f"{noun}es" if re.search(r"(s|x|z|ch|sh)$", noun) else f"{noun}s"


def free_port() -> int:
    """Return the first default port that no service uses."""
    taken = {spec.default_port for spec in SERVICES.values()}
    return next(port for port in range(FIRST_PORT, 65536) if port not in taken)


def files(name: str) -> dict[str, str]:
    """Return the template of each file to write, by path."""
    package, tests = f"services/gatehouse/{name}", f"tests/{name}"
    return {
        f"protos/gatehouse/{name}/v1/{name}.proto": "proto",
        f"{package}/__init__.py": "init",
        f"{package}/v1/__init__.py": "stubs",
        f"{package}/spec.py": "spec",
        f"{package}/service.py": "service",
        f"{package}/repository.py": "repository",
        f"{package}/tables.py": "tables",
        f"migrations/{name}/0001_{name}.py": "migration",
        f"{tests}/__init__.py": "",
        f"{tests}/conftest.py": "conftest",
        f"{tests}/test_service.py": "test",
    }


def insert(path: Path, before: str, text: str) -> None:
    """Insert `text` before the line that contains `before`."""
    lines = path.read_text().splitlines(keepends=True)
    position = next(number for number, line in enumerate(lines) if before in line)
    path.write_text("".join([*lines[:position], text, *lines[position:]]))


def add_service(name: str, resource: str) -> None:
    """Write all files of a service and register it; its resources are entries if `resource` is ""."""
    port = free_port()
    prefix, resource = ("", resource) if resource else (name.capitalize(), "entry")
    resources = plural(resource)
    values = {
        "name": name,
        "Name": name.capitalize(),
        "NAME": name.upper(),
        "Service": f"{name.capitalize()}Service",
        "port": port,
        "resource": resource,
        "resources": resources,
        "Resource": resource.capitalize(),
        "Resources": resources.capitalize(),
        "Message": prefix + resource.capitalize(),
        "Messages": prefix + resources.capitalize(),
    }

    def render(template: str) -> str:
        return Template((TEMPLATES / f"{template}.tmpl").read_text()).substitute(values)

    for path, template in files(name).items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(render(template) if template else "")
        print(f"wrote    {path}")
    insert(
        ROOT / "services/gatehouse/app/packages.py",
        "adds services above this line",
        f'    "gatehouse.{name}",\n',
    )
    insert(ROOT / "docker-compose.yml", "adds services above this line", render("compose"))
    published = f'      - "127.0.0.1:${{GRPC_PORT_PREFIX}}{port % 100:02d}:{port}"\n'
    insert(ROOT / "docker-compose.yml", "adds ports above this line", published)
    print("changed  services/gatehouse/app/packages.py")
    print("changed  docker-compose.yml")


def main() -> int:
    """Add the service that the command line names."""
    parser = argparse.ArgumentParser(prog="make new-service", description="Add a service.")
    parser.add_argument("name", help="such as billing")
    parser.add_argument("resource", nargs="?", default="", help="what it manages, such as invoice")
    arguments = parser.parse_args()
    name, resource = arguments.name, arguments.resource
    for given, problem in (
        (f"NAME={name}", check_name(name)),
        (f"RESOURCE={resource}", check_resource(resource)),
    ):
        if problem:
            print(f"new-service: {given}: {problem}", file=sys.stderr)
            return 2
    add_service(name, resource)
    # Modules that were just written are not visible to this process.
    sys.stdout.flush()  # these processes list further files
    subprocess.run([sys.executable, "tools/generate.py"], cwd=ROOT, check=True)
    subprocess.run([sys.executable, "-m", "tools.manifests"], cwd=ROOT, check=True)
    written = [f"services/gatehouse/{name}", f"migrations/{name}", f"tests/{name}"]
    subprocess.run(["ruff", "format", "-q", *written], cwd=ROOT, check=True)
    print(f"next: make lint test, then edit protos/gatehouse/{name}/v1/{name}.proto and run `make generate`")
    return 0


if __name__ == "__main__":
    sys.exit(main())
