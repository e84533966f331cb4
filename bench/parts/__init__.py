"""What is measured, part by part; `PARTS` is the order of the table."""

from bench.parts import brokers, failures, growth, latency, throughput

PARTS = (
    *throughput.PARTS,
    *latency.PARTS,
    *failures.PARTS,
    *brokers.PARTS,
    *growth.PARTS,
)
