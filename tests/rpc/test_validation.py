"""Validation: an invalid request is refused with the path of each field, without values."""

import json
from typing import Any

import grpc
import grpc.aio
import protovalidate
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from buf.validate import validate_pb2
from gatehouse.rpc import Service
from gatehouse.rpc.errors import StatusError
from gatehouse.rpc.validation import parser
from gatehouse.users.v1 import users_pb2
from tests.support.eventually import eventually
from tests.support.rpc import Env, details_of, error_info, open_env, principal

_FIELD = descriptor_pb2.FieldDescriptorProto


def _order() -> Any:
    """Return a message class with constraints on a list of messages, a map by number and a map by text."""
    file = descriptor_pb2.FileDescriptorProto(
        name="probe/order.proto",
        package="probe.order.v1",
        syntax="proto3",
        dependency=["buf/validate/validate.proto"],
    )
    item = file.message_type.add(name="Item")
    name = item.field.add(name="name", number=1, type=_FIELD.TYPE_STRING, label=_FIELD.LABEL_OPTIONAL)
    name.options.Extensions[validate_pb2.field].string.min_len = 1
    order = file.message_type.add(name="Order")
    order.field.add(
        name="items",
        number=1,
        type=_FIELD.TYPE_MESSAGE,
        label=_FIELD.LABEL_REPEATED,
        type_name=".probe.order.v1.Item",
    )
    for number, (field, key) in enumerate(
        [("labels", _FIELD.TYPE_STRING), ("counts", _FIELD.TYPE_INT32)], start=2
    ):
        entry = order.nested_type.add(name=f"{field.capitalize()}Entry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, type=key, label=_FIELD.LABEL_OPTIONAL)
        entry.field.add(name="value", number=2, type=_FIELD.TYPE_STRING, label=_FIELD.LABEL_OPTIONAL)
        added = order.field.add(
            name=field,
            number=number,
            type=_FIELD.TYPE_MESSAGE,
            label=_FIELD.LABEL_REPEATED,
            type_name=f".probe.order.v1.Order.{field.capitalize()}Entry",
        )
        added.options.Extensions[validate_pb2.field].map.values.string.max_len = 3
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(
        descriptor_pool.Default().FindMessageTypeByName("probe.order.v1.Order")
    )


Order: Any = _order()


def violations_of(message: Any) -> list[tuple[str, str]]:
    """Return (path, reason) of each violation in a message."""
    parse = parser(type(message).FromString, protovalidate.Validator())
    with pytest.raises(StatusError) as caught:
        parse(message.SerializeToString())
    status = caught.value.status
    assert status.code is grpc.StatusCode.INVALID_ARGUMENT
    return [(v.field, v.reason) for v in status.details[1].field_violations]  # type: ignore[attr-defined]


def test_a_field_is_reported_by_its_path() -> None:
    message = users_pb2.CreateUserRequest(user=users_pb2.User(email="not-an-address", display_name="A"))
    assert violations_of(message) == [("user.email", "STRING_EMAIL")]


def test_an_element_of_a_list_is_reported_by_its_index() -> None:
    order = Order()
    order.items.add(name="good")
    order.items.add()
    assert violations_of(order) == [("items[1].name", "STRING_MIN_LEN")]


def test_the_key_of_a_map_is_not_reported() -> None:
    """A key is a value of the request."""
    assert violations_of(Order(labels={"canary": "long"})) == [("labels[*]", "STRING_MAX_LEN")]
    assert violations_of(Order(counts={4711: "long"})) == [("counts[*]", "STRING_MAX_LEN")]


def test_a_valid_message_is_parsed() -> None:
    order = Order(labels={"a": "b"})
    assert parser(Order.FromString, protovalidate.Validator())(order.SerializeToString()) == order


def test_a_handler_can_use_another_serialization() -> None:
    parse = parser(json.loads, protovalidate.Validator())
    assert parse(b'{"a": 1}') == {"a": 1}
    with pytest.raises(StatusError, match="INVALID_ARGUMENT"):
        parse(b"{")


def test_at_most_fifty_violations_are_reported() -> None:
    order = Order()
    for _ in range(60):
        order.items.add()
    assert len(violations_of(order)) == 50


@pytest.fixture
def users() -> Service:
    """UserService.CreateUser, which returns the user in the request."""

    async def create(request: users_pb2.CreateUserRequest, context: object) -> users_pb2.User:
        return request.user

    def add(_: object, server: Any) -> None:
        handler = grpc.unary_unary_rpc_method_handler(
            create, users_pb2.CreateUserRequest.FromString, users_pb2.User.SerializeToString
        )
        server.add_registered_method_handlers("gatehouse.users.v1.UserService", {"CreateUser": handler})

    return Service(add, object())


def create_user(env: Env, request: users_pb2.CreateUserRequest) -> Any:
    stub: Any = env.client.channel.unary_unary(
        "/gatehouse.users.v1.UserService/CreateUser",
        users_pb2.CreateUserRequest.SerializeToString,
        users_pb2.User.FromString,
    )
    return stub(request, metadata=(("authorization", "Bearer writer"),), timeout=10)


async def test_an_invalid_request_is_refused_with_bad_request(users: Any) -> None:
    async with open_env(services=[users]) as env:
        env.verifier.answers["writer"] = principal("write:users")
        bad = users_pb2.CreateUserRequest(user=users_pb2.User(email="canary", display_name="A"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await create_user(env, bad)
        await eventually(env.lines)
        assert caught.value.details() == "invalid request: user.email"
        trailers = caught.value.trailing_metadata()
        assert error_info(trailers).reason == "REQUEST_INVALID"
        (violation,) = details_of(trailers)[1].field_violations
        assert violation.field == "user.email"
        assert "canary" not in f"{trailers} {env.log}"


async def test_a_valid_request_is_accepted(users: Any) -> None:
    async with open_env(services=[users]) as env:
        env.verifier.answers["writer"] = principal("write:users")
        good = users_pb2.CreateUserRequest(user=users_pb2.User(email="a@example.com", display_name="A"))
        assert (await create_user(env, good)).email == "a@example.com"
