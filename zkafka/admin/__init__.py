"""The operator's port: what Prometheus scrapes, and whether the broker is alive and ready.

`http.py` serves three pages and nothing else; `metrics.py` reads the parts' `statistics()` on each
scrape and names what it finds as Kafka's JMX beans are named by the usual exporter rules;
`readiness.py` says what a broker still lacks before clients may rely on it; `loop.py` measures the
one loop that everything runs in. There is no second set of counters anywhere.

Off unless `zkafka.admin.listener` names an address. It has no authentication: bind it where only
operators can reach it.
"""
