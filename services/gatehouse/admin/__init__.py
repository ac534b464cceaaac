"""AdminService: role bindings, the audit trail, and the delivery of role changes to the identity provider."""

DEFAULT_PORT = 50052
