"""Parts of dlADMM: the variables of a layer, and the network's outputs."""
