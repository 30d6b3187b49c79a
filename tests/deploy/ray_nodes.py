"""A Ray cluster of several nodes on this machine; run by Ray's own environment, and told what to do by its input.

Says `ready ADDRESS`, then answers every line: `add` with the new node's id, `kill ID` with `killed`.
Ends with its input.
"""

from __future__ import annotations

import sys

from ray.cluster_utils import Cluster

STORE_BYTES = 80 * 1024 * 1024
"""Of each node's object store, which is not used here; Ray takes a third of the machine's memory by default."""


def main() -> None:
    head = {"num_cpus": 0, "num_gpus": 0, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = {}
    say(f"ready {cluster.address}")
    for line in sys.stdin:
        what, *names = line.split()
        if what == "add":
            # A core each: one worker fits.
            node = cluster.add_node(num_cpus=1, num_gpus=0, object_store_memory=STORE_BYTES)
            nodes[node.node_id] = node
            say(node.node_id)
        else:
            cluster.remove_node(nodes.pop(names[0]), allow_graceful=False)
            say("killed")
    cluster.shutdown()


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
