"""An array in network namespaces on one machine, to try and to test."""
