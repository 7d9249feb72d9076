"""Checkpoints of a network and its method: written by any number of workers, continued on any other."""
