"""Figures of zkafka beside Apache Kafka 3.9, on one machine, in one run.

Two clusters stand on one ZooKeeper, each under a chroot of its own, with the same few settings;
everything else is each product's default, for Apache Kafka the heap, collector and flags that its
own start scripts set. Both stay up while a part is measured, and only one is loaded at a time,
A B A B: a JVM that was started anew for each round would be measured cold, and the little that an
idle neighbour costs is a figure of its own. Load comes from librdkafka, kcat and Apache Kafka's own
tools, in processes of their own; the brokers' CPU seconds and peak memory are read from /proc.

- `sides` starts and stops clusters of either kind; `accounting` reads what they cost; `wire` asks.
- `clients` runs in a client process; `loads` starts one, or a Java tool, and reads its answer.
- `cases` says what a measurement is; `parts` holds them; `runner` carries them out.
- `results` keeps rounds, medians, ratios and goals; `report`, `chart` and `compare` read them.
"""
