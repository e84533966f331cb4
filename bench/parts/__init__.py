"""What is measured, part by part; `PARTS` is the order of the table."""

from bench.parts import latency, throughput

PARTS = (*throughput.PARTS, *latency.PARTS)
