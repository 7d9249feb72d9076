"""What workers did when: traced runs, timelines, and the Chrome trace format."""
