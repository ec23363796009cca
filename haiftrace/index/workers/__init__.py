"""Who makes the shards of an index: this process, several, or a Ray cluster."""

from haiftrace.index.workers.in_process import InProcess
from haiftrace.index.workers.processes import WorkerProcesses
from haiftrace.index.workers.ray_cluster import RayCluster
from haiftrace.index.workers.workforce import Made, ShardJob, Workforce

__all__ = ["InProcess", "Made", "RayCluster", "ShardJob", "WorkerProcesses", "Workforce"]
