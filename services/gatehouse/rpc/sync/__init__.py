"""The access rules, checks and statuses of `gatehouse.rpc.Server` for a synchronous `grpc.server`.

The chain of interceptors runs on an event loop in a separate thread. The handler runs in the thread pool of
the server, and waits there until the chain admits the call. So a slow issuer holds up only the calls whose
tokens it has to verify.
"""

from gatehouse.rpc.sync.interceptor import OAuth2ServerInterceptor

__all__ = ["OAuth2ServerInterceptor"]
