"""What kills cost: parts of a running system are killed at random instants, and the clients' side is compared with the
ledger's."""
