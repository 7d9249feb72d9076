"""A GPU for tests on a machine without one: `make test-emulated-gpu`.

It finds what a GPU would refuse, tensors of two devices in one operation above all, and goes through the code that is
for GPUs. It finds nothing of a GPU's own: other rounding, order of execution, NCCL, speed.
"""
