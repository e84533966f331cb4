"""The parts' statistics as Prometheus families, under the names that Kafka's operators know.

Nothing is counted here: a scrape reads `statistics()` of the parts, in the loop, and names what it
finds as the usual rules of the JMX exporter name Kafka's beans: domain, type and name in lower
case, joined by `_`; a meter is a counter (`MessagesInPerSec` is `..._messagesin_total`); a tag is a
label. Writing the text is done in a worker thread, since thousands of partitions make megabytes.

Where we differ from what a Kafka broker exports:

- Times are histograms with buckets, which can be added up over brokers; Kafka's are percentiles.
- TotalTimeMs of a request runs from its begin to its answer; waiting in a queue and sending are not
  in it.
- Kafka's two idle percentages (network, request handlers) are both the idle share of our one loop.
- What is ours is called `zkafka_...`.
- What we cannot have is not there: converted messages, remote storage, quotas, transactions.

Source: the beans of Apache Kafka 3.9, as its documentation lists them for monitoring.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import attrs
import prometheus_client
from prometheus_client import Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

import zkafka
from zkafka.admin.http import Page
from zkafka.admin.loop import LoopStatistics
from zkafka.controller.controller import ControllerStatistics, Timing
from zkafka.controller.sentinels import SentinelStatistics
from zkafka.errors import ErrorCode
from zkafka.groups.coordinator import GroupStatistics
from zkafka.log.directory import DirectoryStatistics
from zkafka.log.partition_log import LogStatistics, PartitionLog
from zkafka.model import BrokerState, TopicPartition
from zkafka.net.listener import Listener, ListenerStatistics
from zkafka.offload import Offload
from zkafka.replication.cleaning import CleanerStatistics
from zkafka.replication.purgatory import PurgatoryStatistics
from zkafka.replication.replica import PartitionView
from zkafka.replication.replicas import ReplicasStatistics
from zkafka.server.context import Parts
from zkafka.server.fetch_sessions import FetchSessionStatistics
from zkafka.server.metadata import MetadataImage
from zkafka.server.requests import BOUNDS_MS, ApiCounters
from zkafka.server.traffic import TopicTraffic
from zkafka.zk.session import Session, SessionStatistics

Families = Iterator[Metric]
Labels = Mapping[str, str]
NO_LABELS: Labels = {}


@attrs.define(kw_only=True)
class Sources:
    """What a scrape reads: the parts, and what stands around them."""

    parts: Parts
    state: Callable[[], BrokerState]
    session: Session
    listeners: Sequence[Listener]
    loop: Callable[[], LoopStatistics]
    sentinels: Callable[[], SentinelStatistics]


async def metrics_page(sources: Sources, offload: Offload) -> Page:
    """Everything there is to know, as Prometheus reads it."""
    families = list(collect(sources))
    body = await offload.run(_text, families)
    return Page(body, CONTENT_TYPE_LATEST)


def collect(sources: Sources) -> Families:
    """All families at this moment. Reads the parts' state: to be called in their loop."""
    parts = sources.parts
    yield from broker(sources.state(), parts.metadata.image)
    hosted = parts.replicas.statistics()
    yield from replicas(hosted)
    yield from partitions(parts.replicas.views())
    yield from logs({tp: r.log for tp, r in parts.replicas.hosted.items() if not r.is_offline})
    yield from directories([directory.statistics() for directory in parts.log_dirs])
    yield from cleaner(parts.replicas.upkeep.cleaner.statistics())
    yield from traffic(parts.traffic.statistics(), hosted)
    yield from requests(parts.requests.statistics())
    yield from fetch_sessions(parts.fetch_sessions.statistics())
    yield from purgatory(parts.purgatory.statistics())
    yield from controller(parts.controller.statistics())
    yield from sentinels(sources.sentinels())
    yield from groups(parts.groups.statistics())
    yield from session(sources.session.statistics())
    yield from listeners([listener.statistics() for listener in sources.listeners])
    yield from loop(sources.loop())
    offload = parts.offload.statistics()
    yield gauge("zkafka_offload_threads", "Worker threads for blocking file work", offload.threads)
    yield gauge("zkafka_offload_running", "Worker threads at work", offload.running)
    yield gauge("zkafka_offload_waiting", "Calls waiting for a worker thread", offload.waiting)
    yield from prometheus_client.ProcessCollector(registry=None).collect()


class _Collected(Collector):
    """Families that were collected before."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _text(families: Iterable[Metric]) -> bytes:
    registry = prometheus_client.CollectorRegistry()
    registry.register(_Collected(families))
    return generate_latest(registry)


# --- Shapes -------------------------------------------------------------------------------------


def gauge(name: str, text: str, value: float, labels: Labels = NO_LABELS) -> Metric:
    """A family with one value that goes up and down."""
    return gauges(name, text, [(labels, value)])


def gauges(name: str, text: str, samples: Iterable[tuple[Labels, float]]) -> Metric:
    """A family of gauges."""
    family = Metric(name, text, "gauge")
    for labels, value in samples:
        family.add_sample(name, dict(labels), value)
    return family


def counter(name: str, text: str, value: float, labels: Labels = NO_LABELS) -> Metric:
    """A family with one total; `_total` is added to its name."""
    return counters(name, text, [(labels, value)])


def counters(name: str, text: str, samples: Iterable[tuple[Labels, float]]) -> Metric:
    """A family of totals."""
    family = Metric(name, text, "counter")
    for labels, value in samples:
        family.add_sample(f"{name}_total", dict(labels), value)
    return family


def summaries(name: str, text: str, samples: Iterable[tuple[Labels, int, float]]) -> Metric:
    """A family of (count, sum) pairs."""
    family = Metric(name, text, "summary")
    for labels, count, total in samples:
        family.add_sample(f"{name}_count", dict(labels), count)
        family.add_sample(f"{name}_sum", dict(labels), total)
    return family


def timing(name: str, text: str, spent: Timing) -> Metric:
    """A `Timing` as a summary."""
    return summaries(name, text, [(NO_LABELS, spent.count, spent.total_ms)])


# --- The parts ----------------------------------------------------------------------------------


def broker(state: BrokerState, image: MetadataImage) -> Families:
    """The broker itself."""
    prefix = "kafka_server_kafkaserver"
    yield gauge(
        f"{prefix}_brokerstate",
        "0 not running, 1 starting, 2 recovery, 3 running, 6 pending controlled shutdown,"
        " 7 shutting down",
        state,
    )
    if image.cluster_id:
        yield gauge(f"{prefix}_clusterid", "1", 1, {"clusterid": image.cluster_id})
    yield gauge(
        "kafka_server_metadataloader_currentcontrollerid",
        "The controller this broker follows, -1 for none",
        image.controller_id,
    )
    yield gauge("zkafka_build", "1", 1, {"version": zkafka.__version__})


def replicas(found: ReplicasStatistics) -> Families:
    """kafka.server:type=ReplicaManager and ReplicaFetcherManager."""
    prefix = "kafka_server_replicamanager"
    for name, text, value in (
        ("partitioncount", "Partitions hosted", found.partition_count),
        ("leadercount", "Partitions led", found.leader_count),
        ("underreplicatedpartitions", "Led, with replicas out of sync", found.under_replicated),
        ("underminisrpartitioncount", "Led, below min.insync.replicas", found.under_min_isr),
        ("atminisrpartitioncount", "Led, exactly at min.insync.replicas", found.at_min_isr),
        ("offlinereplicacount", "Replicas on failed log directories", found.offline_replicas),
        ("reassigningpartitions", "Led, under reassignment", found.reassigning),
        ("produceridcount", "Idempotent producers remembered", found.producer_id_count),
        (
            "partitionswithlatetransactionscount",
            "Led, with a transaction open for longer than any may be",
            found.late_transactions,
        ),
    ):
        yield gauge(f"{prefix}_{name}", text, value)
    yield counter(f"{prefix}_isrshrinks", "In-sync sets that shrank", found.isr_shrinks)
    yield counter(f"{prefix}_isrexpands", "In-sync sets that grew", found.isr_expands)
    yield counter(
        f"{prefix}_failedisrupdates",
        "Proposals that the controller refused",
        found.failed_isr_updates,
    )
    fetchers, prefix = found.fetchers, "kafka_server_replicafetchermanager"
    follower = {"clientid": "Replica"}
    yield gauge(
        f"{prefix}_maxlag", "Offsets behind the leader, at worst", fetchers.max_lag, follower
    )
    yield gauge(
        f"{prefix}_failedpartitionscount",
        "Partitions not followed until the controller speaks",
        fetchers.failed_partitions,
        follower,
    )
    yield gauge(f"{prefix}_deadthreadcount", "Always 0: fetchers are tasks", 0, follower)
    prefix, mover = "kafka_server_replicaalterlogdirsmanager", {"clientid": "ReplicaAlterLogDirs"}
    yield gauge(
        f"{prefix}_maxlag", "Offsets still to be copied, at worst", found.max_move_lag, mover
    )
    yield gauge(f"{prefix}_deadthreadcount", "Always 0: movers are tasks", 0, mover)
    yield gauge("zkafka_moves", "Replicas on their way to another log directory", found.moves)
    yield gauge("zkafka_fetchers", "Fetcher tasks", fetchers.fetchers)


def partitions(views: Iterable[PartitionView]) -> Families:
    """kafka.cluster:type=Partition, one sample for each partition led."""
    prefix = "kafka_cluster_partition"
    led = [(_labels(v.topic_partition), v) for v in views if v.in_sync_count]
    shown: Sequence[tuple[str, str, Callable[[PartitionView], float]]] = (
        ("underreplicated", "Replicas are out of sync", lambda v: v.under_replicated),
        ("insyncreplicascount", "Size of the in-sync set", lambda v: v.in_sync_count),
        ("replicascount", "Replicas assigned", lambda v: v.replica_count),
        ("underminisr", "Below min.insync.replicas", lambda v: v.under_min_isr),
        ("atminisr", "Exactly at min.insync.replicas", lambda v: v.at_min_isr),
        (
            "laststableoffsetlag",
            "Offsets below the high watermark that transactions hold back",
            lambda v: v.high_watermark - v.last_stable_offset,
        ),
    )
    for name, text, value in shown:
        yield gauges(f"{prefix}_{name}", text, ((labels, value(v)) for labels, v in led))


def logs(found: Mapping[TopicPartition, PartitionLog]) -> Families:
    """kafka.log:type=Log."""
    statistics = [(_labels(tp), log.statistics()) for tp, log in found.items()]
    shown: Sequence[tuple[str, str, Callable[[LogStatistics], float]]] = (
        ("size", "Bytes", lambda s: s.size),
        ("numlogsegments", "Segments", lambda s: s.segment_count),
        ("logstartoffset", "First offset that can be read", lambda s: s.log_start_offset),
        ("logendoffset", "Next offset to be written", lambda s: s.log_end_offset),
    )
    for name, text, value in shown:
        yield gauges(
            f"kafka_log_log_{name}", text, ((labels, value(s)) for labels, s in statistics)
        )
    yield gauge(
        "zkafka_log_unflushed_offsets",
        "Offsets above the recovery points: what a start after a crash has to check",
        sum(s.unflushed for _, s in statistics),
    )


def directories(found: Sequence[DirectoryStatistics]) -> Families:
    """kafka.log:type=LogManager."""
    prefix = "kafka_log_logmanager"
    yield gauge(
        f"{prefix}_offlinelogdirectorycount",
        "Log directories that failed",
        sum(not directory.online for directory in found),
    )
    yield gauges(
        f"{prefix}_logdirectoryoffline",
        "1 for a log directory that failed",
        (({"logdirectory": d.path}, not d.online) for d in found),
    )
    yield gauges(
        f"{prefix}_remaininglogstorecover",
        "Logs still to be recovered at the start",
        (({"dir": d.path}, d.to_recover) for d in found),
    )
    yield gauges(
        "zkafka_log_directory_size_bytes",
        "Bytes of all logs in it",
        (({"logdirectory": d.path}, d.size) for d in found),
    )


def cleaner(found: CleanerStatistics) -> Families:
    """kafka.log:type=LogCleaner and LogCleanerManager."""
    prefix = "kafka_log_logcleaner"
    for name, text, value in (
        ("cleaner_recopy_percent", "Bytes kept by the last compactions", found.recopy_percent),
        (
            "max_buffer_utilization_percent",
            "Keys noted by the last compactions, of those they may note",
            found.max_buffer_utilization_percent,
        ),
        ("max_clean_time_secs", "Seconds of the last compactions", found.max_clean_time_s),
        (
            "max_compaction_delay_secs",
            "Seconds beyond max.compaction.lag.ms, of the log that is latest",
            found.max_compaction_delay_s,
        ),
        ("deadthreadcount", "Always 0: a cleaner that fails stops the broker", 0),
    ):
        yield gauge(f"{prefix}_{name}", text, value)
    prefix = "kafka_log_logcleanermanager"
    yield gauge(
        f"{prefix}_max_dirty_percent",
        "Share of bytes not compacted, of the dirtiest log",
        found.max_dirty_percent,
    )
    yield gauge(
        f"{prefix}_time_since_last_run_ms",
        "Since logs were last looked at",
        found.since_last_look_ms,
    )
    uncleanable = [({"logdirectory": path}, *of) for path, of in sorted(found.uncleanable.items())]
    yield gauges(
        f"{prefix}_uncleanable_partitions_count",
        "Partitions that cannot be compacted",
        ((labels, count) for labels, count, _ in uncleanable),
    )
    yield gauges(
        f"{prefix}_uncleanable_bytes",
        "Bytes in them that should be",
        ((labels, size) for labels, _, size in uncleanable),
    )
    yield counter("zkafka_cleaner_runs", "Compactions", found.runs)
    yield counter("zkafka_cleaner_read_bytes", "Bytes read by compactions", found.bytes_read)
    yield counter(
        "zkafka_cleaner_written_bytes", "Bytes written by compactions", found.bytes_written
    )


_TRAFFIC = (
    ("messagesin", "Records appended", "messages_in"),
    ("bytesin", "Bytes appended", "bytes_in"),
    ("bytesout", "Bytes sent to consumers", "bytes_out"),
    ("bytesrejected", "Bytes refused", "bytes_rejected"),
    ("totalproducerequests", "Batches that came", "produce_requests"),
    ("totalfetchrequests", "Partitions fetched from", "fetch_requests"),
    ("failedproducerequests", "Batches refused", "failed_produce_requests"),
    ("failedfetchrequests", "Partitions answered with an error", "failed_fetch_requests"),
)


def traffic(topics: Mapping[str, TopicTraffic], found: ReplicasStatistics) -> Families:
    """kafka.server:type=BrokerTopicMetrics: of all topics without label, then of each."""
    prefix = "kafka_server_brokertopicmetrics"
    for name, text, attribute in _TRAFFIC:
        by_topic = [({"topic": t}, getattr(c, attribute)) for t, c in sorted(topics.items())]
        everything = (NO_LABELS, sum(value for _, value in by_topic))
        yield counters(f"{prefix}_{name}", text, [everything, *by_topic])
    sent = sum(counters.replication_bytes_out for counters in topics.values())
    yield counter(f"{prefix}_replicationbytesout", "Bytes sent to followers", sent)
    yield counter(
        f"{prefix}_replicationbytesin", "Bytes fetched from leaders", found.replication_bytes_in
    )


def requests(found: Mapping[str, ApiCounters]) -> Families:
    """kafka.network:type=RequestMetrics."""
    prefix = "kafka_network_requestmetrics"
    apis = sorted(found.items())
    yield counters(
        f"{prefix}_requests",
        "Requests, by version",
        (
            ({"request": name, "version": str(version)}, count)
            for name, api in apis
            for version, count in sorted(api.requests.items())
        ),
    )
    yield counters(
        f"{prefix}_errors",
        "Error codes answered, NONE included",
        (
            ({"request": name, "error": _error_name(code)}, count)
            for name, api in apis
            for code, count in sorted(api.errors.items())
        ),
    )
    yield summaries(
        f"{prefix}_requestbytes",
        "Bytes of requests",
        (({"request": name}, sum(api.requests.values()), api.request_bytes) for name, api in apis),
    )
    name = f"{prefix}_totaltimems"
    times = Metric(name, "Milliseconds from a request's begin to its answer", "histogram")
    for request, api in apis:
        labels = {"request": request}
        below = 0
        for bound, count in zip((*BOUNDS_MS, float("inf")), api.buckets, strict=True):
            below += count
            le = "+Inf" if bound == float("inf") else str(bound)
            times.add_sample(f"{name}_bucket", labels | {"le": le}, below)
        times.add_sample(f"{name}_count", labels, below)
        times.add_sample(f"{name}_sum", labels, api.time_ms)
    yield times
    yield gauge(
        "kafka_network_requestchannel_requestqueuesize",
        "Requests begun and not answered yet",
        sum(sum(api.requests.values()) - api.count for _, api in apis),
    )


def fetch_sessions(found: FetchSessionStatistics) -> Families:
    """kafka.server:type=FetchSessionCache."""
    prefix = "kafka_server_fetchsessioncache"
    yield gauge(f"{prefix}_numincrementalfetchsessions", "Sessions", found.sessions)
    yield gauge(
        f"{prefix}_numincrementalfetchpartitionscached", "Partitions in them", found.partitions
    )
    yield counter(
        f"{prefix}_incrementalfetchsessionevictions", "Sessions that gave way", found.evictions
    )


def purgatory(found: PurgatoryStatistics) -> Families:
    """kafka.server:type=DelayedOperationPurgatory; all operations sleep in one place here."""
    prefix = "kafka_server_delayedoperationpurgatory"
    yield gauge(f"{prefix}_numdelayedoperations", "Requests that wait", found.sleepers)
    yield gauge(f"{prefix}_purgatorysize", "Keys that somebody sleeps on", found.keys)
    yield counter("zkafka_purgatory_completed", "Waits that ended well", found.completed)
    yield counter("zkafka_purgatory_timed_out", "Waits that ran out of time", found.timed_out)


def controller(found: ControllerStatistics) -> Families:
    """kafka.controller."""
    prefix = "kafka_controller_kafkacontroller"
    for name, text, value in (
        ("activecontrollercount", "1 on the controller", found.is_active),
        ("controllerstate", "What is being processed, 0 for nothing", found.controller_state),
        ("activebrokercount", "Live brokers", found.active_broker_count),
        ("fencedbrokercount", "Always 0 beside ZooKeeper", 0),
        ("globaltopiccount", "Topics of the cluster", found.global_topic_count),
        ("globalpartitioncount", "Partitions of the cluster", found.global_partition_count),
        ("offlinepartitionscount", "Partitions without leader", found.offline_partitions_count),
        (
            "preferredreplicaimbalancecount",
            "Partitions not led by their preferred replica",
            found.preferred_replica_imbalance_count,
        ),
        ("topicstodeletecount", "Topics being deleted", found.topics_to_delete_count),
        (
            "topicsineligibletodeletecount",
            "Topics whose deletion must wait",
            found.topics_ineligible_to_delete_count,
        ),
    ):
        yield gauge(f"{prefix}_{name}", text, value)
    prefix = "kafka_controller_controllerstats"
    yield counter(
        f"{prefix}_uncleanleaderelections",
        "Leaders elected from outside the in-sync set",
        found.unclean_elections_total,
    )
    changes = [
        found.event_times.get(name, Timing()) for name in ("BrokersChanged", "SuspectsChanged")
    ]
    yield timing(
        f"{prefix}_leaderelectionrateandtimems",
        "Milliseconds per change of brokers",
        Timing(sum(t.count for t in changes), sum(t.total_ms for t in changes)),
    )
    yield counter("zkafka_controller_elections", "Leaders elected", found.clean_elections_total)
    yield counter(
        "zkafka_controller_failed_elections",
        "Elections that found nobody",
        found.failed_elections_total,
    )
    yield counter("zkafka_controller_terms", "Times in office", found.terms_total)
    yield counter(
        "zkafka_controller_depositions",
        "Controllers that this broker suspected to be dead and removed",
        found.depositions_total,
    )
    yield gauge("zkafka_controller_epoch", "Epoch of its last office", found.controller_epoch)
    yield summaries(
        "zkafka_controller_event_time_ms",
        "Milliseconds per event, by kind",
        (
            ({"event": name}, spent.count, spent.total_ms)
            for name, spent in sorted(found.event_times.items())
        ),
    )
    prefix = "kafka_controller_controllereventmanager"
    yield gauge(f"{prefix}_eventqueuesize", "Events waiting", found.event_queue_size)
    yield timing(f"{prefix}_eventqueuetimems", "Milliseconds waited", found.event_queue_time)
    prefix = "kafka_controller_controllerchannelmanager"
    channels = sorted(found.channels.items())
    yield gauge(
        f"{prefix}_totalqueuesize",
        "Requests waiting for all brokers",
        sum(channel.queue_size for _, channel in channels),
    )
    yield gauges(
        f"{prefix}_queuesize",
        "Requests waiting, by broker",
        (({"broker_id": str(b)}, channel.queue_size) for b, channel in channels),
    )
    yield counters(
        "zkafka_controller_channel_failures",
        "Attempts to send a control request that failed",
        (({"broker_id": str(b)}, channel.failures) for b, channel in channels),
    )


def sentinels(found: SentinelStatistics) -> Families:
    """How this broker judges the others, before their sessions do."""
    yield gauge("zkafka_brokers_watched", "Brokers whose end would be noticed", found.watched)
    yield gauge("zkafka_brokers_suspected", "Brokers taken for dead", found.suspected)
    yield gauge(
        "zkafka_brokers_held_back",
        "Brokers that refuse connections, and are not suspected since too many do",
        found.held_back,
    )
    yield counter(
        "zkafka_broker_suspicions", "Times a broker was suspected", found.suspicions_total
    )
    yield counter(
        "zkafka_broker_suspicions_answered",
        "Suspected brokers that answered again under the same registration",
        found.answered_total,
    )


def groups(found: GroupStatistics) -> Families:
    """kafka.coordinator.group:type=GroupMetadataManager."""
    prefix = "kafka_coordinator_group_groupmetadatamanager"
    yield gauge(f"{prefix}_numgroups", "Groups", found.groups)
    yield gauge(f"{prefix}_numoffsets", "Offsets committed", found.offsets)
    for state, count in found.groups_by_state.items():
        yield gauge(
            f"{prefix}_numgroups{state.value.lower()}", f"Groups in state {state.value}", count
        )
    prefix = "kafka_server_group_coordinator_metrics"
    yield counter(f"{prefix}_offset_commit", "Offsets committed", found.commits)
    yield counter(f"{prefix}_offset_expiration", "Offsets expired", found.offsets_expired)
    yield counter(f"{prefix}_offset_deletion", "Offsets deleted", found.offsets_deleted)
    yield counter(f"{prefix}_group_completed_rebalance", "Rebalances done", found.generations)
    prefix = "zkafka_groups"
    for name, text, value in (
        ("members", "Members of all groups", found.members),
        ("partitions_active", "Offset partitions coordinated", found.partitions_active),
        ("partitions_loading", "Offset partitions being read", found.partitions_loading),
        ("partitions_failed", "Offset partitions that could not be read", found.partitions_failed),
        ("requests_waiting", "Joins and syncs that wait for others", found.requests_waiting),
        ("writes_unreplicated", "Writes not replicated yet", found.writes_unreplicated),
    ):
        yield gauge(f"{prefix}_{name}", text, value)
    yield counter(f"{prefix}_rebalances", "Rebalances begun", found.rebalances)
    yield counter(f"{prefix}_commit_failures", "Commits that failed", found.commit_failures)


def session(found: SessionStatistics) -> Families:
    """kafka.server:type=SessionExpireListener and ZooKeeperClientMetrics."""
    prefix = "kafka_server_sessionexpirelistener"
    yield counter(f"{prefix}_zookeeperexpires", "Sessions lost", found.expirations_total)
    yield counter(f"{prefix}_zookeeperdisconnects", "Connections lost", found.suspensions_total)
    yield gauge(
        f"{prefix}_sessionstate", "1 for the state it is in", 1, {"state": found.state.name}
    )
    yield summaries(
        "kafka_server_zookeeperclientmetrics_zookeeperrequestlatencyms",
        "Milliseconds per request",
        [(NO_LABELS, found.requests_total, found.latency_ms_total)],
    )
    yield gauge("zkafka_zookeeper_in_flight", "Requests without answer yet", found.in_flight_count)
    yield gauge("zkafka_zookeeper_session_timeout_ms", "As negotiated", found.negotiated_timeout_ms)


def listeners(found: Sequence[ListenerStatistics]) -> Families:
    """kafka.server:type=socket-server-metrics, by listener."""
    prefix = "kafka_server_socket_server_metrics"
    labelled = [({"listener": statistics.listener}, statistics) for statistics in found]
    yield gauges(
        f"{prefix}_connection_count", "Open connections", ((at, s.open) for at, s in labelled)
    )
    shown: Sequence[tuple[str, str, Callable[[ListenerStatistics], float]]] = (
        ("connection_creation", "Connections accepted", lambda s: s.accepted),
        ("connection_close", "Connections closed", lambda s: s.accepted - s.open),
        ("incoming_byte", "Bytes received", lambda s: s.bytes_in),
        ("request", "Requests received", lambda s: s.requests),
        ("response", "Answers sent", lambda s: s.answers),
    )
    for name, text, value in shown:
        yield counters(f"{prefix}_{name}", text, ((at, value(s)) for at, s in labelled))
    yield counters(
        "zkafka_connections_refused",
        "Closed at once, for max.connections.per.ip",
        ((at, s.refused) for at, s in labelled),
    )
    yield counters(
        "zkafka_connections_dropped",
        "Closed for being idle, not reading, or in the way",
        ((at, s.dropped) for at, s in labelled),
    )


def loop(found: LoopStatistics) -> Families:
    """The one loop, and Kafka's two idle percentages (0 to 1)."""
    for name in (
        "kafka_network_socketserver_networkprocessoravgidlepercent",
        "kafka_server_kafkarequesthandlerpool_requesthandleravgidlepercent",
    ):
        yield gauge(name, "Idle share of the loop, 0 to 1", found.idle_ratio)
    yield counter("zkafka_loop_passes", "Times the loop woke up", found.passes)
    yield counter("zkafka_loop_busy_seconds", "Seconds at work", found.busy_seconds)
    yield counter("zkafka_loop_idle_seconds", "Seconds asleep", found.idle_seconds)
    yield counter("zkafka_loop_stalls", "Passes of a tenth of a second or more", found.stalls)
    yield gauge("zkafka_loop_longest_pass_ms", "The longest pass", found.longest_pass_ms)


def _labels(tp: TopicPartition) -> Labels:
    return {"topic": tp.topic, "partition": str(tp.partition)}


def _error_name(code: int) -> str:
    try:
        return ErrorCode(code).name
    except ValueError:
        return str(code)
