"""What runs beside sealing, and how many of it at once: sealing always finds a place.

`dagster.yaml` lets three runs go at once, of them one of each pool; sealing has no pool, so that a
place is always left for it. Belongs here: the pools' tags. Does not: the limits (`dagster.yaml`).
Source: issue "pools so that repairs never starve sealing".
"""

from typing import Final

POOL_TAG: Final = "audit/pool"

#: Repairs and what people launch: one at once.
REPAIR: Final = {POOL_TAG: "repair"}

#: What reads or copies for hours (verification, drills, snapshots): one at once.
CHECK: Final = {POOL_TAG: "check"}

#: Sealing goes before all that waits in the queue.
SEALING: Final = {"dagster/priority": "10"}
