"""What a service is: one value that says how to register, configure, migrate, probe and build it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from copy import copy
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

from google.protobuf.descriptor import ServiceDescriptor
from pydantic import create_model

from gatehouse.settings import IssuerSettings, OAuthClientSettings, ServiceSettings, TlsSettings

if TYPE_CHECKING:  # a command that only reads the specs does not import servers and drivers
    import httpx
    from opentelemetry.metrics import Meter
    from opentelemetry.trace import Tracer
    from structlog.typing import FilteringBoundLogger

    from gatehouse.oauth import OAuthError
    from gatehouse.rpc import AccessRule
    from gatehouse.runtime.doctor import Result
    from gatehouse.storage import Database
    from gatehouse.storage.standbys import StandbyReads

S = TypeVar("S", bound=ServiceSettings)


class BackgroundWork(Protocol):
    """Background work of a service."""

    async def start(self) -> None:
        """Start it."""
        ...

    async def aclose(self) -> None:
        """Stop it."""
        ...


@dataclass(frozen=True, slots=True)
class BuiltService:
    """A service that is ready to be served.

    Attributes:
        servicer: Implementation of the generated servicer class.
        background: Started in this order before the server, stopped in reverse order after it.
    """

    servicer: object
    background: Sequence[BackgroundWork] = ()


@dataclass(frozen=True, slots=True)
class ServiceContext(Generic[S]):
    """Everything that a service may use to build itself.

    Attributes:
        settings: Settings of this service.
        database: Connection pool of the service's login role.
        issuers: Issuers whose tokens are accepted.
        http_for: Returns the HTTP client for requests to the issuer that a section names.
        issuer_asked: Records the result of a request to an issuer; see oauth.Observer.
        client_tls: TLS of gRPC channels to other services.
        channel_options: Options of gRPC for these channels, in addition to those of client.connect.
        rules: Access rules of all services, by path.
        logger: Logger of the process.
        tracer: Tracer of the process.
        meter: Meter of the process.
        clock: Seconds since the epoch.
        monotonic: Clock in seconds.
        exit_stack: Closes what the service opens, when the process ends.
        standbys: Reads from standbys; None if there are none. The service starts and closes it.
    """

    settings: S
    database: Database
    issuers: Sequence[IssuerSettings]
    http_for: Callable[[IssuerSettings | OAuthClientSettings], httpx.AsyncClient]
    issuer_asked: Callable[[str, str, OAuthError | None], None]
    client_tls: TlsSettings
    channel_options: Sequence[tuple[str, Any]]
    rules: Mapping[str, AccessRule]
    logger: FilteringBoundLogger
    tracer: Tracer
    meter: Meter
    clock: Callable[[], float]
    monotonic: Callable[[], float]
    exit_stack: AsyncExitStack
    standbys: StandbyReads | None = None


@dataclass(frozen=True, slots=True)
class ServiceSpec(Generic[S]):
    """One service.

    Attributes:
        name: Short name, used for settings, the command line, targets, the login role and migrations.
        descriptor: Descriptor of the proto service.
        default_port: Port unless `GATEHOUSE_<NAME>__PORT` is set.
        schema: PostgreSQL schema of its tables.
        probe: SQL statement that succeeds if the schema is migrated and the login role may read it.
        build: Build the servicer and its background work.
        settings: Settings class of the service, if it needs more than ServiceSettings.
        read_only: Whether the service is ready on a database that accepts no changes, such as a standby.
        needs_issuer: Whether the service is only ready when an issuer's tokens can be verified.
        checks: Check what only this service uses, for `gatehouse doctor`.
    """

    name: str
    descriptor: ServiceDescriptor
    default_port: int
    schema: str
    probe: str
    build: Callable[[ServiceContext[S]], Awaitable[BuiltService]]
    settings: type[S] = cast("type[Any]", ServiceSettings)  # noqa: RUF009 - a class, not a mutable default
    read_only: bool = False
    needs_issuer: bool = True
    checks: Callable[[ServiceContext[S]], Awaitable[Sequence[Result]]] | None = None

    def register(self, servicer: object, server: object) -> None:
        """Register the servicer with the generated code of the service.

        The module of that code imports grpc, so it is imported here and not by the spec.
        """
        module = self.descriptor.file.name.removesuffix(".proto").replace("/", ".") + "_pb2_grpc"
        getattr(import_module(module), f"add_{self.descriptor.name}Servicer_to_server")(servicer, server)

    def login_role(self, prefix: str = "gatehouse") -> str:
        """Return the PostgreSQL login role of the service; see DatabaseSettings.role_prefix."""
        return f"{prefix}_{self.name}"

    def settings_section(self) -> type[S]:
        """Return the settings class of the service with the default port of this spec."""
        port = copy(self.settings.model_fields["port"])
        port.default = self.default_port
        name = f"{self.name.capitalize()}Settings"
        return create_model(name, __base__=self.settings, port=(int, port))

    def paths(self) -> Iterable[str]:
        """Yield the path `/package.Service/Method` of every RPC."""
        for method in self.descriptor.methods:
            yield f"/{self.descriptor.full_name}/{method.name}"
