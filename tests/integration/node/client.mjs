// A client of Podium in Node, made from proto/ at run time by @grpc/proto-loader: no generated code, no SDK.
//
//   echo '["one text", "another"]' | node client.mjs ADDRESS WORKLOAD
//
// The token comes from PODIUM_TOKEN. Prints one JSON object: {"job_id", "dimension", "vectors": [[...], ...]}, with
// null for an item that failed.
import { randomUUID } from "node:crypto";
import { dirname, join } from "node:path";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const PROTO = join(dirname(fileURLToPath(import.meta.url)), "..", "..", "..", "proto");
const DEADLINE_MS = 60_000;

function connect(address) {
  const definition = protoLoader.loadSync("podium/gateway/v1/gateway.proto", {
    includeDirs: [PROTO],
    keepCase: true,
    enums: String,
    oneofs: true,
    defaults: true,
  });
  const { GatewayService } = grpc.loadPackageDefinition(definition).podium.gateway.v1;
  return new GatewayService(address, grpc.credentials.createInsecure());
}

function submit(gateway, metadata, workload, texts) {
  const request = {
    request_id: randomUUID(),
    workload,
    texts: { items: texts.map((text) => ({ text })) },
  };
  const options = { deadline: Date.now() + DEADLINE_MS };
  return new Promise((resolve, reject) => {
    gateway.SubmitBatch(request, metadata, options, (error, response) => (error ? reject(error) : resolve(response.job)));
  });
}

// Rows of little-endian float32; DataView reads that order whatever the machine's own.
function rows(chunk) {
  const view = new DataView(chunk.vectors.buffer, chunk.vectors.byteOffset, chunk.vectors.byteLength);
  return Array.from({ length: chunk.count }, (_, row) =>
    Array.from({ length: chunk.dimension }, (_, column) => view.getFloat32(4 * (row * chunk.dimension + column), true)),
  );
}

async function vectorsOf(gateway, metadata, job, count) {
  const vectors = new Array(count).fill(null);
  let dimension = 0;
  let ended = false;
  const stream = gateway.StreamResults({ job_id: job.job_id }, metadata, { deadline: Date.now() + DEADLINE_MS });
  for await (const message of stream) {
    if (message.result === "chunk") {
      const { chunk } = message;
      if (chunk.dtype !== "DTYPE_FLOAT32") throw new Error(`unexpected ${chunk.dtype}`);
      const failed = new Set(chunk.errors.map((error) => error.item_index));
      const found = rows(chunk)[Symbol.iterator]();
      for (let item = chunk.first_item; item < chunk.first_item + chunk.item_count; item++) {
        if (!failed.has(item)) vectors[item] = found.next().value;
      }
      dimension = chunk.dimension;
    }
    ended ||= message.result === "end";
  }
  if (!ended) throw new Error("the stream ended without its last message");
  return { dimension, vectors };
}

const [address, workload] = process.argv.slice(2);
const texts = JSON.parse(await text(process.stdin));
const metadata = new grpc.Metadata();
metadata.set("authorization", `Bearer ${process.env.PODIUM_TOKEN}`);
const gateway = connect(address);
try {
  const job = await submit(gateway, metadata, workload, texts);
  const result = await vectorsOf(gateway, metadata, job, texts.length);
  console.log(JSON.stringify({ job_id: job.job_id, ...result }));
} finally {
  gateway.close();
}
