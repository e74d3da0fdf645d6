"""The load on a cluster: what is asked, when, and what became of it."""
