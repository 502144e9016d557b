"""The inference engine: checkpoint to packed weights, step plan to tokens. torch starts here."""
