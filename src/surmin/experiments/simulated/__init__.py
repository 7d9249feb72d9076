"""Measured runs put on links of every kind, and which method wins where."""
