"""The two commands people type: `zkafka` and `zkafka-cluster`.

`zkafka` is a client of any Kafka: its modules (`records`, `topics`, `groups`, `inspect`, `znodes`)
hold one group of commands each and speak through confluent-kafka, except `znodes`, which reads
ZooKeeper and decodes what it finds. `zkafka-cluster` (`cluster`, `demo`) runs a ZooKeeper and
brokers on this machine. What a command found goes through `output`: a table for a person, JSON
for a program.
"""
