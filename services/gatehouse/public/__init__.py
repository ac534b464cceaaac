"""PublicService: what this system is and which access rules it has."""

DEFAULT_PORT = 50053
