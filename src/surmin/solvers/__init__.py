"""Solvers of local losses."""
