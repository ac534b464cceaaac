"""The examples of docs/clients.md use what exists: each name, and each argument of a call."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

from gatehouse import client

PAGE = Path(__file__).resolve().parents[2] / "docs" / "clients.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
# What the text around the examples introduces.
GIVEN = {"Path", "http", "print", "str", "client", "refresh", "response", "read_secret", "caller_token"}
# Of gatehouse.oauth.
GIVEN |= {"ClientCertificate", "open_http"}


@pytest.mark.parametrize("code", EXAMPLES, ids=range(len(EXAMPLES)))
def test_example_uses_public_names_with_arguments_that_they_take(code: str) -> None:
    names = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)]
    stored = {name.id for name in names if isinstance(name.ctx, ast.Store)}
    defined = {node.name for node in ast.walk(ast.parse(code)) if isinstance(node, ast.FunctionDef)}
    parameters = {node.arg for node in ast.walk(ast.parse(code)) if isinstance(node, ast.arg)}
    assert {name.id for name in names} <= stored | defined | parameters | GIVEN | set(client.__all__)
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    for call in calls:
        if isinstance(call.func, ast.Name) and call.func.id in client.__all__:
            signature = inspect.signature(getattr(client, call.func.id))
            signature.bind(*call.args, **{str(keyword.arg): keyword.value for keyword in call.keywords})


def test_page_has_an_example_of_each_flow() -> None:
    grants = ("ClientCredentials", "Refresh", "TokenExchange", "FileToken", "PrivateKeyJwt", "TlsClientAuth")
    for name in (*grants, "login_in_browser", "login_on_device"):
        assert any(f"{name}(" in code for code in EXAMPLES), name
