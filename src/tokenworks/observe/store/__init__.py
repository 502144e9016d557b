"""The ledger's database: SQLite in the state folder, or PostgreSQL; one schema, and the same code over both."""

from tokenworks.observe.store.open import open_ledger
from tokenworks.observe.store.sql_ledger import SqlLedger

__all__ = ["SqlLedger", "open_ledger"]
