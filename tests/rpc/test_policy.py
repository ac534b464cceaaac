"""Access policy: where rules come from, what they require, and which policies are errors."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.authz.v1 import authz_pb2
from gatehouse.oauth import InsufficientScope, InsufficientUserAuthentication
from gatehouse.rpc import AccessRule, Policy, PolicyError, PolicyOptions, Server, ServerTelemetry, Service
from tests.support.rpc import (
    PLAINTEXT,
    PROBE,
    Probe,
    TableVerifier,
    Text,
    error_info,
    open_env,
    principal,
    service_of,
)
from tests.support.services import quiet

ANNOTATED = "probe.annotated.v1.Annotated"
HEALTH = "grpc.health.v1.Health"
REFLECTION = "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
RULES: dict[str, authz_pb2.AccessRule | None] = {
    "Open": authz_pb2.AccessRule(public=True),
    "Scoped": authz_pb2.AccessRule(scopes=["from:proto"]),
    "Empty": authz_pb2.AccessRule(),
    "Mixed": authz_pb2.AccessRule(public=True, scopes=["from:proto"]),
    "Bare": None,
}


def _add_annotated_proto() -> Any:
    """Add a proto to the default pool whose RPCs have valid rules, invalid ones and none."""
    file = descriptor_pb2.FileDescriptorProto(
        name="probe/annotated.proto",
        package="probe.annotated.v1",
        syntax="proto3",
        dependency=["gatehouse/authz/v1/authz.proto", "google/protobuf/wrappers.proto"],
    )
    service = file.service.add(name="Annotated")
    for name, rule in RULES.items():
        method = service.method.add(name=name)
        method.input_type = method.output_type = ".google.protobuf.StringValue"
        if rule is not None:
            method.options.Extensions[authz_pb2.access].CopyFrom(rule)
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
    return descriptor_pool.Default().FindServiceByName(ANNOTATED)


DESCRIPTORS = {f"/{ANNOTATED}/{m.name}": m for m in _add_annotated_proto().methods}


async def echo(request: Text, context: object) -> Text:
    return request


def annotated(*names: str) -> Service:
    return service_of(ANNOTATED, **dict.fromkeys(names, echo))


async def policy_error(**options: Any) -> str:
    """Return the error with which a server does not start."""
    with pytest.raises(PolicyError) as caught:
        async with open_env(**options):
            pass
    return str(caught.value)


async def test_an_rpc_without_a_rule_is_an_error() -> None:
    text = await policy_error(default_scopes=(), services=[annotated("Scoped")])
    assert text.startswith(f"{PROBE}/")
    assert "has no access rule" in text
    assert "option (gatehouse.authz.v1.access)" in text


@pytest.mark.parametrize(
    ("name", "words"), [("Empty", "is empty"), ("Mixed", "mixes public, authenticated and scopes or roles")]
)
async def test_an_invalid_rule_in_a_proto_is_an_error(name: str, words: str) -> None:
    text = await policy_error(services=[annotated("Scoped", name)])
    assert text.startswith(f"{ANNOTATED}/{name}: the access rule {words}")


@pytest.mark.parametrize("name", [f"{PROBE}/OneOnee", "other.v1.Other/Call", "Unary"])
@pytest.mark.parametrize("where", ["method_scopes", "public_methods"])
async def test_a_rule_for_an_unknown_rpc_is_an_error(where: str, name: str) -> None:
    given: Any = {name: ["a"]} if where == "method_scopes" else [name]
    text = await policy_error(**{where: given})
    assert text.startswith(f"{name}: access rule for an unknown RPC")


async def test_an_rpc_in_method_scopes_and_public_methods_is_an_error() -> None:
    name = f"{PROBE}/Unary"
    text = await policy_error(method_scopes={name: ["a"]}, public_methods=[name])
    assert text == f"{name}: is in method_scopes and in public_methods; remove one of them"


async def test_scopes_that_are_a_string_are_an_error() -> None:
    text = await policy_error(method_scopes={f"{PROBE}/Unary": "read:users"})
    assert text == f"{PROBE}/Unary: method_scopes needs a list of scopes, not a string"


@pytest.mark.parametrize("name", [f"{HEALTH}/Check", f"{HEALTH}/Watch", REFLECTION])
async def test_an_empty_rule_for_health_or_reflection_is_an_error(name: str) -> None:
    text = await policy_error(method_scopes={name: []}, reflection=True)
    assert text.startswith(f"{name}: the access rule is empty")


@pytest.mark.parametrize("name", [f"{HEALTH}/Check", REFLECTION])
def test_a_policy_has_no_built_in_rule_for_health_or_reflection(name: str) -> None:
    with pytest.raises(PolicyError, match=f"^{name}: has no access rule"):
        Policy.of([f"/{name}"], {})


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (AccessRule(), "is empty"),
        (AccessRule(acr="high"), "is empty"),
        (AccessRule(public=True, authenticated=True), "mixes"),
        (AccessRule(public=True, roles=frozenset({"r"})), "mixes"),
        (AccessRule(authenticated=True, scopes=frozenset({"s"})), "mixes"),
        (AccessRule(public=True, acr="high"), "is public but sets acr"),
        (AccessRule(public=True, max_age=0), "is public but sets acr"),
        (AccessRule(public=True, online=True), "is public but sets acr"),
        (AccessRule(scopes=frozenset({""})), "has an invalid scope"),
        (AccessRule(scopes=frozenset({"two words"})), "has an invalid scope"),
        (AccessRule(scopes=frozenset({'say"it'})), "has an invalid scope"),
        (AccessRule(scopes=frozenset({"größe"})), "has an invalid scope"),
        (AccessRule(roles=frozenset({""})), "has an empty role"),
        (AccessRule(authenticated=True, acr='a"b'), "has an invalid acr"),
        (AccessRule(authenticated=True, max_age=-1), "has a negative max_age"),
    ],
)
def test_an_invalid_rule_is_an_error(rule: AccessRule, words: str) -> None:
    with pytest.raises(PolicyError, match=f"^s.v1.S/M: the access rule {words}"):
        Policy({"/s.v1.S/M": rule})


async def test_a_service_that_is_registered_twice_is_an_error() -> None:
    text = await policy_error(services=[annotated("Scoped"), annotated("Scoped")])
    assert text == f"{ANNOTATED}/Scoped: registered twice; remove one of the services"


async def test_a_handler_that_is_not_async_is_an_error() -> None:
    def blocking(request: Text, context: object) -> Text:
        return request

    text = await policy_error(services=[service_of("probe.v1.Sync", Call=blocking)])
    assert text == "probe.v1.Sync/Call: the handler is not async; define it with `async def`"


async def test_a_service_that_registers_no_rpc_is_an_error() -> None:
    def add_as_old_stubs_do(_: object, server: Any) -> None:
        server.add_generic_rpc_handlers(())

    text = await policy_error(services=[Service(add_as_old_stubs_do, object())])
    assert text.startswith("object: registers no RPC")


async def test_options_take_precedence_over_the_proto_and_the_proto_over_the_default() -> None:
    async with open_env(
        services=[annotated("Open", "Scoped", "Bare"), service_of("other.v1.Other", Call=echo)],
        method_scopes={f"{ANNOTATED}/Open": ["from:mapping"]},
        public_methods=[f"/{PROBE}/Unary"],
        default_scopes=["by:default"],
    ) as env:
        rules = {path: str(rule) for path, rule in env.server.policy.rules.items()}
    assert rules == {
        f"/{ANNOTATED}/Open": "from:mapping",
        f"/{ANNOTATED}/Scoped": "from:proto",
        f"/{ANNOTATED}/Bare": "by:default",
        "/other.v1.Other/Call": "by:default",
        f"/{PROBE}/Unary": "public",
        **{
            f"/{PROBE}/{n}": "by:default"
            for n in ("ServerStream", "ServerStreamByWrite", "ClientStream", "BidiStream")
        },
        **{f"/{HEALTH}/{n}": "public" for n in ("Check", "Watch")},
    }


async def test_method_scopes_are_required_for_a_proto_without_rules() -> None:
    async with open_env(method_scopes={f"{PROBE}/Unary": ["use:probe", "more"]}) as env:
        code, trailers, _ = await env.client.outcome("Unary", "a")
        assert code is grpc.StatusCode.PERMISSION_DENIED
        assert 'scope="more use:probe"' in trailers["www-authenticate"]
        assert (await env.client.outcome("ServerStream", "a"))[0] is grpc.StatusCode.OK


async def test_the_token_of_a_call_to_a_public_rpc_is_not_verified() -> None:
    async with open_env(public_methods=[f"{PROBE}/Unary"]) as env:
        for token in (None, "unknown"):
            assert (await env.client.outcome("Unary", "a", token=token))[0] is grpc.StatusCode.OK
        assert env.verifier.asked == []


async def test_health_can_have_a_rule() -> None:
    async with open_env(method_scopes={f"{HEALTH}/Check": ["use:probe"]}) as env:
        stub: Any = health_pb2_grpc.HealthStub(env.client.channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(health_pb2.HealthCheckRequest())
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        await stub.Check(health_pb2.HealthCheckRequest(), metadata=(("authorization", "Bearer good"),))


async def test_an_online_rule_is_verified_online() -> None:
    rules = {f"{PROBE}/Unary": AccessRule(scopes=frozenset({"use:probe"}), online=True)}
    async with open_env(method_scopes=rules) as env:
        await env.client.outcome("Unary", "a")
        await env.client.outcome("ServerStream", "a")
        assert env.verifier.asked == [("good", True), ("good", False)]


async def test_one_of_the_roles_is_required() -> None:
    rules = {f"{PROBE}/Unary": AccessRule(roles=frozenset({"admin", "auditor"}))}
    async with open_env(method_scopes=rules) as env:
        env.verifier.answers |= {"auditor": principal(roles=("auditor", "x")), "nobody": principal()}
        assert (await env.client.outcome("Unary", "a", token="auditor"))[0] is grpc.StatusCode.OK
        code, trailers, _ = await env.client.outcome("Unary", "a", token="nobody")
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert error_info(trailers).reason == "ROLE_MISSING"
    # RFC 6750 has no roles, and the response does not list those that are required.
    assert trailers["www-authenticate"] == (
        'Bearer realm="gatehouse", error="insufficient_scope", error_description="role missing"'
    )


async def test_a_weak_login_gets_a_step_up_challenge() -> None:
    rules = {f"{PROBE}/Unary": AccessRule(authenticated=True, acr="urn:mfa", max_age=600)}
    async with open_env(method_scopes=rules) as env:
        env.verifier.answers["weak"] = principal(acr="urn:password")
        code, trailers, _ = await env.client.outcome("Unary", "a", token="weak")
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert error_info(trailers).reason == "ACR_MISMATCH"
    # RFC 9470 section 3.
    assert trailers["www-authenticate"] == (
        'Bearer realm="gatehouse", error="insufficient_user_authentication", '
        'error_description="acr mismatch", acr_values="urn:mfa", max_age=600'
    )


async def test_a_challenge_without_max_age_has_only_acr_values() -> None:
    rules = {f"{PROBE}/Unary": AccessRule(authenticated=True, acr="urn:mfa")}
    async with open_env(method_scopes=rules) as env:
        _, trailers, _ = await env.client.outcome("Unary", "a", token="weak")
    assert trailers["www-authenticate"].endswith('error_description="acr mismatch", acr_values="urn:mfa"')


@pytest.mark.parametrize(
    ("required", "acr", "admitted"),
    [
        ("urn:mfa", "urn:mfa", True),
        ("urn:mfa", "urn:password", False),
        ("urn:mfa", "urn:mfa:hardware", False),
        ("urn:mfa", "", False),
        ("", "urn:password", True),
        ("", "", True),
    ],
)
def test_a_login_must_have_the_required_acr_if_there_is_one(required: str, acr: str, admitted: bool) -> None:
    rule = AccessRule(authenticated=True, acr=required)
    expected = pytest.raises(InsufficientUserAuthentication, match="acr_mismatch")
    with nullcontext() if admitted else expected:
        rule.check(principal(acr=acr), time.time())


@pytest.mark.parametrize(("age", "admitted"), [(590, True), (660, False), (None, False)])
async def test_a_login_must_not_be_older_than_max_age(age: int | None, admitted: bool) -> None:
    rules = {f"{PROBE}/Unary": AccessRule(scopes=frozenset({"use:probe"}), max_age=600)}
    async with open_env(method_scopes=rules) as env:
        moment = None if age is None else int(time.time()) - age
        env.verifier.answers["old"] = principal("use:probe", auth_time=moment)
        code, trailers, _ = await env.client.outcome("Unary", "a", token="old")
    if admitted:
        assert code is grpc.StatusCode.OK
        return
    assert (code, error_info(trailers).reason) == (grpc.StatusCode.UNAUTHENTICATED, "LOGIN_TOO_OLD")
    assert 'max_age=600, scope="use:probe"' in trailers["www-authenticate"]


@pytest.mark.parametrize(
    ("value", "name"), [(AccessRule(public=True), "public"), (PolicyOptions(), "default_scopes")]
)
def test_rules_cannot_be_changed(value: object, name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(value, name, False)


def test_a_policy_error_ends_a_command_as_a_wrong_setting_does() -> None:
    assert PolicyError.exit_code == 2


def test_max_age_is_exact() -> None:
    rule = AccessRule(authenticated=True, max_age=60)
    rule.check(principal(auth_time=1000), 1060.0)
    with pytest.raises(InsufficientUserAuthentication):
        rule.check(principal(auth_time=1000), 1060.5)


def test_a_missing_scope_takes_precedence_over_a_weak_login() -> None:
    rule = AccessRule(scopes=frozenset({"a"}), acr="high")
    with pytest.raises(InsufficientScope):
        rule.check(principal("b"), 0.0)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (AccessRule(public=True), "public"),
        (AccessRule(authenticated=True), "authenticated"),
        (
            AccessRule(
                scopes=frozenset({"b", "a"}), roles=frozenset({"y", "x"}), acr="2", max_age=5, online=True
            ),
            "a + b + role x or y + acr 2 + login within 5 s + checked online",
        ),
    ],
)
def test_a_rule_is_printed_in_one_line(rule: AccessRule, text: str) -> None:
    assert str(rule) == text


names = st.text("abc:._-", min_size=1, max_size=6)
rules = st.builds(
    AccessRule,
    public=st.booleans(),
    authenticated=st.booleans(),
    scopes=st.frozensets(names, max_size=3),
    roles=st.frozensets(names, max_size=3),
    acr=st.one_of(st.just(""), names),
    max_age=st.one_of(st.none(), st.integers(0, 10**6)),
    online=st.booleans(),
)


@given(rules)
def test_a_rule_survives_conversion_to_proto_and_back(rule: AccessRule) -> None:
    assert AccessRule.from_proto(rule.to_proto()) == rule


def expected(
    path: str, scopes: Mapping[str, list[str]], public: set[str], default: list[str]
) -> AccessRule | None:
    """Return the rule of an RPC by the documentation of PolicyOptions, or None if it is an error."""
    name = path[1:]
    if name in scopes and name in public:
        return None
    if name in scopes:
        return AccessRule(scopes=frozenset(scopes[name])) if scopes[name] else None
    if name in public:
        return AccessRule(public=True)
    written = RULES.get(name.rpartition("/")[2]) if path in DESCRIPTORS else None
    if written is not None:
        return AccessRule.from_proto(written) if written in (RULES["Open"], RULES["Scoped"]) else None
    return AccessRule(scopes=frozenset(default)) if default else None


paths = st.sampled_from([*DESCRIPTORS, "/foreign.v1.F/A", "/foreign.v1.F/B"])


@given(
    st.sets(paths, min_size=1),
    st.dictionaries(paths.map(lambda p: p[1:]), st.lists(names, max_size=2), max_size=3),
    st.sets(paths.map(lambda p: p[1:]), max_size=3),
    st.lists(names, max_size=2),
)
def test_a_policy_combines_protos_and_options(
    registered: set[str], scopes: dict[str, list[str]], public: set[str], default: list[str]
) -> None:
    wanted = {path: expected(path, scopes, public, default) for path in registered}
    unknown = {f"/{name}" for name in {*scopes, *public}} - registered
    mixed = scopes.keys() & public

    def make() -> Policy:
        return Policy.of(registered, DESCRIPTORS, PolicyOptions(scopes, default, public))

    if unknown or mixed or None in wanted.values():
        with pytest.raises(PolicyError):
            make()
    else:
        assert make().rules == wanted


async def test_a_policy_error_leaves_no_task_behind() -> None:
    before = asyncio.all_tasks()
    with pytest.raises(PolicyError):
        Server(
            [Probe().service()],
            verifier=TableVerifier(),
            tls=PLAINTEXT,
            telemetry=ServerTelemetry(quiet()),
        )
    assert asyncio.all_tasks() == before
