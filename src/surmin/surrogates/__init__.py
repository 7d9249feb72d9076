"""Local losses: the surrogates that blocks minimise, and the rules that decouple them."""
