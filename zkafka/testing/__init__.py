"""A cluster in your tests that loses brokers, without containers.

What starts clusters and breaks them for this project's own integration and chaos tests, and for
anybody else's:

- `cluster.Cluster`: real broker processes on free ports beside a real ZooKeeper, or brokers inside
  the test's own trio loop, with faults as methods: `kill`, `pause`, `resume`, `stop`, `restart`,
  `expire_session`, `cut`, `black_hole`, `heal`. `blocking.BlockingCluster` is the same for tests
  without trio.
- `zookeeper.ZooKeeper`: a standalone server or an ensemble on loopback, which can be stopped,
  started with the same data, wiped and paused.
- `workload.Workload`: idempotent producers and a consumer group in processes of their own, which
  write down what they see; `observer.Observer` writes down leaders and high watermarks.
- `history` and `checker`: what clients saw, judged in Jepsen's terms.
- `plugin`: pytest fixtures.

Below them, `proxy` decides who can reach whom, and `processes` starts and signals what runs beside
us. Machines: `history` and `checker`, which know no clock, socket or file.
"""
