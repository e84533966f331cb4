"""The bench's pure parts: medians, ratios, goals, JSON, resuming, comparing, table and chart."""

import os
import subprocess
import time
from xml.etree import ElementTree

import attrs
import pytest
from rich.console import Console

from bench import accounting, cases, chart, compare, loads, report, results
from bench.cases import Case, Context, Part, Quantity, Scale
from bench.parts import PARTS
from bench.results import OURS, THEIRS, Goal, Results, Row
from bench.runner import Run
from bench.sides import ApacheKafka, BenchError, Zkafka

HEADER = {
    "machine": "a box, 2 cores, 8 GB",
    "date": "2025-01-02T03:04:05+00:00",
    "commit": "abc1234",
    "load": 0.1,
    "versions": {OURS: "0.1.0", THEIRS: "3.9.1", "java": "17", "python": "3.11", "librdkafka": "2"},
}
SCALE = Scale(rounds=3, seconds=1.0, kills=20, their_kills=2, read_mb=10)


def row(ours: list[float], theirs: list[float], better="higher", goal=None, name="a") -> Row:
    rounds = {OURS: ours, THEIRS: theirs}
    return Row(name, "MB/s", better, "produce", goal, True, rounds)


def run(*rows: Row) -> Results:
    return Results(dict(HEADER), {each.name: each for each in rows})


# ---------------------------------------------------------------------------------- rows and goals


def test_a_percentile_is_one_of_the_values():
    values = [float(number) for number in range(1, 101)]

    assert results.percentile(values, 0.5) == 50
    assert results.percentile(values, 0.99) == 99
    assert results.percentile(values, 0.999) == 100
    assert results.percentile([7.0], 0.5) == 7
    with pytest.raises(ValueError, match="no values"):
        results.percentile([], 0.5)


def test_a_row_compares_medians():
    found = row([10, 30, 20], [10, 10, 50])

    assert found.median(OURS) == 20
    assert found.ratio == 2
    assert found.advantage == 2
    assert found.met is None


def test_less_is_better_where_it_is_a_cost():
    found = row([1], [4], "lower", Goal(0.3))

    assert found.ratio == 0.25
    assert found.advantage == 4
    assert found.met is True


@pytest.mark.parametrize(
    ("better", "ours", "goal", "met"),
    [
        ("higher", 13, Goal(1.3), True),
        ("higher", 12.9, Goal(1.3), False),
        ("lower", 7, Goal(0.7), True),
        ("lower", 7.1, Goal(0.7), False),
        ("lower", 1.0, Goal(1.0, "absolute"), True),
        ("lower", 1.1, Goal(1.0, "absolute"), False),
    ],
)
def test_a_goal_is_a_multiple_of_kafkas_median_or_a_bound(better, ours, goal, met):
    assert row([ours], [10], better, goal).met is met


def test_a_goal_cannot_be_told_before_both_are_measured():
    one_sided = row([1], [], goal=Goal(1.0))

    assert one_sided.ratio is None
    assert one_sided.met is None
    assert row([0.5], [], "lower", Goal(1.0, "absolute")).met is True


# ---------------------------------------------------------------------------------- accounting


def test_cpu_and_memory_of_processes_are_counted():
    here = os.getpid()
    before = accounting.cpu_seconds([here])
    at_least = time.process_time() + 0.02
    while time.process_time() < at_least:
        pass

    assert accounting.cpu_seconds([here]) - before >= 0.02
    assert accounting.cpu_seconds([here, here]) == pytest.approx(2 * time.process_time(), rel=0.2)
    assert 0 < accounting.resident_mb([here]) <= accounting.peak_mb([here])


def test_a_process_that_has_ended_counts_nothing():
    child = subprocess.Popen(["true"])
    child.wait()

    assert accounting.cpu_seconds([child.pid]) == 0
    assert accounting.resident_mb([child.pid]) == 0
    accounting.reset_peak([child.pid])


# ---------------------------------------------------------------------------------- JSON, resuming


def test_what_is_kept_is_read_again(tmp_path):
    path = tmp_path / "deep" / "latest.json"
    kept = run(row([1, 2], [3], "lower", Goal(1.0, "absolute")), row([5], [6], name="b"))
    kept.rows["a"].cpu_s = {OURS: [0.5, 0.25]}
    kept.save(path)

    assert Results.load(path) == kept
    assert [file.name for file in path.parent.iterdir()] == ["latest.json"]


def test_json_says_what_follows_from_the_rounds():
    told = row([30], [20], goal=Goal(1.3)).as_json()

    assert (told[OURS], told[THEIRS], told["ratio"], told["met"]) == (30, 20, 1.5, True)
    assert told["rounds"] == {OURS: [30], THEIRS: [20]}


def test_rows_keep_their_order_however_they_were_measured():
    found = run(row([1], [1], name="late"), row([1], [1], name="old"), row([1], [1], name="early"))

    found.arrange(["early", "never", "late"])

    assert list(found.rows) == ["early", "late", "old"]


def test_kills_are_counted_apart_from_rounds():
    ordinary = Case("a", (), dict, seconds=1.0)
    kills = attrs.evolve(ordinary, of_kills=True)
    few = attrs.evolve(ordinary, rounds=1)

    assert [cases.rounds_of(case, SCALE, ours=True) for case in (ordinary, kills, few)] == [
        3,
        20,
        1,
    ]
    assert [cases.rounds_of(case, SCALE, ours=False) for case in (ordinary, kills, few)] == [
        3,
        2,
        1,
    ]


def test_quick_takes_the_cases_that_are_marked():
    slow = Case("slow", (Quantity("a", "s", "lower"),), dict, seconds=1.0)
    quick = attrs.evolve(slow, name="quick", quick=True)
    part = Part("part", (slow, quick))

    assert cases.wanted(part, SCALE) == [slow, quick]
    assert cases.wanted(part, attrs.evolve(SCALE, quick=True)) == [quick]


def a_run(tmp_path, measure, scale: Scale, found: Results | None = None) -> tuple[Run, Part]:
    """A run of one case of one part over both sides, and what it needs of clusters: nothing."""
    case = Case("case", (Quantity("x", "s", "lower"),), measure, seconds=10.0)
    part = Part("part", (case,))
    sides = [Zkafka(OURS, tmp_path), ApacheKafka(THEIRS)]
    found = found or Results(dict(HEADER))
    console = Console(quiet=True)
    whole = Run(sides, scale, [part], found, tmp_path / "latest.json", console, tmp_path)
    return whole, part


def contexts(whole: Run) -> dict[str, Context]:
    return {side.name: Context(side, whole.scale, fresh=None) for side in whole.sides}


def test_sides_are_measured_in_turn_and_kept_at_once(tmp_path):
    turns = []

    def measure(context: Context) -> dict[str, float]:
        turns.append(context.side.name)
        if len(turns) > 1:
            kept = Results.load(tmp_path / "latest.json").rows["case"]
            assert sum(len(rounds) for rounds in kept.rounds.values()) == len(turns) - 1
        return {"x": len(turns), "cpu_s": 0.5, "peak_mb": 40.0}

    whole, part = a_run(tmp_path, measure, SCALE)
    assert whole.estimate_seconds() == 60
    whole.measure(part, contexts(whole))

    assert not whole.failures
    assert turns == [OURS, THEIRS] * 3
    assert whole.results.rows["case"].rounds == {OURS: [1, 3, 5], THEIRS: [2, 4, 6]}
    assert whole.results.rows["case"].cpu_s == {OURS: [0.5] * 3, THEIRS: [0.5] * 3}
    assert not whole.missing(part)
    assert whole.estimate_seconds() == 0


def test_an_interrupted_run_goes_on_where_it_ended(tmp_path):
    turns = []

    def measure(context: Context) -> dict[str, float]:
        turns.append(context.side.name)
        return {"x": 9, "cpu_s": 0, "peak_mb": 0}

    before = Results(dict(HEADER))
    before.rows["case"] = Row("case", "s", "lower", "part", rounds={OURS: [1, 2], THEIRS: [1]})
    whole, part = a_run(tmp_path, measure, SCALE, before)
    assert whole.missing(part)
    assert whole.estimate_seconds() == 30
    whole.measure(part, contexts(whole))

    assert turns == [THEIRS, OURS, THEIRS]
    assert whole.results.rows["case"].rounds == {OURS: [1, 2, 9], THEIRS: [1, 9, 9]}


def test_a_measurement_that_fails_is_told_and_the_others_go_on(tmp_path):
    def measure(context: Context) -> dict[str, float]:
        if context.side.name == THEIRS:
            raise BenchError("it did not start")
        return {"x": 1, "cpu_s": 0, "peak_mb": 0}

    whole, part = a_run(tmp_path, measure, attrs.evolve(SCALE, rounds=2))
    whole.measure(part, contexts(whole))

    assert whole.results.rows["case"].rounds == {OURS: [1, 1]}
    assert whole.failures == ["case, kafka: BenchError: it did not start"] * 2
    assert whole.missing(part)


# ---------------------------------------------------------------------------------- compare


@pytest.mark.parametrize(
    ("old", "new", "better", "verdict"),
    [
        ([10, 11], [12, 13], "higher", "better"),
        ([10, 11], [12, 13], "lower", "worse"),
        ([12, 13], [10, 11], "higher", "worse"),
        ([10, 12], [11, 13], "higher", ""),
        ([10], [20], "higher", ""),
    ],
)
def test_a_change_counts_when_rounds_do_not_overlap(old, new, better, verdict):
    [change] = compare.changes(run(row(old, [5], better)), run(row(new, [10], better)))

    assert change.verdict == verdict
    assert change.control == 2


def test_only_what_both_have_measured_is_compared():
    old = run(row([1], [1]), row([], [1], name="b"))
    new = run(row([2], [1]), row([2], [1], name="b"), row([2], [1], name="c"))

    assert [change.new.name for change in compare.changes(old, new)] == ["a"]


def test_two_builds_of_one_run_are_compared():
    both = row([20, 21], [1])
    both.rounds["old"] = [10, 11]

    [change] = compare.changes(run(both), run(both), "old", OURS)

    assert change.verdict == "better"
    assert change.factor == pytest.approx(20.5 / 10.5)


# ---------------------------------------------------------------------------------- the README


def test_the_table_shows_headlines_and_says_what_is_behind():
    hidden = attrs.evolve(row([9], [10], name="hidden"), headline=False)
    text = report.markdown(run(row([20, 22], [10], goal=Goal(1.3), name="good"), hidden))

    assert "| good | 21 (20-22) MB/s | 10 | 2.1 | >= 1.3x | yes |" in text
    assert "| hidden" not in text
    assert "Where Apache Kafka is better: hidden (9 MB/s beside 10)." in text


def test_a_missed_goal_is_said():
    text = report.markdown(run(row([12], [10], goal=Goal(1.3))))

    assert "Goals that are missed: a (12 MB/s beside 10, goal >= 1.3x)." in text
    assert "Where Apache Kafka is better" not in text


def test_the_table_stands_between_the_markers():
    text = "before\n<!-- bench -->\nold\n<!-- /bench -->\nafter\n"

    assert report.with_table(text, "new\n") == text.replace("old", "new")
    with pytest.raises(ValueError, match="markers"):
        report.with_table("nothing", "new")


def test_the_published_table_is_the_published_json():
    readme = report.README.read_text()

    published = report.markdown(Results.load(report.PUBLISHED))

    assert report.with_table(readme, published) == readme, "run: bench/report --readme"
    assert chart.draw(Results.load(report.PUBLISHED)) == report.CHART.read_text()


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1360.4, "1,360"), (45.66, "45.7"), (0.4249, "0.425"), (0, "0"), (None, "-")],
)
def test_figures_have_three_digits(value, shown):
    assert results.figure(value) == shown


# ---------------------------------------------------------------------------------- the chart


def elements(picture: str, name: str) -> list[ElementTree.Element]:
    return ElementTree.fromstring(picture).findall(f"{{http://www.w3.org/2000/svg}}{name}")


def test_a_bar_ends_where_its_factor_lies():
    scale = chart.Scale([0.5, 4.0])

    assert scale.x(0.5) == chart.LABELS
    assert scale.x(4) == chart.LABELS + chart.BARS
    assert scale.x(1) - scale.x(0.5) == pytest.approx(scale.x(2) - scale.x(1))
    assert scale.ticks() == [0.5, 1, 2, 4]


def test_one_is_a_tick_of_every_scale():
    for factors in ([], [1.0], [0.001], [5000.0], [0.01, 900.0]):
        scale = chart.Scale(factors)
        assert 1.0 in scale.ticks()
        assert len(scale.ticks()) <= 9


def test_the_chart_has_a_bar_for_each_headline_that_both_have():
    good = row([20], [10], goal=Goal(1.3), name="good & quick")
    bad = row([20], [10], "lower", name="bad")
    picture = chart.draw(run(good, bad, row([1], [], name="unfinished")))

    bars = [bar for bar in elements(picture, "rect") if bar.get("class") != "page"]
    assert [bar.get("class") for bar in bars] == ["better", "worse"]
    texts = [text.text for text in elements(picture, "text")]
    assert "good & quick" in texts
    assert "20 : 10 MB/s" in texts
    assert {"1/2x", "1x", "2x"} <= set(texts)
    assert "unfinished" not in texts
    goals = [line for line in elements(picture, "line") if line.get("class") == "goal"]
    assert len(goals) == 1


def test_nothing_is_drawn_outside_the_picture():
    picture = chart.draw(run(row([1000], [0.1], name="far"), row([0.1], [1000], name="behind")))

    root = ElementTree.fromstring(picture)
    width, height = float(root.get("width")), float(root.get("height"))
    for bar in elements(picture, "rect"):
        assert float(bar.get("x", 0)) >= 0
        assert float(bar.get("x", 0)) + float(bar.get("width")) <= width
        assert float(bar.get("y", 0)) + float(bar.get("height")) <= height


# ---------------------------------------------------------------------------------- Kafka's tools


def test_producer_performance_is_read_from_its_last_line():
    output = (
        "5001 records sent, 1000.2 records/sec (0.95 MB/sec), 1.5 ms avg latency, 9.0 ms max.\n"
        "500000 records sent, 98425.196850 records/sec (93.87 MB/sec), 3.42 ms avg latency, "
        "301.00 ms max latency, 1 ms 50th, 15 ms 95th, 40 ms 99th, 60 ms 99.9th.\n"
    )

    assert loads.producer_performance(output) == {"records_s": 98425.19685, "p99": 40.0}
    with pytest.raises(BenchError, match="said: nothing"):
        loads.producer_performance("nothing")


def test_consumer_performance_is_read_without_its_rebalancing():
    output = (
        "2025-01-01 00:00:00:000, 2025-01-01 00:00:03:000, 953.6743, 317.8914, 1000000, "
        "333333.3333, 400, 2600, 366.7978, 384615.3846\n"
    )

    assert loads.consumer_performance(output) == 384615.3846
    with pytest.raises(BenchError, match="said"):
        loads.consumer_performance("WARN, nothing\n")


def test_end_to_end_latency_is_read():
    output = "0\t5.1\nAvg latency: 1.2345 ms\n\nPercentiles: 50th = 1, 99th = 4, 99.9th = 9\n"

    assert loads.end_to_end_latency(output) == 1.2345
    with pytest.raises(BenchError, match="said"):
        loads.end_to_end_latency("")


# ---------------------------------------------------------------------------------- the real list


def test_names_are_unique():
    names = [case.name for part in PARTS for case in part.cases]

    assert len(set(names)) == len(names)
    assert len({part.name for part in PARTS}) == len(PARTS)
    for part in PARTS:
        for case in part.cases:
            keys = [quantity.key for quantity in case.quantities]
            assert len(set(keys)) == len(keys)
            assert len({quantity.name for quantity in case.quantities}) == len(keys)
