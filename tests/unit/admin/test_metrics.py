import attrs
import pytest
from prometheus_client.parser import text_string_to_metric_families

from zkafka.admin import metrics
from zkafka.admin.loop import LoopStatistics
from zkafka.controller.channels import ChannelStatistics
from zkafka.controller.controller import ControllerStatistics, Timing
from zkafka.controller.sentinels import SentinelStatistics
from zkafka.errors import ErrorCode
from zkafka.log.directory import DirectoryStatistics
from zkafka.model import BrokerState, TopicPartition
from zkafka.net.listener import ListenerStatistics
from zkafka.replication.cleaning import CleanerStatistics
from zkafka.replication.fetcher import FetchersStatistics
from zkafka.replication.partition import Role
from zkafka.replication.purgatory import PurgatoryStatistics
from zkafka.replication.replica import PartitionView
from zkafka.replication.replicas import ReplicasStatistics
from zkafka.server.fetch_sessions import FetchSessionStatistics
from zkafka.server.metadata import MetadataCache
from zkafka.server.requests import ApiCounters
from zkafka.server.traffic import Traffic
from zkafka.zk.operations import SessionState
from zkafka.zk.session import SessionStatistics


def numbered(cls, **given):
    """Statistics whose numbers are all different: 1, 2, 3, ... in the order of the fields."""
    fields = [a.name for a in attrs.fields(cls)]
    return cls(**({name: i for i, name in enumerate(fields, 1)} | given))


def scraped(families):
    """Name and labels to value, as Prometheus reads what we write."""
    text = metrics._text(list(families)).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(families, name, **labels):
    return scraped(families)[name, tuple(sorted(labels.items()))]


def test_replicas_have_the_names_that_alerts_know():
    found = numbered(
        ReplicasStatistics, under_replicated=7, fetchers=numbered(FetchersStatistics, max_lag=99)
    )
    read = scraped(metrics.replicas(found))
    assert read["kafka_server_replicamanager_underreplicatedpartitions", ()] == 7
    assert read["kafka_server_replicamanager_isrshrinks_total", ()] == found.isr_shrinks
    lag = ("kafka_server_replicafetchermanager_maxlag", (("clientid", "Replica"),))
    assert read[lag] == 99
    late = "kafka_server_replicamanager_partitionswithlatetransactionscount"
    assert read[late, ()] == found.late_transactions
    mover = (("clientid", "ReplicaAlterLogDirs"),)
    assert read["kafka_server_replicaalterlogdirsmanager_maxlag", mover] == found.max_move_lag
    assert read["zkafka_moves", ()] == found.moves


def test_only_partitions_that_are_led_are_judged():
    def view(partition, in_sync):
        return PartitionView(
            topic_partition=TopicPartition("t", partition),
            role=Role.LEADER if in_sync else Role.FOLLOWER,
            log_start_offset=0,
            last_stable_offset=5,
            high_watermark=8,
            log_end_offset=0,
            size=0,
            replica_count=3,
            in_sync_count=in_sync,
            under_replicated=True,
            under_min_isr=False,
            at_min_isr=True,
        )

    read = scraped(metrics.partitions([view(0, 2), view(1, 0)]))
    labels = (("partition", "0"), ("topic", "t"))
    assert read["kafka_cluster_partition_underreplicated", labels] == 1
    assert read["kafka_cluster_partition_insyncreplicascount", labels] == 2
    assert read["kafka_cluster_partition_laststableoffsetlag", labels] == 3
    assert len(read) == 6


def test_traffic_is_told_for_all_topics_and_for_each():
    traffic = Traffic()
    traffic.produced("a", messages=3, size=300)
    traffic.produced("b", messages=1, size=100)
    traffic.fetched("a", size=50, replica_id=2)
    found = numbered(ReplicasStatistics, fetchers=None, replication_bytes_in=8)
    read = scraped(metrics.traffic(traffic.statistics(), found))
    name = "kafka_server_brokertopicmetrics_messagesin_total"
    assert read[name, ()] == 4
    assert read[name, (("topic", "a"),)] == 3
    assert read["kafka_server_brokertopicmetrics_replicationbytesout_total", ()] == 50
    assert read["kafka_server_brokertopicmetrics_replicationbytesin_total", ()] == 8


def test_request_times_are_cumulative_buckets():
    api = ApiCounters()
    for time_ms in (0.1, 0.25, 3.0, 99_999.0):
        api.requests[9] += 1
        api.took(time_ms)
    api.requests[9] += 1
    api.errors[ErrorCode.NOT_LEADER_OR_FOLLOWER] += 2
    api.errors[-77] += 1
    families = list(metrics.requests({"Produce": api}))
    name = "kafka_network_requestmetrics_totaltimems"
    assert value(families, f"{name}_bucket", request="Produce", le="0.25") == 2
    assert value(families, f"{name}_bucket", request="Produce", le="2.5") == 2
    assert value(families, f"{name}_bucket", request="Produce", le="5.0") == 3
    assert value(families, f"{name}_bucket", request="Produce", le="+Inf") == 4
    assert value(families, f"{name}_count", request="Produce") == 4
    assert value(families, f"{name}_sum", request="Produce") == pytest.approx(100_002.35)
    errors = "kafka_network_requestmetrics_errors_total"
    assert value(families, errors, request="Produce", error="NOT_LEADER_OR_FOLLOWER") == 2
    assert value(families, errors, request="Produce", error="-77") == 1
    requests = "kafka_network_requestmetrics_requests_total"
    assert value(families, requests, request="Produce", version="9") == 5
    assert value(families, "kafka_network_requestchannel_requestqueuesize") == 1


def test_the_controller_has_the_names_that_alerts_know():
    found = numbered(
        ControllerStatistics,
        is_active=True,
        offline_partitions_count=4,
        event_queue_time=Timing(2, 10, 7),
        event_times={"BrokersChanged": Timing(2, 20, 20), "SuspectsChanged": Timing(1, 10, 10)},
        channels={2: numbered(ChannelStatistics, queue_size=5)},
    )
    read = scraped(metrics.controller(found))
    assert read["kafka_controller_kafkacontroller_activecontrollercount", ()] == 1
    assert read["kafka_controller_kafkacontroller_offlinepartitionscount", ()] == 4
    prefix = "kafka_controller_controllerstats"
    assert read[f"{prefix}_leaderelectionrateandtimems_count", ()] == 3
    assert read[f"{prefix}_uncleanleaderelections_total", ()] == found.unclean_elections_total
    queue = "kafka_controller_controllerchannelmanager_queuesize"
    assert read[queue, (("broker_id", "2"),)] == 5


def test_suspicions_are_told():
    read = scraped(metrics.sentinels(numbered(SentinelStatistics)))
    assert [name for name, _ in read] == [
        "zkafka_brokers_watched",
        "zkafka_brokers_suspected",
        "zkafka_brokers_held_back",
        "zkafka_broker_suspicions_total",
        "zkafka_broker_suspicions_answered_total",
    ]
    assert list(read.values()) == [1, 2, 3, 4, 5]


def test_the_session_and_the_broker_have_the_names_that_alerts_know():
    found = numbered(SessionStatistics, state=SessionState.CONNECTED)
    read = scraped(metrics.session(found))
    prefix = "kafka_server_sessionexpirelistener"
    assert read[f"{prefix}_zookeeperexpires_total", ()] == found.expirations_total
    assert read[f"{prefix}_sessionstate", (("state", "CONNECTED"),)] == 1
    image = MetadataCache("c").image
    read = scraped(metrics.broker(BrokerState.RUNNING, image))
    assert read["kafka_server_kafkaserver_brokerstate", ()] == 3
    assert read["kafka_server_metadataloader_currentcontrollerid", ()] == -1


def test_a_failed_directory_is_counted_and_named():
    found = [
        numbered(DirectoryStatistics, path="/a", online=True),
        numbered(DirectoryStatistics, path="/b", online=False),
    ]
    read = scraped(metrics.directories(found))
    assert read["kafka_log_logmanager_offlinelogdirectorycount", ()] == 1
    assert read["kafka_log_logmanager_logdirectoryoffline", (("logdirectory", "/b"),)] == 1


def test_no_family_is_told_twice():
    families = [
        *metrics.replicas(numbered(ReplicasStatistics, fetchers=numbered(FetchersStatistics))),
        *metrics.traffic({}, numbered(ReplicasStatistics, fetchers=None)),
        *metrics.requests({}),
        *metrics.fetch_sessions(numbered(FetchSessionStatistics)),
        *metrics.purgatory(numbered(PurgatoryStatistics)),
        *metrics.listeners([numbered(ListenerStatistics, listener="L")]),
        *metrics.loop(numbered(LoopStatistics)),
    ]
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    assert all(name.startswith(("kafka_", "zkafka_")) for name in names)


def test_compaction_has_the_names_that_alerts_know():
    uncleanable = {"/a": (2, 300), "/b": (0, 0)}
    found = numbered(CleanerStatistics, uncleanable=uncleanable)
    read = scraped(metrics.cleaner(found))
    prefix = "kafka_log_logcleaner"
    assert read[f"{prefix}_cleaner_recopy_percent", ()] == found.recopy_percent
    assert read[f"{prefix}_deadthreadcount", ()] == 0
    assert read[f"{prefix}manager_max_dirty_percent", ()] == found.max_dirty_percent
    assert read[f"{prefix}manager_time_since_last_run_ms", ()] == found.since_last_look_ms
    labels = (("logdirectory", "/a"),)
    assert read[f"{prefix}manager_uncleanable_partitions_count", labels] == 2
    assert read[f"{prefix}manager_uncleanable_bytes", labels] == 300
    assert read["zkafka_cleaner_written_bytes_total", ()] == found.bytes_written
