"""Measured runs put on links of every kind, and who wins where."""
