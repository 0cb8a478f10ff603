"""What an operator sees of a running node: the access log and the monitor's web pages."""
