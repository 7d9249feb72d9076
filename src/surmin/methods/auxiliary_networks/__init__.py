"""For methods that train small networks beside the stages: heads, and synthesizers of gradients."""
