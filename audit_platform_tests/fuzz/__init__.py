"""Foreign bytes: every parser takes any bytes and answers or refuses, and never breaks."""
