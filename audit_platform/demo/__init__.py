"""The packaged excerpt of real bedside data, its feeder, and the story of the first command."""
