"""What moved in traffic and answers."""
