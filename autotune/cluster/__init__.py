"""The running cluster: instances by a driver, nginx in front, proof of what really runs."""
