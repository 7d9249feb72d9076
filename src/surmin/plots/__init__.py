"""Curves and the report page: data first, then drawn."""
