"""Solving for candidate steps, running them, and accepting one or raising the damping."""
