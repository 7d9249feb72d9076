"""For methods that solve block by block: vectors of blocks, a quadratic model of steps, a joint line search."""
