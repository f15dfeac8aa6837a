"""Dead letters and what is decided about them: looked at, proposed, approved, replayed."""
