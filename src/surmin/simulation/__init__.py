"""A model of compute and links: how long recorded rounds would take on workers joined by links that are not at hand."""
