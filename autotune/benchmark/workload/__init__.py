"""What is asked. Equal (seed, index) give equal bodies in every trial: trials differ in nothing but the cluster.

Only the nonce in front is fresh, for each request and trial: a body that the server has seen before would be answered
from its prompt cache, and be measured too fast. The nonce comes first because a cache keeps the longest common start.
Workloads that are meant to find a cache share beginnings of their own trial, never those of an earlier one, and say so.
"""

from autotune.benchmark.workload.conversations import ConversationWorkload
from autotune.benchmark.workload.lengths import Lengths
from autotune.benchmark.workload.making import PromptFile, make
from autotune.benchmark.workload.prefixes import Prefixes, PrefixWorkload
from autotune.benchmark.workload.prompt import Prompt, Workload, calibrate, mark
from autotune.benchmark.workload.seeded import SeededWorkload
from autotune.benchmark.workload.texts import JsonlWorkload, ShareGptWorkload
from autotune.benchmark.workload.trace import TraceWorkload

__all__ = [
    "ConversationWorkload",
    "JsonlWorkload",
    "Lengths",
    "PrefixWorkload",
    "Prefixes",
    "Prompt",
    "PromptFile",
    "SeededWorkload",
    "ShareGptWorkload",
    "TraceWorkload",
    "Workload",
    "calibrate",
    "make",
    "mark",
]
