"""Run the scripts of one branch on the connection that gatehouse.storage.migrations passes in."""

from alembic import context

attributes = context.config.attributes
context.configure(
    connection=attributes["connection"],
    version_table_schema=attributes["schema"],
    transaction_per_migration=True,
    # For the GRANTs of the scripts: op.get_context().opts["login_role"].
    login_role=attributes["login_role"],
)
with context.begin_transaction():
    context.run_migrations()
