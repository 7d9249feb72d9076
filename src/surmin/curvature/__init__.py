"""Output curvatures that go down the pipe, and the curvature they leave in every block."""
