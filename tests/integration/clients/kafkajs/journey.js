// The client journey with kafkajs: node journey.js BOOTSTRAP TOPIC, prints one JSON line (see ../journey.md).
const { Kafka, CompressionTypes, CompressionCodecs, logLevel } = require('kafkajs')
const lz4 = require('lz4-napi')
const snappy = require('snappyjs')
const { ZstdCodec } = require('zstd-codec')

const [bootstrap, topic] = process.argv.slice(2)
const PER_CODEC = 20
const LATER = 10

const zstd = new Promise((resolve) => ZstdCodec.run((z) => resolve(new z.Simple())))
CompressionCodecs[CompressionTypes.Snappy] = () => ({
  compress: async (encoder) => Buffer.from(snappy.compress(encoder.buffer)),
  decompress: async (buffer) => Buffer.from(snappy.uncompress(buffer)),
})
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: async (encoder) => lz4.compressFrame(encoder.buffer),
  decompress: async (buffer) => lz4.decompressFrame(buffer),
})
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: async (encoder) => Buffer.from((await zstd).compress(encoder.buffer)),
  decompress: async (buffer) => Buffer.from((await zstd).decompress(buffer)),
})

const kafka = new Kafka({ clientId: 'journey', brokers: bootstrap.split(','), logLevel: logLevel.ERROR })

function until(condition, what) {
  return new Promise((resolve, reject) => {
    const started = Date.now()
    const timer = setInterval(() => {
      if (condition()) { clearInterval(timer); resolve() }
      if (Date.now() - started > 180000) { clearInterval(timer); reject(new Error('timed out: ' + what)) }
    }, 20)
  })
}

async function member(groupId, values, onAssigned = () => {}) {
  const consumer = kafka.consumer({ groupId, sessionTimeout: 10000, heartbeatInterval: 300, maxWaitTimeInMs: 300, allowAutoTopicCreation: false })
  consumer.on(consumer.events.GROUP_JOIN, (event) => onAssigned(event.payload.memberAssignment[topic] || []))
  await consumer.connect()
  await consumer.subscribe({ topic, fromBeginning: true })
  await consumer.run({ eachMessage: async ({ message }) => { values.push(message.value.toString()) } })
  return consumer
}

async function main() {
  const admin = kafka.admin()
  await admin.connect()
  await admin.createTopics({ topics: [{ topic, numPartitions: 3, replicationFactor: 3 }], waitForLeaders: true })

  const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1 })
  await producer.connect()
  const seen = []
  const shares = {}
  const first = await member('g-' + topic, seen, (partitions) => { shares.first = partitions.length })
  await until(() => shares.first === 3, 'the first member gets every partition')
  const second = await member('g-' + topic, seen, (partitions) => { shares.second = partitions.length })
  await until(() => shares.first + shares.second === 3 && shares.first > 0 && shares.second > 0, 'the rebalance shares them out')
  const held = [shares.first, shares.second]

  const codecs = { none: CompressionTypes.None, gzip: CompressionTypes.GZIP, snappy: CompressionTypes.Snappy, lz4: CompressionTypes.LZ4, zstd: CompressionTypes.ZSTD }
  for (const [name, compression] of Object.entries(codecs)) {
    const messages = Array.from({ length: PER_CODEC }, (_, i) => ({ key: `k${i}`, value: `${name}-${i}` }))
    await producer.send({ topic, compression, acks: -1, messages })
  }
  await until(() => new Set(seen).size >= 5 * PER_CODEC, 'everything is consumed')
  await first.commitOffsets([])
  await first.stop(); await second.stop()
  await first.disconnect(); await second.disconnect()

  await new Promise((resolve) => setTimeout(resolve, 20)) // the clock the records carry must move on
  const between = Date.now()
  await new Promise((resolve) => setTimeout(resolve, 20))
  await producer.send({ topic, acks: -1, messages: Array.from({ length: LATER }, (_, i) => ({ key: `k${i}`, value: `later-${i}` })) })

  const resumed = []
  const third = await member('g-' + topic, resumed)
  await until(() => resumed.length >= LATER, 'the group resumes')
  await third.stop(); await third.disconnect()

  const byTime = []
  const offsets = await admin.fetchTopicOffsetsByTimestamp(topic, between)
  const fourth = kafka.consumer({ groupId: 't-' + topic, maxWaitTimeInMs: 300, allowAutoTopicCreation: false })
  await fourth.connect()
  await fourth.subscribe({ topic, fromBeginning: true })
  await fourth.run({ eachMessage: async ({ message }) => { byTime.push(message.value.toString()) } })
  for (const { partition, offset } of offsets) fourth.seek({ topic, partition, offset })
  await until(() => byTime.filter((value) => value.startsWith('later')).length >= LATER, 'seek by time')
  await fourth.stop(); await fourth.disconnect()

  await producer.disconnect()
  await admin.disconnect()
  console.log(JSON.stringify({ seen, shares: held, resumed, by_time: byTime }))
}

main().catch((error) => { console.error(error); process.exit(1) })
