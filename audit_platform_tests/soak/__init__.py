"""Random kills of real processes under load; `make soak` does many, CI does 25."""
