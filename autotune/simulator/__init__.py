"""The stand-in: a real process on a real port that speaks Ollama's HTTP and obeys a performance model.

It ships with the product and is chosen like any driver. `model` holds the laws, `profiles` the figures, `clock` a clock
that does not wait; `python -m autotune.simulator serve` is one instance.
"""

SIMULATED = "SIMULATED: figures of a played host, not of this one"
"""What every output says whose figures come from it, or from a clock that runs faster than a real one."""
