"""autotune finds the fastest Ollama cluster your GPUs can be while you sleep."""

__version__ = "0.1.0"
