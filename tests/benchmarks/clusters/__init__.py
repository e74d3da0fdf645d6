"""Made-up clusters with a simulated truth, on which a search can be held against the best there is.

Nothing here shares a formula with the search: what a configuration does is simulated, event by event, from tables.
"""

from tests.benchmarks.clusters.adverse import ADVERSE
from tests.benchmarks.clusters.cluster import Cluster
from tests.benchmarks.clusters.families import DEV_SEEDS, FAMILIES, TEST_SEEDS
from tests.benchmarks.clusters.profile import profiled
from tests.benchmarks.clusters.truth import Truth

ALL = {**FAMILIES, **ADVERSE}

__all__ = ["ADVERSE", "ALL", "DEV_SEEDS", "FAMILIES", "TEST_SEEDS", "Cluster", "Truth", "profiled"]
