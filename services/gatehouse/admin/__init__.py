"""AdminService: role bindings, the audit trail, and the worker that tells the identity provider."""
