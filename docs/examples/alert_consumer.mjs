// SPDX-License-Identifier: Apache-2.0
// Tell when one address gets 500 SYNs in a second that no handshake follows.
//
// Needs `npm install kafkajs @msgpack/msgpack fzstd`, and no part of Hookline.
// Usage: node alert_consumer.mjs HOST:PORT [GROUP]
import { decode } from "@msgpack/msgpack";
import { decompress } from "fzstd";
import kafkajs from "kafkajs";

const LIMIT = 500;
const [INGRESS, TCP, SYN, ACK] = [1, 6, 2, 16];
const TYPES = { "|u1": Uint8Array, "<u2": Uint16Array, "<u4": Uint32Array,
                "<u8": BigUint64Array, "<i8": BigInt64Array };

// kafkajs comes without zstd, in which agents publish; reading needs only half of it.
const { CompressionCodecs, CompressionTypes, Kafka, logLevel } = kafkajs;
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: async () => { throw new Error("this program only reads"); },
  decompress: async (buffer) => Buffer.from(decompress(buffer)),
});

// The numbers of one column.  They are copied to where a typed array may begin.
const column = (record, name) => {
  const [type, content] = record.cols[name];
  return new TYPES[type](Uint8Array.from(content).buffer);
};

const addressAt = (record, name, row) => {
  const octets = Buffer.from(record.cols[name][1].subarray(16 * row, 16 * row + 16));
  const isIPv4 = octets.subarray(0, 12).equals(Buffer.from("00000000000000000000ffff", "hex"));
  return isIPv4 ? octets.subarray(12).join(".") : octets.toString("hex").match(/.{4}/g).join(":");
};

const counts = new Map(); // by address and second

function count(record) {
  const [times, ways, protocols, flags, packets] =
    ["time", "direction", "protocol", "tcp_flags", "packets"].map((name) => column(record, name));
  let newest = 0;
  for (let row = 0; row < record.n; row++) {
    if (ways[row] !== INGRESS || protocols[row] !== TCP || (flags[row] & (SYN | ACK)) !== SYN) continue;
    const target = addressAt(record, "dst_addr", row);
    const second = Number(times[row] / 1_000_000_000n);
    const before = counts.get(`${second} ${target}`) ?? 0;
    const syns = before + Number(packets[row]);
    counts.set(`${second} ${target}`, syns);
    newest = Math.max(newest, second);
    if (before < LIMIT && syns >= LIMIT) console.log(`SYN flood on ${target}`);
  }
  for (const key of counts.keys()) if (parseInt(key) < newest - 60) counts.delete(key);
}

const [kafka, group = "my-alerts"] = process.argv.slice(2);
const consumer = new Kafka({ brokers: [kafka], logLevel: logLevel.WARN }).consumer({ groupId: group });
await consumer.connect();
await consumer.subscribe({ topic: "hookline.flow.v1" });
await consumer.run({ eachMessage: async ({ message }) => count(decode(message.value)) });
