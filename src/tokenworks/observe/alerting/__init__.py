"""Alerts by burn rate, and their delivery."""
