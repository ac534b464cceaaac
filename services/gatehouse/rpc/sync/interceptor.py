"""The interceptor for a synchronous `grpc.server`."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import grpc
import protovalidate
from structlog.typing import FilteringBoundLogger

from gatehouse.background import BackgroundLoop
from gatehouse.oauth import TokenVerifier
from gatehouse.rpc._metadata import read_metadata
from gatehouse.rpc._registration import Handler, service_descriptors
from gatehouse.rpc.authorization import AuthorizationInterceptor
from gatehouse.rpc.call import Interceptor, Method, Next, is_health
from gatehouse.rpc.errors import ErrorsInterceptor
from gatehouse.rpc.limits import LimitsInterceptor, MetadataInterceptor
from gatehouse.rpc.logging import LoggingInterceptor
from gatehouse.rpc.metrics import RpcMetrics
from gatehouse.rpc.policy import Policy, PolicyOptions
from gatehouse.rpc.sync._method import SyncMethod, wait_for_handler
from gatehouse.settings import ServerSettings


class OAuth2ServerInterceptor(grpc.ServerInterceptor):
    """Admit a call by its token and the access rule of its RPC, or refuse it before its request is read.

    Handlers are called as they would be without it. They may use `current_principal()` and raise domain
    errors. A stream ends when its token is no longer valid; a handler that is blocked then, other than in
    reading or writing messages, runs on until it returns.

    Args:
        verifier: Verifies access tokens; used on `background` only.
        background: Runs the checks.
        services: Full names of the services whose rules are in their protos, such as
            `gatehouse.users.v1.UserService`. Their generated modules must have been imported.
        logger: Gets a line for each RPC.
        metrics: Metrics of RPCs; by default they are not exported.
        settings: Limits; all defaults if None. Address and message sizes are up to the server.
        policy: Access rules for RPCs whose protos have none. Calls to RPCs without any rule are refused with
            UNIMPLEMENTED.

    Raises:
        PolicyError: A service is unknown, an RPC has no access rule, or a rule is invalid.
    """

    def __init__(
        self,
        verifier: TokenVerifier,
        background: BackgroundLoop,
        services: Iterable[str],
        *,
        logger: FilteringBoundLogger,
        metrics: RpcMetrics | None = None,
        settings: ServerSettings | None = None,
        policy: PolicyOptions | None = None,
    ) -> None:
        settings = settings or ServerSettings()
        self._background = background
        self._max_metadata_bytes = settings.max_metadata_bytes
        self._metrics, self._log_lines = metrics or RpcMetrics(), LoggingInterceptor(logger)
        self._validator = protovalidate.Validator()
        descriptors = service_descriptors(services)
        options = (policy or PolicyOptions()).with_public(path for path in descriptors if is_health(path))
        described = {path.split("/")[1] for path in descriptors}
        others = {path for path in options.paths() if path.split("/")[1] not in described}
        self.policy = Policy.of({*descriptors, *others}, descriptors, options)
        self._chain: list[Interceptor] = [
            self._metrics,
            self._log_lines,
            ErrorsInterceptor(logger),
            MetadataInterceptor(settings.max_metadata_bytes),
            LimitsInterceptor(settings),
            AuthorizationInterceptor(verifier, self._metrics, recheck_seconds=settings.recheck_seconds),
        ]
        self._methods: dict[str, SyncMethod] = {}

    def flush(self) -> None:
        """Write the log lines and record the durations of calls that have ended."""

        async def flush() -> None:
            self._metrics.flush()
            self._log_lines.flush()

        self._background.run(flush())

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """See grpc.ServerInterceptor. It waits for nothing, because one thread runs it for all calls."""
        path = handler_call_details.method
        handler = continuation(handler_call_details)
        if handler is None or path not in self.policy.rules:
            return None
        if path not in self._methods:
            self._methods[path] = self._method(path, handler)
        entries = handler_call_details.invocation_metadata
        return self._methods[path].handler_for(read_metadata(entries, self._max_metadata_bytes))

    def _method(self, path: str, handler: Handler) -> SyncMethod:
        method = Method.of(path, self.policy[path], handler)
        chain: Next = wait_for_handler
        for interceptor in reversed(self._chain):
            chain = interceptor.intercept(method, chain)
        return SyncMethod(method, chain, self._background, self._validator)
