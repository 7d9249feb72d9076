"""For methods with small networks beside the stages, which train along: heads, and synthesizers of gradients."""
