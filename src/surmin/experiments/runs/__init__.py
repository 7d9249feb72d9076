"""One run: its folder, its rounds, checkpoints and metrics, and how it is resumed."""
