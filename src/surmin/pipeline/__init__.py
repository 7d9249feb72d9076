"""Carrying waves through the stages, and counting what that costs."""
