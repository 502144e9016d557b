"""Decisions, as plain Python: state and event in, instructions out. No torch, sockets, asyncio or clocks."""
