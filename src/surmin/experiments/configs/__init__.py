"""What each command is told: its options, checked, as they are written to `config.json`."""
