"""The gateway's edges: gRPC to clients, gRPC to the scheduler, Redis, LZ4, Prometheus. They translate,
nothing else."""
