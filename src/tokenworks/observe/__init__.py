"""The one table: journal, ledger, cost, table, explanation, diagnosis, drift and alerts, all from the same records."""
