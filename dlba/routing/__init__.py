"""The scheduler: from a client's frame for the virtual IP to the node that gets it."""
