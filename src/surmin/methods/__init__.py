"""Everything Surrogate Minimization is compared with, behind one interface; `registry` has the names."""
