"""Add an RPC: `new_rpc.py SERVICE NAME`, or `make new-rpc SERVICE=users NAME=RenameUser STREAM=both`.

Writes the RPC with its access rule and its messages, the stubs, the method and a test. The result passes
`make lint` and `make test`: the tests and the demo find the RPC in the proto.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path
from string import Template

from gatehouse.app.services import SERVICES

ROOT = Path(__file__).resolve().parent.parent
TEMPLATES = Path(__file__).resolve().parent / "new_rpc"
STREAMS = ("", "requests", "responses", "both")
_NAME = re.compile(r"([A-Z][a-z0-9]+){2,6}")


def check(service: str, name: str, stream: str) -> str:
    """Return what is wrong with the arguments, "" if nothing is."""
    if stream not in STREAMS:
        return f"STREAM={stream}: use one of {', '.join(filter(None, STREAMS))}"
    if service not in SERVICES:
        return f"SERVICE={service}: no such service; use one of {', '.join(SERVICES)}"
    if not _NAME.fullmatch(name):
        return f"NAME={name}: use a verb and a noun, such as RenameUser"
    text = _proto(service).read_text()
    for word in (name, f"{name}Request", f"{name}Response"):
        if re.search(rf"^\s*(rpc|message|enum|service) {word}\b", text, re.MULTILINE):
            return f"NAME={name}: {_proto(service).relative_to(ROOT)} defines {word}; choose another name"
    return ""


def _proto(service: str) -> Path:
    return ROOT / "protos" / SERVICES[service].descriptor.file.name


def _snake_case(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def add_rpc(service: str, name: str, stream: str) -> None:
    """Write the RPC, its messages, its method and its test.

    Args:
        service: Name of the service.
        name: Name of the RPC.
        stream: What is a stream; one of STREAMS.
    """
    spec, proto = SERVICES[service], _proto(service)
    code = ROOT / "services" / proto.relative_to(ROOT / "protos").parents[1] / "service.py"
    test = ROOT / "tests" / service / f"test_{_snake_case(name)}.py"
    text = proto.read_text()
    # The rule of the first RPC, so that a new one is never more open than that.
    rule = re.search(r"\.access\) = \{\n\s*(.*?)\s*\n\s*\};", text, re.DOTALL)
    values = {
        "Name": name,
        "service": service,
        "package": spec.descriptor.file.package.split(".")[0],
        "rule": rule[1] if rule else "authenticated: true",
        **_fixture(service),
        **_streams(stream),
    }

    def render(template: str) -> str:
        return Template((TEMPLATES / f"{template}.tmpl").read_text()).substitute(values)

    method = f"method_{stream}" if stream else "method"
    end = re.compile(rf"^service {spec.descriptor.name} \{{\n(?:.*\n)*?(?=^\}})", re.MULTILINE)
    text = end.sub(lambda found: found[0] + render("rpc"), text, count=1)
    proto.write_text(text + render("proto"))
    code.write_text(_with_method(code.read_text(), f"{spec.descriptor.name}Servicer", render(method)))
    test.write_text(render("test"))
    for path in (proto, code):
        print(f"changed  {path.relative_to(ROOT)}")
    print(f"wrote    {test.relative_to(ROOT)}")


def _fixture(service: str) -> dict[str, str]:
    """Return how a test gets a stub of a service whose caller may call every RPC."""
    shared = (ROOT / "tests/support/services.py").read_text()
    if re.search(rf"^    {service}: ", shared, re.MULTILINE):
        return {
            "import": "from tests.support.services import Services\n",
            "fixture": "services: Services",
            "stub": f"services.{service}",
            "metadata": "",
        }
    stub = f"{SERVICES[service].descriptor.name}AsyncStub"
    module = f"{service}_pb2_grpc"
    caller = 'ALICE = (("authorization", "Bearer alice"),)'
    return {
        "import": f"from gatehouse.{service}.v1 import {module}\n\n{caller}\n",
        "fixture": f"{service}: {module}.{stub}",
        "stub": service,
        "metadata": ", metadata=ALICE",
    }


def _streams(stream: str) -> dict[str, str]:
    """Return what differs in the proto and in the test."""
    sends, receives = stream in {"requests", "both"}, stream in {"responses", "both"}
    notes = "[response.note async for response in call]" if receives else "(await call).note"
    return {
        "sent": "stream " if sends else "",
        "received": "stream " if receives else "",
        "opening": "[" if sends else "",
        "closing": "]" if sends else "",
        "assertion": f"assert {notes} == " + ('["hello"]' if receives else '"hello"'),
    }


def _with_method(code: str, base: str, method: str) -> str:
    """Add a method at the end of the class that implements a generated base class, and its import."""
    if "AsyncIterator" in method and not re.search(r"import .*\bAsyncIterator\b", code):
        future = "from __future__ import annotations\n"
        code = code.replace(future, f"{future}\nfrom collections.abc import AsyncIterator\n", 1)
    body = re.compile(rf"^class \w+\(\w+\.{base}\):\n(?:(?: +.*)?\n)*(?<=\S\n)", re.MULTILINE)
    return body.sub(lambda found: found[0] + method, code, count=1)


def main() -> int:
    """Add the RPC that the command line names."""
    parser = argparse.ArgumentParser(prog="make new-rpc", description="Add an RPC.")
    parser.add_argument("service", help="such as users")
    parser.add_argument("name", help="such as RenameUser")
    parser.add_argument("--stream", default="", help="requests, responses or both")
    arguments = parser.parse_args()
    problem = check(arguments.service, arguments.name, arguments.stream)
    if problem:
        print(f"new-rpc: {problem}", file=sys.stderr)
        return 2
    add_rpc(arguments.service, arguments.name, arguments.stream)
    sys.stdout.flush()  # these processes list further files
    subprocess.run([sys.executable, "tools/generate.py"], cwd=ROOT, check=True)
    # The alert on slow calls leaves out streams.
    subprocess.run([sys.executable, "-m", "tools.manifests"], cwd=ROOT, check=True)
    changed = [f"services/gatehouse/{arguments.service}", f"tests/{arguments.service}"]
    subprocess.run(["ruff", "check", "-q", "--fix", "--select", "I", *changed], cwd=ROOT, check=True)
    subprocess.run(["ruff", "format", "-q", *changed], cwd=ROOT, check=True)
    print("next: make lint test, then edit the access rule and the messages, and run `make generate`")
    return 0


if __name__ == "__main__":
    sys.exit(main())
