"""Clients without reflection get all protos with their imports from `gatehouse protos`."""

from __future__ import annotations

from pathlib import Path

from google.protobuf import descriptor_pb2, descriptor_pool

from gatehouse.app.services import SERVICES
from tests.support.cli import Cli


def test_descriptor_set_is_complete_and_has_the_access_rules(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "gatehouse.protoset"
    done = cli("protos", "--output", str(file))
    assert (done.code, done.out, done.err) == (0, f"{file}\n", "")

    pool = descriptor_pool.DescriptorPool()
    for proto in descriptor_pb2.FileDescriptorSet.FromString(file.read_bytes()).file:
        pool.Add(proto)  # fails unless all imports came before
    for spec in SERVICES.values():
        service = pool.FindServiceByName(spec.descriptor.full_name)
        assert [method.name for method in service.methods] == [m.name for m in spec.descriptor.methods]
    assert pool.FindExtensionByName("gatehouse.authz.v1.access")
    assert pool.FindExtensionByName("buf.validate.field")
    assert pool.FindMessageTypeByName("google.rpc.ErrorInfo")
    assert pool.FindServiceByName("grpc.health.v1.Health")


def test_file_that_cannot_be_written_is_an_error_of_one_line(cli: Cli, tmp_path: Path) -> None:
    done = cli("protos", "--output", str(tmp_path))
    assert (done.code, done.out) == (2, "")
    assert done.err == f"gatehouse: {tmp_path}: cannot be written (Is a directory)\n"
