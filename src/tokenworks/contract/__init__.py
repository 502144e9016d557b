"""Types that every part shares. Imports nothing else of ours, and no torch."""
