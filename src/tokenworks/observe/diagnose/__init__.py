"""One request explained, and rules from signals to causes to actions."""
