"""The file between gateway and ledger: frames appended at once, read again whole."""
