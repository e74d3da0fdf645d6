"""Ollama as it is: its HTTP API, its environment variables, its log."""
