// The client journey with franz-go: go run . BOOTSTRAP TOPIC, prints one JSON line (see ../journey.md).
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	perCodec = 20
	later    = 10
)

func check(err error, what string) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", what, err)
		os.Exit(1)
	}
}

// member is one consumer of a group: what it saw, and how many partitions it holds.
type member struct {
	client *kgo.Client
	mu     sync.Mutex
	held   map[int32]bool
}

func (m *member) share() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.held)
}

type journey struct {
	seeds []string
	topic string
	mu    sync.Mutex
	seen  []string
}

func (j *journey) join(ctx context.Context, group string, sink *[]string) *member {
	m := &member{held: map[int32]bool{}}
	hold := func(held bool) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, moved map[string][]int32) {
			m.mu.Lock()
			defer m.mu.Unlock()
			for _, partition := range moved[j.topic] {
				if held {
					m.held[partition] = true
				} else {
					delete(m.held, partition)
				}
			}
		}
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(j.seeds...), kgo.ConsumerGroup(group), kgo.ConsumeTopics(j.topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit(),
		kgo.OnPartitionsAssigned(hold(true)), kgo.OnPartitionsRevoked(hold(false)), kgo.OnPartitionsLost(hold(false)),
		kgo.HeartbeatInterval(300*time.Millisecond),
	)
	check(err, "consumer")
	m.client = client
	go func() {
		for {
			fetches := client.PollFetches(ctx)
			if fetches.IsClientClosed() || ctx.Err() != nil {
				return
			}
			fetches.EachError(func(_ string, _ int32, err error) { check(err, "fetch") })
			j.mu.Lock()
			fetches.EachRecord(func(r *kgo.Record) { *sink = append(*sink, string(r.Value)) })
			j.mu.Unlock()
		}
	}()
	return m
}

func (j *journey) until(ctx context.Context, what string, holds func() bool) {
	for !holds() {
		if ctx.Err() != nil {
			check(ctx.Err(), what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (j *journey) distinct(values *[]string) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	set := map[string]bool{}
	for _, value := range *values {
		set[value] = true
	}
	return len(set)
}

func produce(ctx context.Context, seeds []string, topic, prefix string, count int, codec kgo.CompressionCodec) {
	client, err := kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.ProducerBatchCompression(codec))
	check(err, "producer")
	defer client.Close()
	records := make([]*kgo.Record, count)
	for i := range records {
		records[i] = &kgo.Record{
			Topic: topic, Key: []byte(fmt.Sprintf("k%d", i)), Value: []byte(fmt.Sprintf("%s-%d", prefix, i)),
		}
	}
	check(client.ProduceSync(ctx, records...).FirstErr(), "produce "+prefix)
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Second)
	defer cancel()
	j := &journey{seeds: strings.Split(os.Args[1], ","), topic: os.Args[2]}

	plain, err := kgo.NewClient(kgo.SeedBrokers(j.seeds...))
	check(err, "admin")
	admin := kadm.NewClient(plain)
	created, err := admin.CreateTopic(ctx, 3, 3, nil, j.topic)
	check(err, "create topic")
	check(created.Err, "create topic")

	first := j.join(ctx, "g-"+j.topic, &j.seen)
	j.until(ctx, "the first member gets every partition", func() bool { return first.share() == 3 })
	second := j.join(ctx, "g-"+j.topic, &j.seen)
	j.until(ctx, "the rebalance shares them out", func() bool {
		return first.share() > 0 && second.share() > 0 && first.share()+second.share() == 3
	})

	codecs := []struct {
		name  string
		codec kgo.CompressionCodec
	}{
		{"none", kgo.NoCompression()}, {"gzip", kgo.GzipCompression()}, {"snappy", kgo.SnappyCompression()},
		{"lz4", kgo.Lz4Compression()}, {"zstd", kgo.ZstdCompression()},
	}
	for _, c := range codecs {
		produce(ctx, j.seeds, j.topic, c.name, perCodec, c.codec)
	}
	j.until(ctx, "everything is consumed", func() bool { return j.distinct(&j.seen) >= 5*perCodec })
	shares := []int{first.share(), second.share()}
	for _, m := range []*member{first, second} {
		check(m.client.CommitUncommittedOffsets(ctx), "commit")
	}
	for _, m := range []*member{first, second} { // whoever leaves has the others join anew
		m.client.LeaveGroup()
		m.client.Close()
	}

	time.Sleep(20 * time.Millisecond) // the clock the records carry must move on
	between := time.Now().UnixMilli()
	time.Sleep(20 * time.Millisecond)
	produce(ctx, j.seeds, j.topic, "later", later, kgo.NoCompression())

	var resumed []string
	third := j.join(ctx, "g-"+j.topic, &resumed)
	j.until(ctx, "the group resumes", func() bool { return j.distinct(&resumed) >= later })
	check(third.client.CommitUncommittedOffsets(ctx), "commit")
	third.client.Close()

	listed, err := admin.ListOffsetsAfterMilli(ctx, between, j.topic)
	check(err, "offsets by time")
	check(listed.Error(), "offsets by time")
	starts := map[int32]kgo.Offset{}
	listed.Each(func(o kadm.ListedOffset) { starts[o.Partition] = kgo.NewOffset().At(o.Offset) })
	reader, err := kgo.NewClient(kgo.SeedBrokers(j.seeds...), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{j.topic: starts}))
	check(err, "reader")
	var byTime []string
	for len(byTime) < later {
		fetches := reader.PollFetches(ctx)
		check(ctx.Err(), "seek by time")
		fetches.EachRecord(func(r *kgo.Record) { byTime = append(byTime, string(r.Value)) })
	}
	reader.Close()
	plain.Close()

	check(json.NewEncoder(os.Stdout).Encode(map[string]any{
		"seen": j.seen, "shares": shares, "resumed": resumed, "by_time": byTime,
	}), "report")
}
