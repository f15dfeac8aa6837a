"""The packaged excerpt of real bedside data, its devices, and the story of the first command."""
