"""The observer's process: it carries the journal into the ledger, answers questions, and runs what looks out."""
