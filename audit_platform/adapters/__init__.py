"""One module per system that we do not own; SDK imports live here only."""
