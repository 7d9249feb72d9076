"""The link laboratory: workers in network namespaces, joined by links of a chosen latency and rate."""
