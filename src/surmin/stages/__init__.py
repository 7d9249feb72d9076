"""Cutting a network into stages, and one stage or layer at one point."""
