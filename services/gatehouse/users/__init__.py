"""UserService: the directory of users."""
