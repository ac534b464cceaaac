"""UserService: the directory of users."""

DEFAULT_PORT = 50051
