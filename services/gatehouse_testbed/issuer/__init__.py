"""The embedded development issuer: a stand-in for Keycloak on the same realm file. Not for production."""

from gatehouse_testbed.issuer.app import create_app
from gatehouse_testbed.issuer.realm import Realm, RealmError, load_realm
from gatehouse_testbed.issuer.run import IssuerError, RunningIssuer, run_issuer

__all__ = ["IssuerError", "Realm", "RealmError", "RunningIssuer", "create_app", "load_realm", "run_issuer"]
