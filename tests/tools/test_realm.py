"""The realm tool: the normal form of realms, merging changes into the file, and its errors."""

from __future__ import annotations

import copy
import difflib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.issuer import REALM_FILE
from tools.realm import adopt
from tools.realm_file import DEFAULTS, TEMPLATE, complete, diff, merge, name_of, normalize

Json = Any
TOOL = Path(__file__).resolve().parents[2] / "tools" / "realm.py"


def built_in(realm: str) -> Json:
    """Return a few of the built-in objects in every export."""
    return {
        "id": f"id-of-{realm}",
        "realm": realm,
        "enabled": False,
        "accessTokenLifespan": 300,
        "groups": [],
        "attributes": {"parRequestUriLifespan": "60"},
        "roles": {
            "realm": [
                role("offline_access"),
                role(f"default-roles-{realm}", composites={"realm": ["offline_access"]}),
            ],
            "client": {"account": [role("view-profile")]},
        },
        "scopeMappings": [{"clientScope": "offline_access", "roles": ["offline_access"]}],
        "clientScopes": [scope("offline_access")],
        "clients": [
            {
                "id": "5",
                "clientId": "account",
                "baseUrl": f"/realms/{realm}/account/",
                "protocol": "openid-connect",
                "redirectUris": [f"/realms/{realm}/account/*"],
            }
        ],
        "users": [],
        "components": {
            "org.keycloak.keys.KeyProvider": [],
            "policies": [policy("anonymous"), policy("authenticated")],
        },
        "authenticationFlows": [
            {
                "id": "6",
                "alias": "browser",
                "authenticationExecutions": [{"authenticator": "a"}, {"authenticator": "b"}],
            }
        ],
    }


def policy(sub_type: str) -> Json:
    return {"id": sub_type, "name": "Scopes", "providerId": "s", "subType": sub_type, "config": {"a": ["b"]}}


def role(name: str, **changes: Json) -> Json:
    return {
        "id": f"id-{name}",
        "name": name,
        "composite": False,
        "clientRole": False,
        "attributes": {},
        **changes,
    }


def scope(name: str, *mappers: Json) -> Json:
    bare = {"id": f"id-{name}", "name": name, "protocol": "openid-connect", "attributes": {}}
    return bare | {"protocolMappers": list(mappers)} if mappers else bare


def mapper(name: str, **config: str) -> Json:
    return {
        "id": f"id-{name}",
        "name": name,
        "protocol": "openid-connect",
        "protocolMapper": "oidc-sub-mapper",
        "consentRequired": False,
        "config": config,
    }


def client(name: str, **changes: Json) -> Json:
    defaults = {
        "id": f"id-{name}",
        "clientId": name,
        "enabled": True,
        "protocol": "openid-connect",
        "publicClient": False,
        "fullScopeAllowed": True,
        "redirectUris": [],
        "attributes": {"post.logout.redirect.uris": "+"},
        "defaultClientScopes": [],
    }
    return defaults | changes


def user(name: str, **changes: Json) -> Json:
    return {
        "id": f"id-{name}",
        "username": name,
        "enabled": False,
        "createdTimestamp": 5,
        "groups": [],
        **changes,
    }


def key(name: str, **config: Json) -> Json:
    made = {"ecdsaPrivateKey": ["secret"], "ecdsaPublicKey": ["public"]}
    return {
        "id": name,
        "name": name,
        "providerId": "ecdsa-generated",
        "subComponents": {},
        "config": config | made,
    }


@pytest.fixture
def defaults() -> Json:
    """Export of the realm of defaults."""
    found = built_in(DEFAULTS)
    found["roles"]["realm"].append(role(TEMPLATE))
    found["roles"]["client"][TEMPLATE] = [role(TEMPLATE)]
    found["clientScopes"].append(scope(TEMPLATE, mapper(TEMPLATE)))
    found["clients"].append(client(TEMPLATE, secret="generated", protocolMappers=[mapper(TEMPLATE)]))
    found["users"].append(user(TEMPLATE))
    found["components"]["org.keycloak.keys.KeyProvider"].append(key(TEMPLATE))
    return found


@pytest.fixture
def content() -> Json:
    """Realm file as a person writes it."""
    return {
        "realm": "small",
        "enabled": True,
        "accessTokenLifespan": 300,
        "components": {
            "org.keycloak.keys.KeyProvider": [
                {"name": "es256", "providerId": "ecdsa-generated", "config": {"priority": ["100"]}}
            ]
        },
        "roles": {"realm": [{"name": "user"}, {"name": "admin", "description": "All"}]},
        "clientScopes": [
            {"name": "read:users", "protocol": "openid-connect"},
            {
                "name": "basic",
                "protocol": "openid-connect",
                "protocolMappers": [
                    {
                        "name": "sub",
                        "protocol": "openid-connect",
                        "protocolMapper": "oidc-sub-mapper",
                        "config": {"access.token.claim": "true"},
                    }
                ],
            },
        ],
        "scopeMappings": [{"clientScope": "read:users", "roles": ["user", "admin"]}],
        "clients": [
            {
                "clientId": "api",
                "enabled": True,
                "protocol": "openid-connect",
                "secret": "${API_SECRET:api-secret}",
                "fullScopeAllowed": False,
                "defaultClientScopes": ["read:users", "basic"],
            }
        ],
        "users": [
            {
                "id": "id-alice",
                "username": "alice",
                "enabled": True,
                "credentials": [{"type": "password", "value": "alice"}],
                "realmRoles": ["user"],
            },
            {"username": "service-account-api", "enabled": True, "serviceAccountClientId": "api"},
        ],
    }


@pytest.fixture
def export() -> Json:
    """Export of Keycloak after importing that file."""
    found = built_in("small") | {"enabled": True}
    found["roles"]["realm"] += [role("admin", description="All"), role("user")]
    found["roles"]["client"]["api"] = []
    found["clientScopes"] += [
        scope("basic", mapper("sub", **{"access.token.claim": "true"})),
        scope("read:users"),
    ]
    found["scopeMappings"].append({"clientScope": "read:users", "roles": ["admin", "user"]})
    found["clients"].append(
        client(
            "api", secret="api-secret", fullScopeAllowed=False, defaultClientScopes=["basic", "read:users"]
        )
    )
    found["users"] += [
        user("service-account-api", enabled=True, serviceAccountClientId="api", id="generated"),
        user(
            "alice", enabled=True, realmRoles=["user"], credentials=[{"type": "password", "secretData": "x"}]
        ),
    ]
    found["components"]["org.keycloak.keys.KeyProvider"].append(key("es256", priority=["100"]))
    return found


def test_normal_forms_of_a_file_and_its_export_are_equal(content: Json, export: Json, defaults: Json) -> None:
    assert diff(normalize(content, defaults), normalize(export, defaults), "file", "export") == ""


def test_normal_form_has_no_defaults_ids_times_keys_or_passwords(export: Json, defaults: Json) -> None:
    found = normalize(export, defaults)
    assert found == {
        "realm": "small",
        "enabled": True,
        "components": {
            "org.keycloak.keys.KeyProvider": {
                "es256": {"name": "es256", "providerId": "ecdsa-generated", "config": {"priority": ["100"]}}
            }
        },
        "roles": {"realm": {"user": {"name": "user"}, "admin": {"name": "admin", "description": "All"}}},
        "clientScopes": {
            "read:users": {"name": "read:users", "protocol": "openid-connect"},
            "basic": {
                "name": "basic",
                "protocol": "openid-connect",
                "protocolMappers": {
                    "sub": {
                        "name": "sub",
                        "protocol": "openid-connect",
                        "protocolMapper": "oidc-sub-mapper",
                        "config": {"access.token.claim": "true"},
                    }
                },
            },
        },
        "scopeMappings": {
            "clientScope read:users": {"clientScope": "read:users", "roles": ["admin", "user"]},
        },
        "clients": {
            "api": {
                "clientId": "api",
                "protocol": "openid-connect",
                "secret": "api-secret",
                "fullScopeAllowed": False,
                "defaultClientScopes": ["basic", "read:users"],
            }
        },
        "users": {
            "alice": {"id": "id-alice", "username": "alice", "enabled": True, "realmRoles": ["user"]},
            "service-account-api": {
                "username": "service-account-api",
                "enabled": True,
                "serviceAccountClientId": "api",
            },
        },
    }


def member(members: list[Json], name: str) -> Json:
    return next(found for found in members if name_of(found) == name)


CHANGES: dict[str, Callable[[Json], object]] = {
    "a lifetime": lambda r: r.update(accessTokenLifespan=60),
    "a user": lambda r: r["users"].append(user("bob", enabled=True)),
    "a role of a user": lambda r: member(r["users"], "alice").update(realmRoles=["user", "admin"]),
    "a removed role of a user": lambda r: member(r["users"], "alice").pop("realmRoles"),
    "a scope mapping": lambda r: member(r["scopeMappings"], "clientScope read:users").update(roles=["admin"]),
    "a scope mapping of a new scope": lambda r: (
        r["clientScopes"].append(scope("write:users")),
        r["scopeMappings"].append({"clientScope": "write:users", "roles": ["admin"]}),
    ),
    "a removed client": lambda r: r["clients"].remove(member(r["clients"], "api")),
    "a disabled client": lambda r: member(r["clients"], "api").update(enabled=False),
    "a new client with defaults": lambda r: r["clients"].append(client("other", secret="s")),
    "a secret": lambda r: member(r["clients"], "api").update(secret="another"),
    "a scope of a client": lambda r: member(r["clients"], "api").update(defaultClientScopes=["basic"]),
    "a mapper": lambda r: member(r["clientScopes"], "basic")["protocolMappers"].append(mapper("aud", a="b")),
    "a mapper's claim": lambda r: member(member(r["clientScopes"], "basic")["protocolMappers"], "sub").update(
        config={}
    ),
    "a key": lambda r: r["components"]["org.keycloak.keys.KeyProvider"].append(
        key("second", priority=["50"])
    ),
    "a description": lambda r: member(r["roles"]["realm"], "user").update(description="Some"),
    "a composite": lambda r: member(r["roles"]["realm"], "admin").update(composites={"realm": ["user"]}),
    "a role of a client": lambda r: r["roles"]["client"].update(api=[role("auditor")]),
    "a built-in client": lambda r: member(r["clients"], "account").update(redirectUris=["https://a.test/*"]),
    "a built-in flow": lambda r: member(r["authenticationFlows"], "browser").update(
        authenticationExecutions=[]
    ),
    "an attribute": lambda r: r["attributes"].update(parRequestUriLifespan="30"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_every_change_is_detected_and_merged_alone(
    content: Json, export: Json, defaults: Json, change: Callable[[Json], object]
) -> None:
    before = normalize(content, defaults)
    change(export)
    after = normalize(export, defaults)
    merged = merge(content, before, after)

    assert diff(before, after, "file", "export") != ""
    assert normalize(merged, defaults) == after
    old, new = (json.dumps(v, indent=2).splitlines() for v in (content, merged))
    removed = [line for line in difflib.unified_diff(old, new, n=0) if line.startswith("-")]
    assert len(removed) <= 15  # as many as the removed client has


def test_merge_keeps_variables_passwords_and_order(content: Json, export: Json, defaults: Json) -> None:
    before = normalize(content, defaults)
    member(export["clients"], "api")["enabled"] = False
    member(export["users"], "alice")["realmRoles"] = ["admin", "user"]
    result = merge(content, before, normalize(export, defaults))
    assert result["clients"][0]["secret"] == "${API_SECRET:api-secret}"
    assert result["clients"][0]["enabled"] is False
    assert result["clients"][0]["defaultClientScopes"] == ["read:users", "basic"]
    assert result["users"][0]["credentials"] == [{"type": "password", "value": "alice"}]
    assert result["users"][0]["realmRoles"] == ["user", "admin"]


def test_partial_export_changes_neither_users_nor_secrets(
    content: Json, export: Json, defaults: Json
) -> None:
    del export["users"]
    member(export["clients"], "api")["secret"] = "**********"
    found = complete(export, content)
    assert normalize(found, defaults) == normalize(content, defaults)


def test_adopt_writes_the_file_and_prints_the_changes(
    tmp_path: Path, content: Json, export: Json, defaults: Json, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "small.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    export["accessTokenLifespan"] = 60
    assert adopt(file, export, defaults) == 0
    assert '+  "accessTokenLifespan": 60' in capsys.readouterr().out
    now = json.loads(file.read_text(encoding="utf-8"))
    assert now == content | {"accessTokenLifespan": 60}
    assert adopt(file, export, defaults) == 0
    assert "has these settings already" in capsys.readouterr().out


def test_realm_file_has_the_format_that_the_tool_writes() -> None:
    text = REALM_FILE.read_text(encoding="utf-8")
    assert text == json.dumps(json.loads(text), indent=2, ensure_ascii=False) + "\n"


def test_arguments_are_not_changed(content: Json, export: Json, defaults: Json) -> None:
    copies = copy.deepcopy((content, export, defaults))
    merge(content, normalize(content, defaults), normalize(export | {"enabled": False}, defaults))
    assert (content, export, defaults) == copies


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k not in {"KEYCLOAK_HOME", "JAVA_HOME"}}
    return subprocess.run(
        [sys.executable, str(TOOL), *arguments],
        env=kept | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("command", [("check",), ("edit",), ("adopt", "x")])
def test_missing_keycloak_is_an_error_that_explains_the_setup(command: tuple[str, ...]) -> None:
    done = run(*command)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("realm.py: KEYCLOAK_HOME is not set: unpack")
    assert done.stderr.count("\n") == 1


def test_wrong_keycloak_home_is_a_one_line_error(tmp_path: Path) -> None:
    done = run("check", KEYCLOAK_HOME=str(tmp_path))
    assert done.returncode == 2
    assert f"KEYCLOAK_HOME={tmp_path} has no bin/kc.sh" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("text", "message"), [("{", "not JSON"), ("[]", "not a realm")])
def test_malformed_export_is_a_one_line_error(tmp_path: Path, text: str, message: str) -> None:
    for part in ("bin/kc.sh", "bin/java"):
        (tmp_path / part).parent.mkdir(exist_ok=True)
        (tmp_path / part).touch()
    file = tmp_path / "export.json"
    file.write_text(text)
    done = run("adopt", str(file), KEYCLOAK_HOME=str(tmp_path), JAVA_HOME=str(tmp_path))
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
