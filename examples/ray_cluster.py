"""A two-node Ray cluster on one machine, and a batch that runs on both of its nodes.

    pip install "avsync[cpu,ray]"
    python examples/ray_cluster.py             # copies of talk.mp4
    python examples/ray_cluster.py FOLDER ...  # your own files

On real machines nothing changes but the address: `ray start --head` on one, `ray start
--address=...` on the others, all with avsync and the files under the same paths, and then
`avsync batch FOLDER -o results.jsonl --engine ray --ray-address auto --jobs 64`.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from avsync import score_many

TALK = Path(__file__).resolve().parent / "talk.mp4"


def main(paths: list[str]) -> None:
    """Start the nodes, run the batch, say which node did how much."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    nodes = {"num_cpus": 1, "object_store_memory": 100_000_000}
    head = {**nodes, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(**nodes)
    cluster.wait_for_nodes()
    print(f"{len(cluster.list_all_nodes())} nodes at {cluster.address}")
    started = time.monotonic()
    count = 0
    try:
        # Each node has one CPU, and each actor asks for one: the two actors go to both nodes.
        for item in score_many(paths, jobs=2, engine="ray", ray_address=cluster.address):
            words = item.error if item.result is None else item.result.describe()
            print(f"{Path(item.path).name} on {str(item.worker)[:13]}: {words}")
            count += 1
        print(f"{count / (time.monotonic() - started):.2f} files/s, start of the actors included")
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    if sys.argv[1:]:
        main(sys.argv[1:])
    else:
        with tempfile.TemporaryDirectory() as room:
            copies = [f"{room}/talk{i}.mp4" for i in range(4)]
            for copy in copies:
                shutil.copy(TALK, copy)
            main(copies)
