"""The same pipeline on a cluster of two nodes."""

from __future__ import annotations

import os
import time

import pytest

from flashvsr.curate.engine import PipelineStage, run_ray
from flashvsr.curate.run import curate
from tests.curate.footage import RULES, make_footage


@pytest.mark.slow  # a cluster of two raylets on this machine
def test_two_nodes_make_the_same_manifest_as_one_process(tmp_path):
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray.cluster_utils import Cluster

    def where(item):  # in here, so that it travels by value: the nodes cannot import this file
        time.sleep(0.3)  # one node must not do it all before the other begins
        return [(item, ray.get_runtime_context().get_node_id())]

    footage = make_footage(tmp_path / "raw")
    alone = curate([footage], tmp_path / "alone", RULES, workers=0).out
    store = {"object_store_memory": 256 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1} | store)
    try:
        cluster.add_node(num_cpus=1, object_store_memory=store["object_store_memory"])
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        cluster.wait_for_nodes()
        assert len({node for _, node in run_ray(range(12), [PipelineStage("where", where)])}) == 2
        together = curate([footage], tmp_path / "together", RULES, cluster=cluster.address).out
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert (together / "manifest.jsonl").read_bytes() == (alone / "manifest.jsonl").read_bytes()
    shards = sorted(path.relative_to(alone) for path in alone.rglob("*.tar"))
    assert shards
    assert all((together / shard).read_bytes() == (alone / shard).read_bytes() for shard in shards)
