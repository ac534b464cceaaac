"""The tool that keeps the realm file: its normal form, and what it writes back."""

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
from tools.realm import BASELINE, TEMPLATE, adopt, adopted, completed, difference, name_of, normal

Json = Any
TOOL = Path(__file__).resolve().parents[2] / "tools" / "realm.py"


def built_in(realm: str) -> Json:
    """What an export has of any realm, in small."""
    return {
        "id": f"id-of-{realm}",
        "realm": realm,
        "enabled": False,
        "accessTokenLifespan": 300,
        "groups": [],
        "attributes": {"parRequestUriLifespan": "60"},
        "roles": {
            "realm": [
                {
                    "id": "1",
                    "name": "offline_access",
                    "composite": False,
                    "containerId": "x",
                    "attributes": {},
                },
                {
                    "id": "2",
                    "name": f"default-roles-{realm}",
                    "composites": {"realm": ["offline_access"]},
                    "attributes": {},
                },
            ],
            "client": {"account": [{"id": "3", "name": "view-profile", "attributes": {}}]},
        },
        "scopeMappings": [{"clientScope": "offline_access", "roles": ["offline_access"]}],
        "clientScopes": [
            {"id": "4", "name": "offline_access", "protocol": "openid-connect", "attributes": {}}
        ],
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


def role(name: str, **more: Json) -> Json:
    return {
        "id": f"id-{name}",
        "name": name,
        "composite": False,
        "clientRole": False,
        "attributes": {},
        **more,
    }


def scope(name: str, *mappers: Json) -> Json:
    found = {"id": f"id-{name}", "name": name, "protocol": "openid-connect", "attributes": {}}
    return {**found, "protocolMappers": list(mappers)} if mappers else found


def mapper(name: str, **config: str) -> Json:
    return {
        "id": f"id-{name}",
        "name": name,
        "protocol": "openid-connect",
        "protocolMapper": "oidc-sub-mapper",
        "consentRequired": False,
        "config": config,
    }


def client(name: str, **more: Json) -> Json:
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
    return defaults | more


def user(name: str, **more: Json) -> Json:
    return {
        "id": f"id-{name}",
        "username": name,
        "enabled": False,
        "createdTimestamp": 5,
        "groups": [],
        **more,
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
def baseline() -> Json:
    """An export of the realm of defaults."""
    found = built_in(BASELINE)
    found["roles"]["realm"].append(role(TEMPLATE))
    found["roles"]["client"][TEMPLATE] = [role(TEMPLATE)]
    found["clientScopes"].append(scope(TEMPLATE, mapper(TEMPLATE)))
    found["clients"].append(client(TEMPLATE, secret="made-up", protocolMappers=[mapper(TEMPLATE)]))
    found["users"].append(user(TEMPLATE))
    found["components"]["org.keycloak.keys.KeyProvider"].append(key(TEMPLATE))
    return found


@pytest.fixture
def written() -> Json:
    """A realm file, as a person writes it."""
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
    """What Keycloak makes of that file."""
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
        user("service-account-api", enabled=True, serviceAccountClientId="api", id="made-anew"),
        user(
            "alice", enabled=True, realmRoles=["user"], credentials=[{"type": "password", "secretData": "x"}]
        ),
    ]
    found["components"]["org.keycloak.keys.KeyProvider"].append(key("es256", priority=["100"]))
    return found


def test_a_file_and_its_export_are_the_same_in_the_normal_form(
    written: Json, export: Json, baseline: Json
) -> None:
    assert difference(normal(written, baseline), normal(export, baseline), "file", "export") == ""


def test_the_normal_form_has_no_defaults_ids_times_keys_or_passwords(export: Json, baseline: Json) -> None:
    found = normal(export, baseline)
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


def of(members: list[Json], name: str) -> Json:
    return next(m for m in members if name_of(m) == name)


CHANGES: dict[str, Callable[[Json], object]] = {
    "a lifetime": lambda r: r.update(accessTokenLifespan=60),
    "a user": lambda r: r["users"].append(user("bob", enabled=True)),
    "a role of a user": lambda r: of(r["users"], "alice").update(realmRoles=["user", "admin"]),
    "no role of a user": lambda r: of(r["users"], "alice").pop("realmRoles"),
    "a gate": lambda r: of(r["scopeMappings"], "clientScope read:users").update(roles=["admin"]),
    "a gate of a new scope": lambda r: (
        r["clientScopes"].append(scope("write:users")),
        r["scopeMappings"].append({"clientScope": "write:users", "roles": ["admin"]}),
    ),
    "a client gone": lambda r: r["clients"].remove(of(r["clients"], "api")),
    "a client disabled": lambda r: of(r["clients"], "api").update(enabled=False),
    "a client of defaults": lambda r: r["clients"].append(client("other", secret="s")),
    "a secret": lambda r: of(r["clients"], "api").update(secret="another"),
    "a scope of a client": lambda r: of(r["clients"], "api").update(defaultClientScopes=["basic"]),
    "a mapper": lambda r: of(r["clientScopes"], "basic")["protocolMappers"].append(mapper("aud", a="b")),
    "a mapper's claim": lambda r: of(of(r["clientScopes"], "basic")["protocolMappers"], "sub").update(
        config={}
    ),
    "a key": lambda r: r["components"]["org.keycloak.keys.KeyProvider"].append(
        key("second", priority=["50"])
    ),
    "a description": lambda r: of(r["roles"]["realm"], "user").update(description="Some"),
    "a composite": lambda r: of(r["roles"]["realm"], "admin").update(composites={"realm": ["user"]}),
    "a role of a client": lambda r: r["roles"]["client"].update(api=[role("auditor")]),
    "a built-in client": lambda r: of(r["clients"], "account").update(redirectUris=["https://a.test/*"]),
    "a built-in flow": lambda r: of(r["authenticationFlows"], "browser").update(authenticationExecutions=[]),
    "an attribute": lambda r: r["attributes"].update(parRequestUriLifespan="30"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_every_change_shows_and_can_be_written_into_the_file(
    written: Json, export: Json, baseline: Json, change: Callable[[Json], object]
) -> None:
    before = normal(written, baseline)
    change(export)
    after = normal(export, baseline)
    assert difference(before, after, "file", "export") != ""
    assert normal(adopted(written, before, after), baseline) == after


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_what_has_not_changed_keeps_its_words_and_its_order(
    written: Json, export: Json, baseline: Json, change: Callable[[Json], object]
) -> None:
    before = normal(written, baseline)
    change(export)
    result = adopted(written, before, normal(export, baseline))
    old, new = (json.dumps(v, indent=2).splitlines() for v in (written, result))
    removed = [line for line in difflib.unified_diff(old, new, n=0) if line.startswith("-")]
    assert len(removed) <= 15  # the client that goes has as many lines


def test_a_variable_and_a_password_stay_as_written(written: Json, export: Json, baseline: Json) -> None:
    before = normal(written, baseline)
    of(export["clients"], "api")["enabled"] = False
    of(export["users"], "alice")["realmRoles"] = ["admin", "user"]
    result = adopted(written, before, normal(export, baseline))
    assert result["clients"][0]["secret"] == "${API_SECRET:api-secret}"
    assert result["clients"][0]["enabled"] is False
    assert result["clients"][0]["defaultClientScopes"] == ["read:users", "basic"]
    assert result["users"][0]["credentials"] == [{"type": "password", "value": "alice"}]
    assert result["users"][0]["realmRoles"] == ["user", "admin"]


def test_a_partial_export_leaves_users_and_secrets_alone(written: Json, export: Json, baseline: Json) -> None:
    del export["users"]
    of(export["clients"], "api")["secret"] = "**********"
    found = completed(export, written)
    assert normal(found, baseline) == normal(written, baseline)


def test_adopting_writes_the_file_and_says_what_changed(
    tmp_path: Path, written: Json, export: Json, baseline: Json, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "small.json"
    file.write_text(json.dumps(written), encoding="utf-8")
    export["accessTokenLifespan"] = 60
    assert adopt(file, export, baseline) == 0
    assert '+  "accessTokenLifespan": 60' in capsys.readouterr().out
    now = json.loads(file.read_text(encoding="utf-8"))
    assert now == written | {"accessTokenLifespan": 60}
    assert adopt(file, export, baseline) == 0
    assert "says all that already" in capsys.readouterr().out


def test_the_realm_file_is_written_as_the_tool_would_write_it() -> None:
    text = REALM_FILE.read_text(encoding="utf-8")
    assert text == json.dumps(json.loads(text), indent=2, ensure_ascii=False) + "\n"


def test_nothing_that_is_compared_is_changed(written: Json, export: Json, baseline: Json) -> None:
    copies = copy.deepcopy((written, export, baseline))
    adopted(written, normal(written, baseline), normal(export | {"enabled": False}, baseline))
    assert (written, export, baseline) == copies


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
def test_without_a_keycloak_it_says_how_to_get_one(command: tuple[str, ...]) -> None:
    done = run(*command)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("realm.py: KEYCLOAK_HOME is not set: unpack")
    assert done.stderr.count("\n") == 1


def test_a_keycloak_home_that_is_none_is_said_in_one_line(tmp_path: Path) -> None:
    done = run("check", KEYCLOAK_HOME=str(tmp_path))
    assert done.returncode == 2
    assert f"KEYCLOAK_HOME={tmp_path} has no bin/kc.sh" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("text", "message"), [("{", "is not JSON"), ("[]", "is not a realm")])
def test_an_export_that_is_none_is_said_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    for part in ("bin/kc.sh", "bin/java"):
        (tmp_path / part).parent.mkdir(exist_ok=True)
        (tmp_path / part).touch()
    file = tmp_path / "export.json"
    file.write_text(text)
    done = run("adopt", str(file), KEYCLOAK_HOME=str(tmp_path), JAVA_HOME=str(tmp_path))
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
