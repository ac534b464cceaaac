"""Every RPC has a rule, and the right one; a server with any doubt about that does not start."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.authz.v1 import authz_pb2
from gatehouse.oauth import InsufficientScope, InsufficientUserAuthentication
from gatehouse.rpc import AccessRule, Policy, PolicyError, ServerTls, Service
from tests.support.rpc import PROBE, Text, error_info, principal, service_of

ANNOTATED = "probe.annotated.v1.Annotated"
HEALTH = "grpc.health.v1.Health"
REFLECTION = "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
RULES: dict[str, authz_pb2.AccessRule | None] = {
    "Open": authz_pb2.AccessRule(public=True),
    "Scoped": authz_pb2.AccessRule(scopes=["from:proto"]),
    "Empty": authz_pb2.AccessRule(),
    "Torn": authz_pb2.AccessRule(public=True, scopes=["from:proto"]),
    "Bare": None,
}


def _add_annotated_proto() -> Any:
    """Puts a proto into the default pool whose RPCs have good rules, bad ones and none."""
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


async def refusal(open_stand: Callable[..., Any], **settings: Any) -> str:
    """Says with what words a server refuses to start."""
    with pytest.raises(PolicyError) as caught:
        async with open_stand(**settings):
            pass
    return str(caught.value)


async def test_a_server_with_an_rpc_without_rule_refuses_to_start(open_stand: Any) -> None:
    text = await refusal(open_stand, default_scopes=(), services=[annotated("Scoped")])
    assert text.startswith(f"{PROBE}/")
    assert "has no access rule" in text
    assert "option (gatehouse.authz.v1.access)" in text


@pytest.mark.parametrize(
    ("name", "words"), [("Empty", "is empty"), ("Torn", "mixes public, authenticated and scopes or roles")]
)
async def test_a_server_with_a_wrong_rule_in_a_proto_refuses_to_start(
    open_stand: Any, name: str, words: str
) -> None:
    text = await refusal(open_stand, services=[annotated("Scoped", name)])
    assert text.startswith(f"{ANNOTATED}/{name}: the access rule {words}")


@pytest.mark.parametrize("name", [f"{PROBE}/OneOnee", "other.v1.Other/Call", "OneOne"])
@pytest.mark.parametrize("where", ["method_scopes", "public_methods"])
async def test_a_rule_for_an_rpc_that_is_not_there_stops_the_start(
    open_stand: Any, where: str, name: str
) -> None:
    given: Any = {name: ["a"]} if where == "method_scopes" else [name]
    text = await refusal(open_stand, **{where: given})
    assert text.startswith(f"{name}: a rule names this RPC and no service here has it")


async def test_an_rpc_that_is_public_and_scoped_by_the_mapping_stops_the_start(open_stand: Any) -> None:
    name = f"{PROBE}/OneOne"
    text = await refusal(open_stand, method_scopes={name: ["a"]}, public_methods=[name])
    assert text == f"{name}: is in method_scopes and in public_methods; keep one of them"


async def test_scopes_given_as_one_string_stop_the_start(open_stand: Any) -> None:
    text = await refusal(open_stand, method_scopes={f"{PROBE}/OneOne": "read:users"})
    assert text == f"{PROBE}/OneOne: method_scopes takes a list of scopes, not one string"


@pytest.mark.parametrize("name", [f"{HEALTH}/Check", f"{HEALTH}/Watch", REFLECTION])
async def test_an_empty_rule_for_health_or_reflection_stops_the_start(open_stand: Any, name: str) -> None:
    text = await refusal(open_stand, method_scopes={name: []}, reflection=True)
    assert text.startswith(f"{name}: the access rule is empty")


@pytest.mark.parametrize("name", [f"{HEALTH}/Check", REFLECTION])
def test_health_and_reflection_have_no_rule_of_their_own(name: str) -> None:
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
        (AccessRule(public=True, acr="high"), "is public and asks for acr"),
        (AccessRule(public=True, max_age=0), "is public and asks for acr"),
        (AccessRule(public=True, online=True), "is public and asks for acr"),
        (AccessRule(scopes=frozenset({""})), "names a scope"),
        (AccessRule(scopes=frozenset({"two words"})), "names a scope"),
        (AccessRule(scopes=frozenset({'say"it'})), "names a scope"),
        (AccessRule(scopes=frozenset({"größe"})), "names a scope"),
        (AccessRule(roles=frozenset({""})), "names an empty role"),
        (AccessRule(authenticated=True, acr='a"b'), "asks for an acr"),
        (AccessRule(authenticated=True, max_age=-1), "asks for a negative max_age"),
    ],
)
def test_a_rule_that_says_nothing_or_contradicts_itself_is_refused(rule: AccessRule, words: str) -> None:
    with pytest.raises(PolicyError, match=f"^s.v1.S/M: the access rule {words}"):
        Policy({"/s.v1.S/M": rule})


async def test_a_service_that_is_registered_twice_is_refused(open_stand: Any) -> None:
    text = await refusal(open_stand, services=[annotated("Scoped"), annotated("Scoped")])
    assert text == f"{ANNOTATED}/Scoped: is registered twice"


async def test_a_handler_that_is_not_async_is_refused(open_stand: Any) -> None:
    def blocking(request: Text, context: object) -> Text:
        return request

    text = await refusal(open_stand, services=[service_of("probe.v1.Sync", Call=blocking)])
    assert text == "probe.v1.Sync/Call: its handler is not async; make it `async def`"


async def test_stubs_that_register_nothing_are_refused(open_stand: Any) -> None:
    def add_as_old_stubs_do(_: object, server: Any) -> None:
        server.add_generic_rpc_handlers(())

    text = await refusal(open_stand, services=[Service(add_as_old_stubs_do, object())])
    assert text.startswith("object: registers no RPC")


async def test_the_mapping_goes_before_the_proto_and_the_proto_before_the_default(open_stand: Any) -> None:
    async with open_stand(
        services=[annotated("Open", "Scoped", "Bare"), service_of("other.v1.Other", Call=echo)],
        method_scopes={f"{ANNOTATED}/Open": ["from:mapping"]},
        public_methods=[f"/{PROBE}/OneOne"],
        default_scopes=["by:default"],
    ) as stand:
        rules = {path: str(rule) for path, rule in stand.server.policy.rules.items()}
    assert rules == {
        f"/{ANNOTATED}/Open": "from:mapping",
        f"/{ANNOTATED}/Scoped": "from:proto",
        f"/{ANNOTATED}/Bare": "by:default",
        "/other.v1.Other/Call": "by:default",
        f"/{PROBE}/OneOne": "public",
        **{f"/{PROBE}/{n}": "by:default" for n in ("OneMany", "OneManyByWrite", "ManyOne", "ManyMany")},
        **{f"/{HEALTH}/{n}": "public" for n in ("Check", "Watch")},
    }


async def test_method_scopes_of_a_foreign_proto_are_demanded(open_stand: Any) -> None:
    async with open_stand(method_scopes={f"{PROBE}/OneOne": ["use:probe", "more"]}) as stand:
        code, trailers, _ = await stand.client.outcome("OneOne", "a")
        assert code is grpc.StatusCode.PERMISSION_DENIED
        assert 'scope="more use:probe"' in trailers["www-authenticate"]
        assert (await stand.client.outcome("OneMany", "a"))[0] is grpc.StatusCode.OK


async def test_a_public_method_is_answered_without_a_look_at_the_token(open_stand: Any) -> None:
    async with open_stand(public_methods=[f"{PROBE}/OneOne"]) as stand:
        for token in (None, "unknown"):
            assert (await stand.client.outcome("OneOne", "a", token=token))[0] is grpc.StatusCode.OK
        assert stand.verifier.asked == []


async def test_health_can_be_given_a_rule_that_is_not_public(open_stand: Any) -> None:
    async with open_stand(method_scopes={f"{HEALTH}/Check": ["use:probe"]}) as stand:
        stub: Any = health_pb2_grpc.HealthStub(stand.client.channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(health_pb2.HealthCheckRequest())
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        await stub.Check(health_pb2.HealthCheckRequest(), metadata=(("authorization", "Bearer good"),))


async def names_by_reflection(stand: Any, **call: Any) -> list[str]:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(stand.client.channel)
    answers = stub.ServerReflectionInfo(
        iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=10, **call
    )
    return [s.name async for answer in answers for s in answer.list_services_response.service]


async def test_reflection_lists_the_services_where_it_is_on(open_stand: Any) -> None:
    async with open_stand(reflection=True) as stand:
        assert await names_by_reflection(stand) == [
            HEALTH,
            "grpc.reflection.v1alpha.ServerReflection",
            PROBE,
        ]


async def test_reflection_is_off_by_default(stand: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await names_by_reflection(stand)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_reflection_can_be_given_a_rule_that_is_not_public(open_stand: Any) -> None:
    async with open_stand(reflection=True, method_scopes={REFLECTION: ["use:probe"]}) as stand:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await names_by_reflection(stand)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert PROBE in await names_by_reflection(stand, metadata=(("authorization", "Bearer good"),))


async def test_an_online_rule_asks_the_verifier_online(open_stand: Any) -> None:
    rules = {f"{PROBE}/OneOne": AccessRule(scopes=frozenset({"use:probe"}), online=True)}
    async with open_stand(method_scopes=rules) as stand:
        await stand.client.outcome("OneOne", "a")
        await stand.client.outcome("OneMany", "a")
        assert stand.verifier.asked == [("good", True), ("good", False)]


async def test_one_of_the_roles_is_enough_and_none_is_not(open_stand: Any) -> None:
    rules = {f"{PROBE}/OneOne": AccessRule(roles=frozenset({"admin", "auditor"}))}
    async with open_stand(method_scopes=rules) as stand:
        stand.verifier.answers |= {"auditor": principal(roles=("auditor", "x")), "nobody": principal()}
        assert (await stand.client.outcome("OneOne", "a", token="auditor"))[0] is grpc.StatusCode.OK
        code, trailers, _ = await stand.client.outcome("OneOne", "a", token="nobody")
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert error_info(trailers).reason == "ROLE_MISSING"
    # RFC 6750 knows no roles, and the answer does not tell which would do.
    assert trailers["www-authenticate"] == (
        'Bearer realm="gatehouse", error="insufficient_scope", error_description="role missing"'
    )


async def test_a_weak_login_is_challenged_to_step_up(open_stand: Any) -> None:
    rules = {f"{PROBE}/OneOne": AccessRule(authenticated=True, acr="urn:mfa", max_age=600)}
    async with open_stand(method_scopes=rules) as stand:
        stand.verifier.answers["weak"] = principal(acr="urn:password")
        code, trailers, _ = await stand.client.outcome("OneOne", "a", token="weak")
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert error_info(trailers).reason == "ACR_TOO_LOW"
    # RFC 9470 section 3.
    assert trailers["www-authenticate"] == (
        'Bearer realm="gatehouse", error="insufficient_user_authentication", '
        'error_description="acr too low", acr_values="urn:mfa", max_age=600'
    )


async def test_a_rule_without_max_age_asks_for_none(open_stand: Any) -> None:
    rules = {f"{PROBE}/OneOne": AccessRule(authenticated=True, acr="urn:mfa")}
    async with open_stand(method_scopes=rules) as stand:
        _, trailers, _ = await stand.client.outcome("OneOne", "a", token="weak")
    assert trailers["www-authenticate"].endswith('error_description="acr too low", acr_values="urn:mfa"')


@pytest.mark.parametrize(("age", "admitted"), [(590, True), (660, False), (None, False)])
async def test_a_login_must_be_within_max_age(open_stand: Any, age: int | None, admitted: bool) -> None:
    import time

    rules = {f"{PROBE}/OneOne": AccessRule(scopes=frozenset({"use:probe"}), max_age=600)}
    async with open_stand(method_scopes=rules) as stand:
        moment = None if age is None else int(time.time()) - age
        stand.verifier.answers["old"] = principal("use:probe", auth_time=moment)
        code, trailers, _ = await stand.client.outcome("OneOne", "a", token="old")
    if admitted:
        assert code is grpc.StatusCode.OK
        return
    assert (code, error_info(trailers).reason) == (grpc.StatusCode.UNAUTHENTICATED, "LOGIN_TOO_OLD")
    assert 'max_age=600, scope="use:probe"' in trailers["www-authenticate"]


def test_the_age_of_a_login_is_counted_to_the_second() -> None:
    rule = AccessRule(authenticated=True, max_age=60)
    rule.check(principal(auth_time=1000), 1060.0)
    with pytest.raises(InsufficientUserAuthentication):
        rule.check(principal(auth_time=1000), 1060.5)


def test_a_missing_scope_is_named_before_a_weak_login() -> None:
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
            "a + b + role x or y + acr 2 + login within 5 s + asked online",
        ),
    ],
)
def test_a_rule_reads_as_a_sentence(rule: AccessRule, text: str) -> None:
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
def test_a_rule_survives_its_proto(rule: AccessRule) -> None:
    assert AccessRule.from_proto(rule.to_proto()) == rule


def expected(
    path: str, scopes: Mapping[str, list[str]], public: set[str], default: list[str]
) -> AccessRule | None:
    """What the documentation of Policy.of promises for one RPC; None where it must refuse."""
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
def test_a_policy_is_what_its_sources_say_or_it_is_refused(
    registered: set[str], scopes: dict[str, list[str]], public: set[str], default: list[str]
) -> None:
    wanted = {path: expected(path, scopes, public, default) for path in registered}
    strangers = {f"/{name}" for name in {*scopes, *public}} - registered
    torn = scopes.keys() & public

    def make() -> Policy:
        return Policy.of(
            registered, DESCRIPTORS, method_scopes=scopes, public_methods=public, default_scopes=default
        )

    if strangers or torn or None in wanted.values():
        with pytest.raises(PolicyError):
            make()
    else:
        assert make().rules == wanted


async def test_the_policy_is_checked_before_a_port_is_taken() -> None:
    """Whoever is refused leaves nothing behind: not even the constructor has a socket."""
    from gatehouse.rpc import Server
    from tests.support.rpc import Probe, TableVerifier
    from tests.support.services import quiet

    before = asyncio.all_tasks()
    with pytest.raises(PolicyError):
        Server([Probe().service()], verifier=TableVerifier(), tls=ServerTls(plaintext=True), logger=quiet())
    assert asyncio.all_tasks() == before
