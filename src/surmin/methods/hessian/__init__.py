"""Exact products with the Hessian of the loss, for the methods that need them."""
