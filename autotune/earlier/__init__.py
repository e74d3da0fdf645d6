"""Earlier studies of the same devices and model: which there are, how far they count, and what they tell a new one.

A study on other devices, or of another model, tells nothing. One on the same teaches the parameters of the law
(`belief.prior`), the less the more has changed since: each change adds to how far they may have drifted. What was best
there is tried first. No trial of it counts as one of the new study, and its proof proves nothing there.

What a study begins with is kept in its folder, so that a night that was interrupted goes on as it would have, whatever
has become of the others since.
"""

from autotune.earlier.warmth import Earlier, Warmth, begin, kept, look

__all__ = ["Earlier", "Warmth", "begin", "kept", "look"]
