"""A client of UserService: it retries, and tells its callers to log in again."""

from __future__ import annotations

from pathlib import Path

import grpc

from gatehouse.users.v1 import users_pb2, users_pb2_grpc

ATTEMPTS = 3


class LoginRequired(Exception):
    """The access token is not accepted; get a new one."""


class UserClient:
    """Reads users.

    Args:
        target: Address of UserService.
        ca_file: Certificate authority of UserService.
        token: Access token.
    """

    def __init__(self, target: str, ca_file: Path, token: str) -> None:
        credentials = grpc.ssl_channel_credentials(ca_file.read_bytes())
        self._channel = grpc.secure_channel(target, credentials)
        self._stub = users_pb2_grpc.UserServiceStub(self._channel)
        self._metadata = [("authorization", f"Bearer {token}")]

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def get_user(self, user_id: str, timeout: float = 5.0) -> users_pb2.User:
        """Return a user; try again while the service is unavailable.

        Raises:
            LoginRequired: The access token is not accepted.
            grpc.RpcError: The call fails for another reason.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                user: users_pb2.User = self._stub.GetUser(
                    users_pb2.GetUserRequest(user_id=user_id), metadata=self._metadata, timeout=timeout
                )
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                    raise LoginRequired from None
                if error.code() is not grpc.StatusCode.UNAVAILABLE or attempt == ATTEMPTS:
                    raise
            else:
                return user
        raise AssertionError("unreachable")
