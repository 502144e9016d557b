"""The workers and stores that are there, and the sequences that are on their way between clients and them."""
