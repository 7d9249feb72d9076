"""Parts of L-BFGS: flat parameters, the memory, and the strong-Wolfe line search."""
