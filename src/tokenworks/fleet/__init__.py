"""Starts, watches, restarts and drains the processes of one machine. Imports only `contract` of ours, and no torch."""
