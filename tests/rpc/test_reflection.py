"""Reflection as grpcurl, grpcui and ghz use it."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_reflection.v1alpha import reflection_pb2

from gatehouse.rpc import Service
from gatehouse.rpc.policy import AccessRule, PolicyError
from gatehouse.users.v1 import users_pb2, users_pb2_grpc
from tests.support.rpc import PROBE, Env, open_env

VERSIONS = ["v1", "v1alpha"]
USERS = "gatehouse.users.v1"
USERS_FILE, AUTHZ_FILE = "gatehouse/users/v1/users.proto", "gatehouse/authz/v1/authz.proto"
HEALTH_FILE, VALIDATE_FILE = "grpc_health/v1/health.proto", "buf/validate/validate.proto"


def reflection_path(version: str) -> str:
    return f"grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"


def user_service() -> Service:
    """UserService without an implementation."""

    async def unused(request: Any, context: Any) -> None:
        raise AssertionError

    names = [method.name for method in users_pb2.DESCRIPTOR.services_by_name["UserService"].methods]
    servicer = type("Servicer", (), dict.fromkeys(names, staticmethod(unused)))()
    return Service(users_pb2_grpc.add_UserServiceServicer_to_server, servicer)


@pytest.fixture(scope="module", params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def env() -> AsyncIterator[Env]:
    async with open_env(services=[user_service()], reflection=True) as env:
        yield env


async def ask(env: Env, version: str, *requests: dict[str, Any], **call: Any) -> list[Any]:
    """Send requests on one stream and return the responses."""
    stub: Any = env.client.channel.stream_stream(
        f"/{reflection_path(version)}",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    sent = [reflection_pb2.ServerReflectionRequest(**fields) for fields in requests]
    return [response async for response in stub(iter(sent), timeout=10, **call)]


def files_of(response: Any) -> list[descriptor_pb2.FileDescriptorProto]:
    raw = response.file_descriptor_response.file_descriptor_proto
    return [descriptor_pb2.FileDescriptorProto.FromString(one) for one in raw]


def pool_of(files: list[descriptor_pb2.FileDescriptorProto]) -> descriptor_pool.DescriptorPool:
    """Build a pool of a response; it fails if an import is missing."""
    by_name = {file.name: file for file in files}
    pool = descriptor_pool.DescriptorPool()

    def add(name: str) -> None:
        if name in by_name:
            file = by_name.pop(name)
            for dependency in file.dependency:
                add(dependency)
            pool.Add(file)

    for file in files:
        add(file.name)
    return pool


async def names_by_reflection(env: Env, version: str, **call: Any) -> list[str]:
    (answer,) = await ask(env, version, {"list_services": ""}, **call)
    return [service.name for service in answer.list_services_response.service]


async def test_services_are_listed(env: Env, version: str) -> None:
    assert await names_by_reflection(env, version) == sorted(
        [
            f"{USERS}.UserService",
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
            PROBE,
        ]
    )


SYMBOLS = {
    f"{USERS}.UserService": USERS_FILE,
    f"{USERS}.UserService.ListUsers": USERS_FILE,
    f"{USERS}.User": USERS_FILE,
    f"{USERS}.User.display_name": USERS_FILE,
    "gatehouse.authz.v1.access": AUTHZ_FILE,
    "buf.validate.field": VALIDATE_FILE,
    "buf.validate.FieldRules.type": VALIDATE_FILE,
    "google.api.REQUIRED": "google/api/field_behavior.proto",
    "google.rpc.ErrorInfo": "google/rpc/error_details.proto",
    "google.rpc.BadRequest.FieldViolation": "google/rpc/error_details.proto",
    "grpc.health.v1.HealthCheckResponse.ServingStatus": HEALTH_FILE,
    "grpc.health.v1.HealthCheckResponse.SERVING": HEALTH_FILE,
    "grpc.health.v1.HealthCheckResponse.ServingStatus.SERVING": HEALTH_FILE,
    "grpc.reflection.v1.ServerReflection.ServerReflectionInfo": "grpc_reflection/v1/reflection.proto",
    "grpc.reflection.v1alpha.ServerReflectionRequest.host": "grpc_reflection/v1alpha/reflection.proto",
}


async def test_every_kind_of_symbol_is_found_with_all_imports(env: Env, version: str) -> None:
    requests = [{"file_containing_symbol": symbol} for symbol in SYMBOLS]
    answers = await ask(env, version, *requests)
    found = {a.original_request.file_containing_symbol: files_of(a) for a in answers}
    assert {symbol: files[0].name for symbol, files in found.items()} == SYMBOLS
    for files in found.values():
        pool_of(files)


async def test_a_client_can_build_messages_and_read_access_rules(env: Env, version: str) -> None:
    (answer,) = await ask(env, version, {"file_containing_symbol": f"{USERS}.UserService.ListUsers"})
    pool = pool_of(files_of(answer))
    method = pool.FindServiceByName(f"{USERS}.UserService").methods_by_name["ListUsers"]
    message = message_factory.GetMessageClass(method.input_type)(page_size=3)
    assert users_pb2.ListUsersRequest.FromString(message.SerializeToString()).page_size == 3
    assert b"read:users" in method.GetOptions().SerializeToString()


async def test_descriptors_have_json_names(env: Env, version: str) -> None:
    """Without them, grpcurl reads and prints names in snake_case only."""
    (answer,) = await ask(env, version, {"file_by_filename": USERS_FILE})
    (user,) = [m for m in files_of(answer)[0].message_type if m.name == "User"]
    assert {f.name: f.json_name for f in user.field}["display_name"] == "displayName"
    messages = [m for file in files_of(answer) for m in file.message_type]
    for message in messages:  # which grows by nested messages
        assert all(field.json_name for field in message.field), message.name
        messages += message.nested_type


async def test_extensions_are_found_by_their_number(env: Env, version: str) -> None:
    field, method = "google.protobuf.FieldOptions", "google.protobuf.MethodOptions"
    numbers, empty, file, *missing = await ask(
        env,
        version,
        {"all_extension_numbers_of_type": field},
        {"all_extension_numbers_of_type": f"{USERS}.User"},
        {"file_containing_extension": {"containing_type": method, "extension_number": 50551}},
        {"file_containing_extension": {"containing_type": method, "extension_number": 1}},
        {"file_containing_extension": {"containing_type": "no.Message", "extension_number": 1}},
        {"all_extension_numbers_of_type": "no.Message"},
    )
    assert numbers.all_extension_numbers_response.base_type_name == field
    assert list(numbers.all_extension_numbers_response.extension_number) == [1052, 1159, 1160]
    assert list(empty.all_extension_numbers_response.extension_number) == []
    assert files_of(file)[0].name == AUTHZ_FILE
    assert [a.error_response.error_code for a in missing] == [grpc.StatusCode.NOT_FOUND.value[0]] * 3


@pytest.mark.parametrize("symbol", ["", "no.such.Symbol", f"{USERS}.UserService.NoMethod", USERS, PROBE])
async def test_an_unknown_symbol_is_not_found_and_the_stream_continues(
    env: Env, version: str, symbol: str
) -> None:
    unknown, file, listed = await ask(
        env,
        version,
        {"file_containing_symbol": symbol, "host": "h"},
        {"file_by_filename": "no/such.proto"},
        {"list_services": ""},
    )
    assert (unknown.error_response.error_code, unknown.valid_host) == (
        grpc.StatusCode.NOT_FOUND.value[0],
        "h",
    )
    assert file.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    assert listed.list_services_response.service


async def test_a_request_without_a_question_is_invalid(env: Env, version: str) -> None:
    (answer,) = await ask(env, version, {})
    assert answer.error_response.error_code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


async def test_reflection_is_off_by_default(version: str) -> None:
    async with open_env() as env:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await names_by_reflection(env, version)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_reflection_can_have_a_rule() -> None:
    rules = {reflection_path(one): ["use:probe"] for one in VERSIONS}
    async with open_env(reflection=True, method_scopes=rules) as env:
        for one in VERSIONS:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await names_by_reflection(env, one)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert PROBE in await names_by_reflection(env, one, metadata=(("authorization", "Bearer good"),))


async def test_a_rule_for_one_version_does_not_leave_the_other_public(version: str) -> None:
    (other,) = {*VERSIONS} - {version}
    rules = {
        reflection_path(version): ["use:probe"],
        **{f"{PROBE}/{name}": AccessRule(authenticated=True) for name in ("Unary", "ServerStream")},
    }
    public = [f"{PROBE}/{name}" for name in ("ServerStreamByWrite", "ClientStream", "BidiStream")]
    with pytest.raises(PolicyError, match=f"^{reflection_path(other)}: has no access rule"):
        async with open_env(reflection=True, method_scopes=rules, public_methods=public, default_scopes=()):
            pass
