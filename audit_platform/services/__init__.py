"""The long-running programs, in the order in which the data meets them."""
