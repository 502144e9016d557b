"""Cost, bill and table: figures of many requests, and whether two of them differ by more than noise."""
